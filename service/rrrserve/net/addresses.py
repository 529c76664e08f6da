"""Addresses that people give."""

from rrrnet.errors import UsageError


def check_address(address: str, name: str) -> None:
    """Check that `address` is HOST:PORT.

    Raises:
        UsageError: it is not; names the setting or flag `name`.
    """
    host, separator, port = address.rpartition(":")
    if not (host and separator and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535) or "/" in host:
        raise UsageError(f"{name} is {address!r}: expected HOST:PORT of Triton's gRPC, such as 127.0.0.1:8001")
