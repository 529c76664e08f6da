"""Swagger UI at /docs, and at / where no page for people is: two files of ours, and those that BentoML brings along.

Nothing comes from elsewhere. BentoML's own page is not shown: it loads a tag manager from the network.
"""

import asyncio
import mimetypes
from importlib.metadata import distribution
from pathlib import Path

from rrrserve.api.endpoint import Exchange, Reply
from rrrserve.api.errors import APIError
from rrrserve.api.gateways import below_root

_PAGE = "index.html"
_OURS = Path(__file__).parent / "swagger_ui"
_THEIRS = Path(str(distribution("bentoml").locate_file("bentoml/_internal/server/static_content")))
FILES = {name: _OURS / name for name in (_PAGE, "start.js")} | {
    name: _THEIRS / name for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-light-32x32.png")
}
_HEADERS = {
    # Swagger UI sets styles on its elements, and its icons are data: URLs.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


async def swagger_page(exchange: Exchange) -> Reply:
    """The page, or one of the files that it loads."""
    file = FILES.get(exchange.scope["path_params"].get("file", _PAGE))
    if file is None:
        raise APIError("not_found", "no such file of Swagger UI")
    body = await asyncio.to_thread(file.read_bytes)
    if file.name == _PAGE:
        body = below_root(body, exchange.scope)
    return Reply(body, content_type=mimetypes.guess_type(file.name)[0] or "", headers=_HEADERS)
