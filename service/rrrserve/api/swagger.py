"""Swagger UI at / and /docs: two files of ours, and those that BentoML brings along; nothing comes from elsewhere.

BentoML's own page is not shown: it loads a tag manager from the network.
"""

import asyncio
from importlib.util import find_spec
from pathlib import Path

from rrrserve.api.endpoint import Exchange, Reply
from rrrserve.api.errors import APIError

_PAGE = "index.html"
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css"}
_HEADERS = {
    # Swagger UI sets styles on its elements, and its icons are data: URLs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def _files() -> dict[str, Path]:
    ours = Path(__file__).parent / "swagger_ui"
    bentoml = find_spec("bentoml")  # without importing it
    if bentoml is None or bentoml.origin is None:
        raise ModuleNotFoundError("bentoml")
    theirs = Path(bentoml.origin).parent / "_internal" / "server" / "static_content"
    return {name: ours / name for name in (_PAGE, "start.js")} | {
        name: theirs / name for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-light-32x32.png")
    }


FILES = _files()


async def swagger_page(exchange: Exchange) -> Reply:
    """The page, or one of the files that it loads."""
    file = FILES.get(exchange.scope["path_params"].get("file", _PAGE))
    if file is None:
        raise APIError("not_found", "no such file of Swagger UI")
    body = await asyncio.to_thread(file.read_bytes)
    return Reply(body, content_type=_TYPES.get(file.suffix, "image/png"), headers=_HEADERS)
