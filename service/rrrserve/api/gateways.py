"""What stands around the routes where browsers or proxies need it, and costs nothing where they do not."""

from collections.abc import Mapping
from html import escape
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rrrserve.api.cors import Cors, is_preflight
from rrrserve.api.endpoint import Access, Endpoint, Exchange, Reply
from rrrserve.api.errors import APIError
from rrrserve.metrics.instruments import PREFLIGHT

_METHODS = "GET, HEAD, POST, PUT"


def behind_gateways(application: ASGIApp, *, cors: Cors | None, root_path: str) -> ASGIApp:
    """The application with what is wanted around it; itself, where nothing is.

    Args:
        application: answers HTTP.
        cors: which pages of other origins may ask.
        root_path: what a proxy puts before the paths; empty for nothing.
    """
    if cors is not None:
        application = _with_cors(application, cors)
    return _below(application, root_path) if root_path else application


def _below(application: ASGIApp, root_path: str) -> ASGIApp:
    """Paths are found with and without the prefix: whether a proxy takes it away again is its own affair.

    Starlette's routes pass over `root_path` where a path begins with it. uvicorn's own option puts it before every
    path, which one proxy of the two would then have there twice.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = root_path
        if scope.get("path") == root_path:
            scope["path"] += "/"
        await application(scope, receive, send)

    return answer


def below_root(page: bytes, scope: Mapping[str, Any]) -> bytes:
    """A page whose relative links begin at the prefix, where there is one, however the page's own path ends.

    Args:
        page: HTML with a head.
        scope: the request's ASGI scope.
    """
    root_path = scope.get("root_path")
    if not root_path:
        return page
    return page.replace(b"<meta", f'<base href="{escape(root_path)}/">\n<meta'.encode(), 1)


def _with_cors(application: ASGIApp, cors: Cors) -> ASGIApp:
    async def preflight(exchange: Exchange) -> Reply:
        allowed = cors.preflight(exchange.scope["headers"])
        if allowed is None:
            message = "pages of this origin may not ask: rrr serve --cors ORIGIN allows it"
            raise APIError("method_not_allowed", message, headers={"Allow": _METHODS})
        return Reply(b"{}", headers=dict(allowed))

    may_ask = Endpoint(PREFLIGHT, preflight, access=Access)  # a browser sends no token with it

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        sent = scope["headers"]
        fields = cors.fields(sent)

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *fields]
            await send(message)

        asked = may_ask if is_preflight(scope["method"], sent) else application
        await asked(scope, receive, send_with_fields)

    return answer
