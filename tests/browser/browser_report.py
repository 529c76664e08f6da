"""The report and Swagger UI in a real Chromium: `make browser`. Not part of `make test`, which needs no browser.

Every picture must be on the page with a size and with ink, at the widths of a desktop, half of one and a phone, in
light and in dark; nothing may be fetched, nothing may stick out: what is wider than the page scrolls in its own box.
Screenshots of the whole page go to RRR_SCREENSHOTS, where given.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from PIL import Image

from rrrserve.cli import run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DEVICES = {"desktop": (1280, 800, 1.0), "half": (640, 800, 1.0), "phone": (390, 844, 2.0)}
PLOTS = {"network", "members", "confusion", "reliability", "coverage", "errors", "plans-0", "load-0-0", "tail-0-0"}
# What ends beyond the page's right edge and lies in no box that scrolls, with all that is folded opened.
STICKING_OUT = """
[...document.querySelectorAll('details')].forEach(box => { box.open = true; });
[...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width && box.right > document.documentElement.clientWidth + 1 && !element.closest('.table, .drawing');
}).map(element => element.outerHTML.slice(0, 80))
"""
BOXES = """
[...document.querySelectorAll('figure:has([role=img])')].map(figure => {
  const box = figure.querySelector('[role=img]').getBoundingClientRect();
  return {id: figure.id, x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height};
})
"""


class Browser:
    """Headless Chromium, spoken to through its debugging pipe: file descriptors 3 and 4, JSON ended by a zero byte."""

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # exec keeps bash from staying in between; the descriptors that the browser wants are fixed.
        command = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        options = ["--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, program, *options, "about:blank"],
            pass_fds=(to_read, to_write),
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        os.close(to_read)
        os.close(to_write)
        self._numbers, self._pending = count(1), b""
        self.requested: list[str] = []
        self.complaints: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")

    _session = ""

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, answer
        return cast(dict[str, Any], answer["result"])

    def wait_for(self, event: str) -> None:
        """Read until the browser tells of an event."""
        while (message := self._next()).get("method") != event:
            self._note(message)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            chunk = os.read(self._read, 2**20)
            assert chunk, "the browser ended"
            self._pending += chunk
        message, _, self._pending = self._pending.partition(b"\0")
        return cast(dict[str, Any], json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        elif message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(parameters))

    def value(self, script: str) -> Any:
        """What a script gives."""
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a script gives something."""
        for _ in range(200):
            if self.value(f"!!({script})"):
                return
            time.sleep(0.1)
        pytest.fail(f"never: {script}; {self.value('document.body.innerText')}")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert program is not None, f"none of {', '.join(BROWSERS)} is on the PATH: apt install chromium"
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page to look at: RRR_REPORT, or a report of a small network that is trained and built for it."""
    if given := os.environ.get("RRR_REPORT"):
        return Path(given)
    root = tmp_path_factory.mktemp("report")
    data, checkpoint, engine = (
        root / "data",
        root / "models" / "letters",
        root / "engines" / "letters" / "onnxruntime-fp32",
    )
    predictions, bench = root / "predictions.npz", root / "bench.json"
    rrr("data", "glyphs", data, "--classes", "16", "--per-class", "8", "--size", "48")
    labels = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(labels.replace(",U+", ",a_class_with_a_very_long_name_without_any_space_U+"))
    common = ("--weights", "none", "--size", "32", "--members", "3", "--epochs", "2")
    rrr("train", "--data", data, "--out", checkpoint, *common)
    rrr("build", checkpoint, "--target", "onnxruntime-fp32", "--out", engine)
    rrr("evaluate", engine, "--predictions", predictions)
    times: dict[str, Any] = {
        "p50_ms": 4.0,
        "p90_ms": 6.0,
        "p95_ms": 7.0,
        "p99_ms": 9.0,
        "p999_ms": 12.0,
        "throughput": 90.0,
        "ok": 180,
    }
    times |= {"errors": {}, "rounds": []}
    runs = [
        {**times, "model": "letters", "level": "engine", "mode": "closed", "concurrency": load} for load in (1, 2, 4)
    ]
    document = {
        "format": 1,
        "kind": "rrr-bench",
        "command": "rrr bench",
        "started": "2026-01-01T00:00:00Z",
        "runs": runs,
    }
    bench.write_text(json.dumps({**document, "environment": {"machine": {}, "versions": {}}}))
    out = root / "page.html"
    rrr("report", checkpoint, "--predictions", predictions, "--bench", bench, "--out", out)
    return out


def rrr(*words: str | Path) -> None:
    assert run([str(word) for word in words]) == 0


def shot(browser: Browser, clip: dict[str, float]) -> Image.Image:
    answer = browser("Page.captureScreenshot", clip={**clip, "scale": 1}, captureBeyondViewport=True)
    return Image.open(io.BytesIO(base64.b64decode(answer["data"]))).convert("RGB")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", list(DEVICES))
def test_every_plot_is_visible_and_nothing_is_fetched(browser: Browser, page: Path, device: str, scheme: str) -> None:
    width, height, scale = DEVICES[device]
    browser.requested.clear()
    browser(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=scale,
        mobile=device == "phone",
    )
    browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser("Page.navigate", url=page.absolute().as_uri())
    browser.wait_for("Page.loadEventFired")
    fetched = [url for url in browser.requested if not url.startswith("data:")]
    assert fetched == [page.absolute().as_uri()]
    assert browser.complaints == []
    assert browser.value(STICKING_OUT) == []
    assert browser.value("document.scrollingElement.scrollWidth") <= width, "the page scrolls sideways"
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    channels = [int(word) for word in background.strip("rgb()").split(",")]
    assert (sum(channels) < 200) == (scheme == "dark")
    boxes = browser.value(BOXES)
    wanted = {"network"} if "RRR_REPORT" in os.environ else PLOTS
    assert {box["id"].removeprefix("figure-") for box in boxes} >= wanted
    for box in boxes:
        assert box["width"] > 250, box
        assert box["height"] > 60, box
        pixels = np.asarray(shot(browser, {key: box[key] for key in ("x", "y", "width", "height")}))
        ink = (np.abs(pixels.astype(int) - pixels[0, 0]).max(axis=2) > 40).mean()
        assert ink > 0.01, f"{box['id']} is empty"
    if folder := os.environ.get("RRR_SCREENSHOTS"):
        tall = browser.value("document.documentElement.scrollHeight")
        picture = shot(browser, {"x": 0, "y": 0, "width": width, "height": tall})
        picture.save(Path(folder) / f"report-{device}-{scheme}.png", optimize=True)


def test_swagger_ui_answers_what_is_tried_out_and_fetches_nothing_from_elsewhere(
    browser: Browser, service: Any, png: Callable[[int], bytes], tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(png(0))
    browser.requested.clear()
    browser("Page.navigate", url=f"{service.url}/docs")
    part = "document.querySelector('.opblock-summary-path[data-path=\"/predict\"]').closest('.opblock').querySelector"
    browser.until(part.partition(".closest")[0])
    for button in (".opblock-summary-control", ".try-out__btn"):
        browser.until(f"{part}('{button}')")
        browser.value(f"{part}('{button}').click()")
    browser.until(f"{part}('input[type=file]')")
    field = browser("Runtime.evaluate", expression=f"{part}('input[type=file]')")["result"]["objectId"]
    browser("DOM.setFileInputFiles", files=[str(image)], objectId=field)
    browser.value(f"{part}('.execute').click()")
    browser.until(f"{part}('.live-responses-table .response-col_status')")
    told = json.loads(browser.value(f"{part}('.live-responses-table .microlight').innerText"))
    assert told["predictions"] == httpx.post(f"{service.url}/v1/predict", content=png(0)).json()["predictions"]
    assert [url for url in browser.requested if not url.startswith((f"{service.url}/", "data:"))] == []
    assert browser.complaints == []
