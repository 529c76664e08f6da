"""Scrapes: reading `/metrics` of running services."""

import asyncio
import time
from collections.abc import Callable, Sequence

import httpx

from rrrserve.evidence.blocks import Span
from rrrserve.evidence.continuity import REPOSITORY
from rrrserve.evidence.measured import LABEL
from rrrserve.evidence.readings import Reading, Series, parse
from rrrserve.net import tls
from rrrserve.net.addresses import check_url

_TIMEOUT_SECONDS = 10.0
_BLOCKS = 30
_MIN_BLOCK_SECONDS = 0.25
OURS, TRITONS = "/metrics", "/metrics/triton"


class Scraper:
    """Reads the metrics of several services together.

    Attributes:
        urls: of the services.
        repositories: short digests that each told so far which repository it serves; "" for an answer without.
    """

    def __init__(self, client: httpx.AsyncClient, urls: Sequence[str], *, triton: bool) -> None:
        """Args: `triton` reads Triton's own metrics too."""
        self.urls = tuple(dict.fromkeys(url.rstrip("/").removesuffix(OURS) for url in urls))
        for url in self.urls:
            check_url("--scrape", url)
        self.repositories: dict[str, set[str]] = {url: set() for url in self.urls}
        self._client = client
        self._paths = (OURS, TRITONS) if triton else (OURS,)

    async def read(self) -> Reading:
        """All counters now. A service that does not answer is in `down`.

        Raises:
            UndecidableError: an answer is not in Prometheus's format.
        """
        values: dict[Series, float] = {}
        down: dict[str, str] = {}
        for url in self.urls:
            for path in self._paths:
                try:
                    answer = await self._client.get(url + path, timeout=_TIMEOUT_SECONDS)
                    answer.raise_for_status()
                except httpx.HTTPStatusError as error:
                    if path == OURS:
                        down[url] = f"GET {url}{path} {refusal(error.response.status_code)}"
                except httpx.HTTPError as error:
                    down[url] = f"GET {url}{path} failed {why(error)}"
                    break
                else:
                    found = parse(answer.text, url)
                    values |= found
                    if path == OURS:
                        told = {dict(labels).get(LABEL, "") for name, labels in found if name == REPOSITORY}
                        self.repositories[url] |= told or {""}
        return Reading(time.monotonic(), values, down)


def why(error: httpx.HTTPError) -> str:
    """The reason of a service's silence, in brackets or after a colon, and what to do."""
    reason = tls.failure(error)
    return (
        f"({str(error) or type(error).__name__}): is it running? rrr serve" if reason is None else f"over TLS: {reason}"
    )


def refusal(status: int) -> str:
    """What an HTTP status that is no success tells, for a message, with what to do about it."""
    return f"answered {status}" + (": --token-file FILE or RRR_TOKEN gives its token" if status == 401 else "")


async def watch(scraper: Scraper, seconds: float, report: Callable[[float], None]) -> list[Span]:
    """Scrape at even times while others send the traffic.

    Args:
        scraper: reads.
        seconds: how long.
        report: told the seconds that have passed.

    Raises:
        UndecidableError: an answer is not in Prometheus's format.
    """
    blocks = max(1, min(_BLOCKS, int(seconds / _MIN_BLOCK_SECONDS)))
    start = time.monotonic()
    spans: list[Span] = []
    last = await scraper.read()
    for index in range(1, blocks + 1):
        if last.down and not last.values:
            break
        report(time.monotonic() - start)
        await asyncio.sleep(max(0.0, start + index * seconds / blocks - time.monotonic()))
        now = await scraper.read()
        spans.append(Span(last, now, now.time_seconds - last.time_seconds))
        last = now
    return spans or [Span(last, last, 0.0)]
