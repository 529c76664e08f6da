"""Addresses that people give."""

import re
from collections.abc import Iterable

from rrrnet.errors import UsageError

MAX_PORT = 65535

_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ROOT_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_ROUTES = ("/docs", "/metrics", "/v1", "/v2")  # below them there are routes, from which a prefix could not be told


def check_address(address: str, name: str, *, prefix: str = "") -> None:
    """Check that `address` is HOST:PORT, with or without a prefix.

    Raises:
        UsageError: it is not; names the setting or flag `name`.
    """
    host, separator, port = address.removeprefix(prefix).rpartition(":")
    if not (host and separator and port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT) or "/" in host:
        raise UsageError(
            f"{name} is {address!r}: expected HOST:PORT of Triton's gRPC, such as 127.0.0.1:8001, or "
            "dns:///NAME:PORT for all that a name stands for"
        )


def check_url(option: str, url: str) -> None:
    """Check the form of a service's address.

    Raises:
        UsageError: neither http://HOST:PORT nor https://HOST:PORT.
    """
    import httpx  # only the commands that ask a service need it

    try:
        parsed = httpx.URL(url)
        parsed.host.encode("idna")  # looking a name up would raise it in the midst of things
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UsageError(f"{option} is {url!r}: {error}; expected http://HOST:PORT or https://HOST:PORT") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{option} is {url!r}: expected http://HOST:PORT or https://HOST:PORT")
    if parsed.port is not None and not 1 <= parsed.port <= MAX_PORT:
        raise UsageError(f"{option} is {url!r}: a port is from 1 to {MAX_PORT}")


def origins_of(option: str, origins: Iterable[str]) -> tuple[str, ...]:
    """Origins as browsers write them in the header Origin: in lower case, without the port that goes without saying.

    Args:
        option: that they were given by.
        origins: https://HOST, https://HOST:PORT, the same with http, or `*` for any.

    Raises:
        UsageError: one of them is none.
    """
    return tuple(dict.fromkeys(_origin_of(option, origin) for origin in origins))


def _origin_of(option: str, text: str) -> str:
    if text == "*":
        return text
    found = _ORIGIN.fullmatch(text.lower())
    if found is None or not 1 <= int(found[3] or 1) <= MAX_PORT:
        raise UsageError(
            f"{option} is {text!r}: expected https://HOST or https://HOST:PORT of a page, without a path, "
            "such as https://app.example.com, or '*' for pages of any origin"
        )
    scheme, host, digits = found.groups()
    port = int(digits or _DEFAULT_PORTS[scheme])
    return f"{scheme}://{host}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"


def root_path_of(option: str, text: str) -> str:
    """A prefix of paths, without a slash at its end; empty for none.

    Raises:
        UsageError: it is no path, or one below which there are routes already.
    """
    path = text.rstrip("/")
    if path and not (_ROOT_PATH.fullmatch(path) and f"/{path.split('/')[1]}" not in _ROUTES):
        raise UsageError(
            f"{option} is {text!r}: expected a path such as /rrr, of letters, digits, . _ ~ or - between slashes, "
            f"which does not begin with {', '.join(_ROUTES[:-1])} or {_ROUTES[-1]}"
        )
    return path
