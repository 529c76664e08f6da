"""Where Triton's gRPC is, in gRPC's own words, a *target*: one server, a list of them, or a name of many.

    HOST:PORT                        one
    ipv4:10.0.0.1:8001,10.0.0.2:8001 several (ipv6: likewise)
    dns:///NAME:PORT                 every address that the name has

gRPC has no target of several names.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

from rrrnet.errors import UsageError
from rrrserve.net.addresses import check_address

_NAME = "dns:///"
_LISTS = {4: "ipv4:", 6: "ipv6:"}


def target_of(option: str, urls: Iterable[str]) -> str:
    """The target of what was given.

    Several names that were looked up here, once and for all, would lead nowhere when a server comes back at another
    address.

    Args:
        option: that they were given by.
        urls: HOST:PORT, once or, with IP addresses, several times; or one dns:///NAME:PORT.

    Raises:
        UsageError: they are something else.
    """
    given = tuple(dict.fromkeys(urls))
    for url in given:
        check_address(url, option, prefix=_NAME)
    if len(given) == 1:
        return given[0]
    versions = {_ip_version(url) for url in given}
    if len(versions) != 1 or None in versions:
        raise UsageError(
            f"{option} is given {len(given)} times, as {' and '.join(map(repr, given))}: several Tritons are given by "
            "IP addresses of one version, such as 10.0.0.1:8001 and 10.0.0.2:8001, or together by one name that has "
            "the addresses of all of them, dns:///NAME:PORT"
        )
    return _LISTS[versions.pop() or 4] + ",".join(given)


def is_several(target: str) -> bool:
    """Whether a target may be more than one server."""
    return target.startswith((_NAME, *_LISTS.values()))


def in_words(target: str) -> str:
    """A target as people are told of it."""
    if target.startswith(_NAME):
        return f"the Tritons at {target}"
    return f"Tritons at {target[5:].replace(',', ', ')}" if is_several(target) else f"Triton at {target}"


async def addresses_of(target: str) -> set[str]:
    """IP:PORT of each server of a target that may be several.

    Raises:
        OSError: its name has no address.
    """
    if not target.startswith(_NAME):
        return set(target.partition(":")[2].split(","))
    host, _, port = target.removeprefix(_NAME).rpartition(":")
    found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    # A server that has an address of each version is one server: that of IPv4 stands for it.
    version = min(family == socket.AF_INET6 for family, *_ in found)
    addresses = {str(address[0]) for family, *_, address in found if (family == socket.AF_INET6) == version}
    return {f"[{address}]:{port}" if version else f"{address}:{port}" for address in addresses}


def _ip_version(url: str) -> int | None:
    """4 or 6; None where the host is a name."""
    try:
        return ipaddress.ip_address(url.rpartition(":")[0].strip("[]")).version
    except ValueError:
        return None
