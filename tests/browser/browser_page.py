"""The page of `rrr serve` in a real Chromium, used as a person would: `make browser`.

RRR_URL names a service to take pictures of instead of the small one of the tests, RRR_SCREENSHOTS a folder for them.
"""

import copy
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from harness.browser import DEVICES, Browser
from harness.service import Service
from harness.verdicts import SENTENCE, verdicts
from rrrserve.stamps.stamp import write_stamps

AXE = Path(os.environ.get("RRR_AXE", Path(__file__).parents[2] / ".venv/axe/node_modules/axe-core/axe.min.js"))
TOKEN = "a-token-of-the-tests-0123456789"
COUNT_VIOLATIONS = """
globalThis.violations = [];
document.addEventListener('securitypolicyviolation', event => violations.push(event.violatedDirective));
"""
ANSWERED = "document.querySelectorAll('.answer .stages').length === 2"
ALL_ANSWERED = "document.querySelector('.stages') && !document.getElementById('cards').innerText.includes('asked …')"
# What a person reads on the cards of the models.
READ = """
[...document.querySelectorAll('.answer')].map(card => ({
  name: card.querySelector('h3').innerText, best: card.querySelector('.best').innerText,
  bars: [...card.querySelectorAll('.bars li')].map(item => [...item.children].slice(0, 2).map(part => part.innerText)),
  votes: [...card.querySelectorAll('.votes li')].map(item => item.innerText), words: card.innerText,
}))
"""
STICKING_OUT = """
[...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 2 && box.right > document.documentElement.clientWidth + 1 && !element.closest('pre');
}).map(element => element.outerHTML.slice(0, 80))
"""
Png = Callable[[int], bytes]


@pytest.fixture(scope="module")
def opened(browser: Browser) -> Browser:
    """The browser, which counts what the Content-Security-Policy forbids and lets tests answer file dialogues."""
    browser("Page.addScriptToEvaluateOnNewDocument", source=COUNT_VIOLATIONS)
    browser("Page.setInterceptFileChooserDialog", enabled=True)
    return browser


@pytest.fixture
def images(tmp_path: Path, png: Png) -> list[Path]:
    """Files of images."""
    paths = [tmp_path / f"image {seed}.png" for seed in range(6)]
    for seed, path in enumerate(paths):
        path.write_bytes(png(seed))
    return paths


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Of the service to take pictures of."""
    given = os.environ.get("RRR_URL")
    return given.rstrip("/") if given else str(request.getfixturevalue("service").url)


def see(browser: Browser, url: str, device: str = "desktop", scheme: str = "light") -> None:
    """Open the page and wait until it knows what is served."""
    browser.see(f"{url}/", device, scheme)
    browser.until("!document.getElementById('open').hidden")


def told(browser: Browser) -> list[Any]:
    """What both models answered, once they have."""
    browser.until(ANSWERED)
    found: list[Any] = browser.value(READ)
    return found


def percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.0005 else f"{share * 100:.1f} %"


def check_answer(browser: Browser, service: Any, image: bytes, query: str = "coverage=0.95") -> None:
    """The page says what /v1 answers, of each model."""
    for card in told(browser):
        asked = f"{service.url}/v1/models/{card['name']}/predict?members=true&{query}"
        answer = httpx.post(asked, content=image, trust_env=False).json()
        assert card["best"] == answer["predictions"][0]["label"]
        assert card["bars"] == [[item["label"], percent(item["probability"])] for item in answer["predictions"]]
        if card["name"] == "tiny":
            assert card["votes"] == [
                f"{item['member'] + 1}: {item['label']} {percent(item['probability'])}" for item in answer["members"]
            ]


def check_clean(browser: Browser, url: str) -> None:
    """Nothing was asked of anybody else, nothing violates the policy, nothing failed."""
    assert [found for found in browser.requested if not found.startswith((f"{url}/", "blob:", "data:"))] == []
    assert browser.value("violations") == []
    assert browser.complaints == []


def test_a_file_that_is_chosen_with_the_mouse(opened: Browser, service: Any, images: list[Path]) -> None:
    see(opened, service.url)
    opened.click("label[for=file]")
    opened.choose(images[0])
    check_answer(opened, service, images[0].read_bytes())
    winner = opened.value("document.getElementById('winner').innerText")
    assert winner.startswith(("tiny came first: ", "single came first: "))
    assert len(opened.value("[...document.querySelectorAll('#lanes li')].map(item => item.innerText)")) == 2
    assert "image 0.png" in opened.value("document.getElementById('said').innerText")
    check_clean(opened, service.url)


def test_a_file_that_is_dropped(opened: Browser, service: Any, images: list[Path]) -> None:
    see(opened, service.url)
    opened.drop(images[1], "#drop")
    check_answer(opened, service, images[1].read_bytes())
    check_clean(opened, service.url)


def test_an_image_that_is_pasted(opened: Browser, service: Any, images: list[Path]) -> None:
    see(opened, service.url)
    opened("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    pixels = list(images[2].read_bytes())
    opened.value(
        f"navigator.clipboard.write([new ClipboardItem({{'image/png': new Blob([new Uint8Array({pixels})],"
        "{type: 'image/png'})})])"
    )
    opened.press("v", control=True, commands=("paste",))
    check_answer(opened, service, images[2].read_bytes())
    check_clean(opened, service.url)


def test_by_keyboard_alone_from_the_file_to_the_race_of_twenty_laps(
    opened: Browser, service: Any, images: list[Path]
) -> None:
    see(opened, service.url)
    opened.tab_to("#file")
    opened.press("Enter")
    opened.choose(images[3])
    check_answer(opened, service, images[3].read_bytes())
    opened.tab_to("#laps")
    opened.press("Space")
    opened.until("document.getElementById('winner').innerText.includes('of 20 laps')")
    opened.until("!document.getElementById('laps').disabled")
    assert "of 20 laps" in opened.value("document.getElementById('said').innerText")
    check_clean(opened, service.url)


def test_a_photo_on_a_phone_and_other_options_ask_again(opened: Browser, service: Any, images: list[Path]) -> None:
    see(opened, service.url, "phone")
    opened.click("label[for=photo]")
    opened.choose(images[4])
    check_answer(opened, service, images[4].read_bytes())
    before = len(opened.requested)
    opened.value("(e => { e.value = ''; e.dispatchEvent(new Event('change')) })(document.getElementById('coverage'))")
    opened.until(f"{ANSWERED} && !document.getElementById('cards').innerText.includes('Set:')")
    assert len([url for url in opened.requested[before:] if "/predict" in url and "coverage" not in url]) == 2
    check_clean(opened, service.url)


def test_test_images_are_marked_right_or_wrong(opened: Browser, service: Any) -> None:
    see(opened, service.url)
    listed = httpx.get(f"{service.url}/v1/samples", trust_env=False).json()["samples"]
    assert len(listed) >= 3
    right = {"tiny": 0, "single": 0}
    for item in listed:
        image = httpx.get(f"{service.url}/v1/samples/{item['number']}", trust_env=False).content
        for name in right:
            asked = f"{service.url}/v1/models/{name}/predict"
            best = httpx.post(asked, content=image, trust_env=False).json()["predictions"][0]["label"]
            right[name] += best == item["label"]
    opened.click("#thumbnails button")
    first = told(opened)[0]
    assert ("✓ right" in first["words"]) == (first["best"] == listed[0]["label"])
    opened.click("#all")
    opened.until("!document.getElementById('all').disabled")
    score = opened.value("document.getElementById('score').innerText")
    assert score == "; ".join(f"{name}: {count} of {len(listed)} right" for name, count in right.items())
    check_clean(opened, service.url)


def test_what_is_no_image_is_told_in_the_services_own_words(opened: Browser, service: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    see(opened, service.url)
    opened.drop(tmp_path / "notes.txt", "#drop")
    opened.until("document.querySelectorAll('.answer .notice').length === 2")
    assert "unsupported_image: the bytes are not one of JPEG" in opened.value("document.body.innerText")
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8\xff" + bytes(12_000_000))
    opened.drop(tmp_path / "large.jpg", "#drop")
    opened.until(
        "document.querySelectorAll('.answer .notice').length === 2 && document.body.innerText.includes('large')"
    )
    assert "body_too_large: " in opened.value("document.body.innerText")
    # The browser itself writes the status of a refusal to its log, and that it cannot show the file.
    assert opened.value("violations") == []


def test_the_chart_has_the_quantiles_that_prometheus_would_tell(
    opened: Browser, service: Any, images: list[Path]
) -> None:
    see(opened, service.url)
    opened.until("document.getElementById('legend').children.length === 2")
    time.sleep(5.5)  # so that one scrape lies before the requests
    times = []
    for _ in range(20):
        answer = httpx.post(f"{service.url}/v1/predict", content=images[0].read_bytes(), trust_env=False).json()
        times.append(answer["timing_ms"]["total"])
    opened.until("/p50 [0-9.]+ ms, p99 [0-9.]+ ms, 20 answers/.test(document.getElementById('legend').innerText)")
    text = opened.value("document.querySelector('#legend li').innerText")
    p50, p99 = (float(word.split()[1]) for word in text.split(", ")[:2] for word in [word[word.index("p") :]])
    # A bucket is up to 1.25 times as wide as the one before; what is counted ends a little after `total`.
    assert min(times) / 1.25 <= p50 <= sorted(times)[11] * 1.5
    assert p50 <= p99 <= max(times) * 1.5 + 2
    assert "single no answers in the last 30 s" in opened.value("document.getElementById('legend').innerText")
    opened.until("document.querySelector('#chart polyline, #chart circle')")
    check_clean(opened, service.url)


@pytest.fixture(scope="module")
def guarded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that asks for a token."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copytree(repository, folder / "repository")  # which claims will be stamped on
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    arguments = (str(folder / "repository"), "--workers", "1", "--drain", "0", "--token-file", str(folder / "token"))
    with Service(folder / "serve.log", *arguments) as served:
        yield served


def type_token(browser: Browser, token: str) -> None:
    browser.until("document.activeElement.id === 'token'")
    browser("Input.insertText", text=token)
    browser.press("Enter")


def test_where_a_token_is_asked_for_the_page_asks_for_it(opened: Browser, guarded: Service, images: list[Path]) -> None:
    opened.see(f"{guarded.url}/")
    type_token(opened, "not-the-token-0123456789")
    opened.until("document.getElementById('refused').innerText === 'That is not a token of this service.'")
    assert "tiny" not in opened.value("document.documentElement.outerHTML"), "told without a token"
    type_token(opened, TOKEN)
    opened.until("!document.getElementById('open').hidden && document.activeElement.id === 'file'")
    opened.until("[...document.querySelectorAll('#thumbnails img')].every(image => image.naturalWidth)")
    opened.press("Enter")
    opened.choose(images[5])
    assert [card["name"] for card in told(opened)] == ["tiny", "single"]
    assert opened.value("violations") == []
    assert [url for url in opened.requested if not url.startswith((guarded.url, "blob:", "data:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", list(DEVICES))
def test_the_page_fits_and_axe_finds_no_serious_fault(
    opened: Browser, url: str, images: list[Path], device: str, scheme: str
) -> None:
    assert AXE.is_file(), f"{AXE} is missing: make browser gets it"
    see(opened, url, device, scheme)
    if opened.value("document.querySelector('#thumbnails button') !== null"):
        opened.until("[...document.querySelectorAll('#thumbnails img')].every(image => image.naturalWidth)")
        opened.click("#all")
        opened.until("!document.getElementById('all').disabled")
        opened.click(f"#thumbnails li:nth-child({os.environ.get('RRR_SAMPLE', '1')}) button")
    else:
        opened.drop(images[0], "#drop")
    opened.until(ALL_ANSWERED)
    if opened.value("!document.getElementById('race').hidden"):
        opened.click("#laps")
        opened.until("!document.getElementById('laps').disabled")
    opened.until("document.querySelector('#chart polyline, #chart circle')")
    assert opened.value(STICKING_OUT) == []
    width = DEVICES[device][0]
    assert opened.value("document.scrollingElement.scrollWidth") <= width, "the page scrolls sideways"
    background = opened.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(word) for word in background.strip("rgb()").split(",")) < 200) == (scheme == "dark")
    check_clean(opened, url)
    opened.value(AXE.read_text() + ";0")
    found = opened.value("axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html)]))")
    assert [fault for fault in found if fault[0] in ("serious", "critical")] == [], found
    if folder := os.environ.get("RRR_SCREENSHOTS"):
        for _ in range(5):  # so that the chart has lines
            opened.click("#all")
            opened.until("!document.getElementById('all').disabled")
            time.sleep(5)
        opened.value("scrollTo(0, 0); document.activeElement.blur()")
        tall = opened.value("document.documentElement.scrollHeight")
        picture = opened.shot({"x": 0, "y": 0, "width": width, "height": tall})
        keep(picture, Path(folder) / f"page-{device}-{scheme}.png", columns=4 if device == "phone" else 1)


def keep(picture: Image.Image, path: Path, *, columns: int) -> None:
    """Write a picture in few colours, a tall one cut into columns that stand side by side."""
    tall, gap = -(-picture.height // columns), 24 * (columns > 1)
    whole = Image.new("RGB", (columns * (picture.width + gap) - gap, tall), picture.getpixel((0, 0)))
    for column in range(columns):
        part = picture.crop((0, column * tall, picture.width, min((column + 1) * tall, picture.height)))
        whole.paste(part, (column * (picture.width + gap), 0))
    whole.quantize(160, dither=Image.Dither.NONE).save(path, optimize=True)


def test_a_claim_is_shown_with_its_verdict_and_one_of_another_machine_as_stale(
    opened: Browser, guarded: Service
) -> None:
    repository = guarded.log.parent / "repository"
    elsewhere = copy.deepcopy(verdicts("elsewhere"))  # its environment is kept
    elsewhere["environment"]["machine"]["cpu"] = "another"
    write_stamps(elsewhere, repository)
    write_stamps(verdicts("here"), repository)
    opened.see(f"{guarded.url}/")
    type_token(opened, TOKEN)
    opened.until("document.querySelectorAll('#claims .badge').length >= 2")
    lines = opened.value("[...document.querySelectorAll('#claims li')].map(item => item.innerText)")
    fresh, stale = (next(line for line in lines if line.startswith(word)) for word in ("pass", "stale"))
    assert f"{SENTENCE}\n\n5.31 x (5.18 to 5.44), on 2026-11-22" in fresh
    assert "was pass, 5.31 x (5.18 to 5.44), on 2026-11-22, CPU: another when verified" in stale
