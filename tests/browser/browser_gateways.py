"""A page of another origin, and Swagger UI below a proxy's prefix, in a real Chromium: `make browser`."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.browser import Browser
from harness.service import Service

TOKEN = "0123456789abcdef"
TRACE = "0af7651916cd43dd8448eb211c80319c"
# What a page does with an image: status, what it may read of the header, and the answer; or why it got none.
ASK = """
fetch(%s, {
  method: "POST",
  body: Uint8Array.from(atob(%s), (letter) => letter.charCodeAt(0)),
  headers: {Authorization: "Bearer %s", "X-Request-ID": "from-a-page", traceparent: "00-%s-b7ad6b7169203331-01"},
}).then(
  async (answer) => [answer.status, answer.headers.get("X-Request-ID"), await answer.json()],
  (error) => String(error),
)
"""


class Page(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!DOCTYPE html><title>a page</title>")

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where pages come from: 127.0.0.1 may ask the service, localhost may not."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def served(port: int, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("gateways")
    (folder / "token").write_text(TOKEN)
    options = ("--cors", f"http://127.0.0.1:{port}", "--root-path", "/rrr", "--token-file", str(folder / "token"))
    with Service(folder / "log", str(repository), *options, "--access-log", "--drain", "0") as service:
        yield service


def asked(service: Service, image: bytes, token: str = TOKEN) -> str:
    words = (json.dumps(f"{service.url}/v1/predict"), json.dumps(base64.b64encode(image).decode()), token, TRACE)
    return ASK % words


def test_a_page_of_an_allowed_origin_gets_its_answer_and_reads_errors(
    browser: Browser, port: int, served: Service, png: Callable[[int], bytes]
) -> None:
    browser.see(f"http://127.0.0.1:{port}/")
    status, identifier, answer = browser.value(asked(served, png(0)))
    assert (status, identifier) == (200, "from-a-page")
    direct = httpx.post(f"{served.url}/v1/predict", content=png(0), headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer["predictions"] == direct.json()["predictions"]
    assert f"trace_id={TRACE}" in served.log.read_text()
    for body, token, expected in (
        (b"text", TOKEN, (415, "unsupported_image")),
        (png(0), "none", (401, "unauthorized")),
    ):
        status, _, answer = browser.value(asked(served, body, token))
        assert (status, answer["error"]["code"]) == expected


def test_a_page_of_another_origin_gets_nothing(
    browser: Browser, port: int, served: Service, png: Callable[[int], bytes]
) -> None:
    browser.see(f"http://localhost:{port}/")
    before = served.log.read_text().count("route=/v1/predict")
    assert browser.value(asked(served, png(0))) == "TypeError: Failed to fetch"
    assert served.log.read_text().count("route=/v1/predict") == before, "it was not even asked"


@pytest.mark.parametrize("path", ["/docs", "/rrr/docs"])
def test_swagger_ui_asks_below_the_prefix_whether_or_not_a_proxy_takes_it_away(
    browser: Browser, served: Service, path: str
) -> None:
    browser.see("about:blank")
    browser("Page.navigate", url=f"{served.url}{path}")
    browser.wait_for("Page.javascriptDialogOpening")
    browser("Page.handleJavaScriptDialog", accept=True, promptText=TOKEN)
    part = "document.querySelector('.opblock-summary-path[data-path=\"/v1/models\"]').closest('.opblock').querySelector"
    browser.until(part.partition(".closest")[0])
    for button in (".opblock-summary-control", ".try-out__btn", ".execute"):
        browser.until(f"{part}('{button}')")
        browser.value(f"{part}('{button}').click()")
    browser.until(f"{part}('.live-responses-table .response-col_status')")
    assert '"default": "tiny"' in browser.value(f"{part}('.live-responses-table .microlight').innerText")
    assert f"{served.url}/rrr/v1/models" in browser.requested
    asked_for = {url.removeprefix(served.url) for url in browser.requested if url.startswith(served.url)}
    assert {name for name in asked_for if not name.startswith("/rrr/")} <= {path}
