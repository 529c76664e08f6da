"""The page at / and the samples of a repository, without a browser; tests/browser drives the page as a person would."""

import asyncio
import re
from collections.abc import Callable

import httpx
import pytest

from rrrserve.api.endpoint import Access
from rrrserve.api.page.handlers import FILES, FOLDER
from rrrserve.api.routes import Routes
from rrrserve.config.service_config import ServiceConfig
from rrrserve.net.tokens import digest_of


def ask(routes: Routes, path: str, **headers: str) -> httpx.Response:
    """Ask the routes themselves, of a service that has not started yet."""

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(routes.application())
        async with httpx.AsyncClient(transport=transport, base_url="http://rrr") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(get())


@pytest.fixture
def routes() -> Routes:
    """With the page, for those who have a token."""
    made = Routes()
    made.page, made.access = True, Access((digest_of(b"secret"),))
    return made


def test_the_page_may_load_nothing_but_this_service_and_run_nothing_that_stands_in_it(routes: Routes) -> None:
    answer = ask(routes, "/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "base-uri": "'self'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    foreign = r"\s(?:on\w+|style)=|<script(?! src=.page/page.js. )|https?://(?!www\.w3\.org/2000/svg)"
    assert re.findall(foreign, answer.text) == []
    assert "http" not in (FOLDER / "page.css").read_text()


def test_every_file_of_the_page_is_open_kept_by_browsers_and_asked_for_again_by_its_tag(routes: Routes) -> None:
    for name in FILES - {"index.html"}:
        answer = ask(routes, f"/page/{name}")
        assert (answer.status_code, answer.content) == (200, (FOLDER / name).read_bytes())
        assert answer.headers["cache-control"] == "no-cache"
        again = ask(routes, f"/page/{name}", **{"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
        assert "content-length" not in again.headers
    assert ask(routes, "/page/other.js").status_code == 404
    assert ask(routes, "/v1/samples").status_code == ask(routes, "/v1/samples/0").status_code == 401


def test_without_the_page_swagger_ui_is_at_the_root(routes: Routes) -> None:
    routes.page = False
    assert ask(routes, "/").text == ask(routes, "/docs").text
    assert "swagger-ui" in ask(routes, "/").text
    assert ask(routes, "/page/page.js", authorization="Bearer secret").status_code == 404
    assert not ServiceConfig.from_environment({"RRR_PAGE": "1"}).page, "under bentoml serve there is none"


def test_the_service_shows_the_page_and_the_samples_of_its_repository(
    client: httpx.Client, png: Callable[[int], bytes]
) -> None:
    assert client.get("/").text == (FOLDER / "index.html").read_text()
    assert "swagger-ui" in client.get("/docs").text
    listed = client.get("/v1/samples").json()
    labels = enumerate(("red", "green", "blue"))
    assert listed == {"samples": [{"number": number, "label": label, "model": "tiny"} for number, label in labels]}
    for number in range(3):
        answer = client.get(f"/v1/samples/{number}")
        assert (answer.content, answer.headers["content-type"]) == (png(number), "image/png")
        headers = {"If-None-Match": answer.headers["etag"]}
        assert client.get(f"/v1/samples/{number}", headers=headers).status_code == 304
    for nothing in ("3", "-1", "x"):
        assert client.get(f"/v1/samples/{nothing}").json()["error"]["code"] == "not_found"
    described = client.get("/docs.json").json()["paths"]["/v1/samples/{number}"]["get"]["parameters"]
    assert described[0]["schema"] == {"type": "integer", "minimum": 0, "maximum": 2}
