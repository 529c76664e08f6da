"""The page at / and the samples of a repository. The page holds nothing but itself: what it shows it asks for, by /v1.

Its files and the samples are kept by browsers and asked for again by their ETag: a service that was updated shows no
page of the version before.
"""

import asyncio
import hashlib
import mimetypes
from collections.abc import Sequence
from pathlib import Path

from rrrbuild.samples import Sample
from rrrnet.images.image_formats import image_format
from rrrserve.api.endpoint import Exchange, Reply, to_json
from rrrserve.api.errors import APIError
from rrrserve.api.gateways import below_root

FOLDER = Path(__file__).parent / "static"
_PAGE = "index.html"
FILES = frozenset({_PAGE, "page.css", "page.js"})
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


async def page(exchange: Exchange) -> Reply:
    """The page, or one of the files that it loads."""
    name = exchange.scope["path_params"].get("file", _PAGE)
    if name not in FILES:
        raise APIError("not_found", "no such file of the page")
    body = await asyncio.to_thread((FOLDER / name).read_bytes)
    if name == _PAGE:
        body = below_root(body, exchange.scope)
    return _unless_known(exchange, body, mimetypes.guess_type(name)[0] or "", _HEADERS)


def sample_list(samples: Sequence[Sample]) -> Reply:
    """Number, right label and model of each."""
    told = [{"number": number, "label": sample.label, "model": sample.model} for number, sample in enumerate(samples)]
    return Reply(to_json({"samples": told}))


async def sample(exchange: Exchange, samples: Sequence[Sample]) -> Reply:
    """The image of a number.

    Raises:
        APIError: `not_found`.
    """
    number = exchange.scope["path_params"]["number"]
    if number >= len(samples):
        raise APIError("not_found", f"no such sample here: GET /v1/samples lists {len(samples)}")
    body = await asyncio.to_thread(samples[number].path.read_bytes)
    kind = f"image/{(image_format(body) or '').lower()}"
    return _unless_known(exchange, body, kind, {"X-Content-Type-Options": "nosniff"})


def _unless_known(exchange: Exchange, body: bytes, content_type: str, headers: dict[str, str]) -> Reply:
    """The body, or 304 where the client names its ETag."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {**headers, "ETag": tag, "Cache-Control": "no-cache"}
    known = tag in exchange.headers.get(b"if-none-match", b"").decode("latin-1")
    return Reply(b"" if known else body, 304 if known else 200, content_type, headers)
