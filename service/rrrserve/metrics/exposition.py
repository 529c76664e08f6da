"""A scrape in the format and the encoding that it asks for."""

import gzip
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

CONTENT_TYPE = CONTENT_TYPE_LATEST
_OPENMETRICS = "application/openmetrics-text"
# Of the text of histograms nearly as small as by the highest level, in a third of its time.
_GZIP_LEVEL = 4


class Scrape(NamedTuple):
    """A scrape's body and header fields."""

    body: bytes
    content_type: str
    headers: dict[str, str]


def scrape(registry: CollectorRegistry, *, accept: bytes = b"", accept_encoding: bytes = b"") -> Scrape:
    """All metrics as text.

    Args:
        registry: of the metrics.
        accept: the request's header Accept: OpenMetrics 1.0.0 where it prefers that, else Prometheus's own format.
        accept_encoding: the request's header Accept-Encoding: gzip where it allows that.
    """
    wanted = qualities(accept)
    if wanted.get(_OPENMETRICS, 0.0) > 0 and wanted[_OPENMETRICS] >= wanted.get("text/plain", 0.0):
        body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        content_type = openmetrics.CONTENT_TYPE_LATEST
    else:
        body, content_type = generate_latest(registry), CONTENT_TYPE
    headers = {"Vary": "Accept, Accept-Encoding"}
    if qualities(accept_encoding).get("gzip", 0.0) > 0:
        body = gzip.compress(body, _GZIP_LEVEL)
        headers["Content-Encoding"] = "gzip"
    return Scrape(body, content_type, headers)


def qualities(header: bytes) -> dict[str, float]:
    """What a header such as Accept lists, each with its highest quality; one that is no number counts as 0."""
    found: dict[str, float] = {}
    for item in header.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        given = [part.partition("=")[2] for part in parameters if part.partition("=")[0].strip() == "q"]
        found[name] = max(found.get(name, 0.0), _number(given[0]) if given else 1.0)
    return found


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 <= value <= 1 else 0.0
