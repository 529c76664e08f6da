"""The report and Swagger UI in a real Chromium: `make browser`. Not part of `make test`, which needs no browser.

Every picture must be on the page with a size and with ink, at the widths of a desktop, half of one and a phone, in
light and in dark; nothing may be fetched, nothing may stick out: what is wider than the page scrolls in its own box.
Screenshots of the whole page go to RRR_SCREENSHOTS, where given.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from harness.browser import DEVICES, Browser
from rrrserve.cli import run

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", list(DEVICES))
def test_every_plot_is_visible_and_nothing_is_fetched(browser: Browser, page: Path, device: str, scheme: str) -> None:
    width = DEVICES[device][0]
    browser.see(page.absolute().as_uri(), device, scheme)
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
        pixels = np.asarray(browser.shot({key: box[key] for key in ("x", "y", "width", "height")}))
        ink = (np.abs(pixels.astype(int) - pixels[0, 0]).max(axis=2) > 40).mean()
        assert ink > 0.01, f"{box['id']} is empty"
    if folder := os.environ.get("RRR_SCREENSHOTS"):
        tall = browser.value("document.documentElement.scrollHeight")
        picture = browser.shot({"x": 0, "y": 0, "width": width, "height": tall})
        picture.save(Path(folder) / f"report-{device}-{scheme}.png", optimize=True)


def test_swagger_ui_answers_what_is_tried_out_and_fetches_nothing_from_elsewhere(
    browser: Browser, service: Any, png: Callable[[int], bytes], tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(png(0))
    browser.see(f"{service.url}/docs")
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
