"""Addresses that people give."""

from rrrnet.errors import UsageError

MAX_PORT = 65535


def check_address(address: str, name: str) -> None:
    """Check that `address` is HOST:PORT.

    Raises:
        UsageError: it is not; names the setting or flag `name`.
    """
    host, separator, port = address.rpartition(":")
    if not (host and separator and port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT) or "/" in host:
        raise UsageError(f"{name} is {address!r}: expected HOST:PORT of Triton's gRPC, such as 127.0.0.1:8001")


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
