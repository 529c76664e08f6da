"""Addresses of services, as options name them."""

import httpx

from rrrnet.errors import UsageError

MAX_PORT = 65535


def check_url(option: str, url: str) -> None:
    """Check the form of an address.

    Raises:
        UsageError: neither http://HOST:PORT nor https://HOST:PORT.
    """
    try:
        parsed = httpx.URL(url)
        parsed.host.encode("idna")  # looking a name up would raise it in the midst of things
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UsageError(f"{option} is {url!r}: {error}; expected http://HOST:PORT or https://HOST:PORT") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{option} is {url!r}: expected http://HOST:PORT or https://HOST:PORT")
    if parsed.port is not None and not 1 <= parsed.port <= MAX_PORT:
        raise UsageError(f"{option} is {url!r}: a port is from 1 to {MAX_PORT}")
