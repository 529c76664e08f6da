"""Bind the address that the service is reached at, before anything is started."""

import contextlib
import ctypes
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator, Mapping

from rrrnet.errors import UsageError

BACKLOG = 2048
_SO_ATTACH_FILTER = 26
# Classic BPF over a TCP header: (operation, jump if true, jump if false, operand) of each instruction.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x45, 0, 1, 0x02),  # is SYN set?
    (0x06, 0, 0, 0),  # yes: drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # no: let it pass
)


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening TCP socket.

    Args:
        host: an IP address, or localhost.
        port: 1024 to 65535, or 0 for any free one.
        option: that the port was given by.

    Raises:
        UsageError: the address is not allowed, not on this machine, or in use; names it.
    """
    family, address = _checked(host, port, option)
    with _told(address, port, option):
        return socket.create_server((address, port), family=family, backlog=BACKLOG)


def check_apart(ports: Mapping[str, int | None]) -> None:
    """Check that no two options name the same port.

    Args:
        ports: by option; None where it was not given, 0 for any free one.

    Raises:
        UsageError: two do.
    """
    taken: dict[int, str] = {}
    for option, port in ports.items():
        if port and taken.setdefault(port, option) != option:
            raise UsageError(f"{option} is {port}, which {taken[port]} has already: choose another {option}")


def reserve(host: str, port: int) -> socket.socket:
    """Take a port for processes that each listen at it with SO_REUSEPORT; the socket itself only holds it.

    Args:
        host: an IP address, or localhost.
        port: 1024 to 65535, or 0 for any free one.

    Raises:
        UsageError: see `listen`.
    """
    family, address = _checked(host, port, "--grpc-port")
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        with _told(address, port, "--grpc-port"):
            # As `create_server` does, or connections of the last service would keep the port for a minute.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            held.bind((address, port))
        # Only now: before, another service's port would have been shared instead of refused.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        held.close()
        raise
    return held


def _checked(host: str, port: int, option: str) -> tuple[socket.AddressFamily, str]:
    if port != 0 and not 1024 <= port <= 65535:
        raise UsageError(f"{option} is {port}: allowed are 1024 to 65535, or 0 for any free port")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise UsageError(f"--host is {host!r}: expected an IP address of this machine, or localhost") from error
    return socket.AF_INET if address.version == 4 else socket.AF_INET6, str(address)


@contextlib.contextmanager
def _told(address: str, port: int, option: str) -> Iterator[None]:
    """Errors of the operating system in words."""
    try:
        yield
    except OSError as error:
        reason = {
            errno.EADDRINUSE: f"is in use: stop what listens there, or choose another {option}",
            errno.EADDRNOTAVAIL: "is not an address of this machine: choose another --host",
            errno.EACCES: f"is not allowed for this user: choose another {option}",
        }.get(error.errno or 0, f"cannot be listened at ({error.strerror})")
        raise UsageError(f"{address} port {port} {reason}") from error


def admit_no_more(listener: socket.socket) -> None:
    """Let no further connection begin, while those that have begun can still be accepted, by any process.

    A socket that is closed with connections in its queue resets them, and with them requests that were sent already.
    With the first packet of each new connection dropped the queue runs empty; once the socket is closed, the client's
    kernel sends that packet again, and the connection is refused.
    """
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    buffer = ctypes.create_string_buffer(program, len(program))
    with contextlib.suppress(OSError):  # a kernel without filters: the queue is then only almost certainly empty
        listener.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(buffer))
        )


def address_of(held: socket.socket) -> str:
    """HOST:PORT of a socket."""
    host, port = held.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(listener: socket.socket, *, scheme: str = "http") -> str:
    """The URL at which this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not bound to
    host = loopback.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
