"""Claims about sets and probabilities: intervals from numbers, and a service that answers the documented shapes."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from rrrnet.errors import ArtifactError, UsageError
from rrrserve.bench.closed_loop import closed_loop
from rrrserve.bench.result import early_text, told_by
from rrrserve.claims.kinds import KINDS
from rrrserve.cli import run
from rrrserve.judge.answers import Told, verdict_on
from rrrserve.judge.confidence import Answer, calibration_interval, coverage_interval, exact
from rrrserve.judge.labelled import Recorded, labelled_images

ALPHA = 0.05


def answers(probabilities: Any, correct: Any, in_set: bool | None = None) -> list[Answer]:
    pairs = zip(probabilities, correct, strict=True)
    return [Answer(float(p), bool(c), in_set, 1, "auto", 2) for p, c in pairs]


def drawn(images: int, seed: int, bias: float) -> list[Answer]:
    """Answers whose probabilities are `bias` too high: a calibration error of so many hundred points."""
    random = np.random.default_rng(seed)
    truth = random.choice([0.55, 0.75, 0.9], images)
    return answers(truth + bias, random.random(images) < truth)


@pytest.mark.parametrize(
    ("hits", "images", "low", "high"),
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (5, 10, 0.1871, 0.8129), (1900, 2000, 0.9395, 0.9591)],
)
def test_the_exact_interval_is_clopper_and_pearsons(hits: int, images: int, low: float, high: float) -> None:
    found = exact(hits, images, ALPHA)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-4)


def test_images_without_an_answer_widen_the_interval_of_coverage_to_both_sides() -> None:
    found = [Answer(0.9, True, hit, 1, "auto", 2) for hit in [True] * 190 + [False] * 10]
    sure, unsure = coverage_interval(found, 0, ALPHA), coverage_interval(found, 20, ALPHA)
    assert sure.value == unsure.value == 0.95
    assert (unsure.low, unsure.high) == (exact(190, 220, ALPHA).low, exact(210, 220, ALPHA).high)
    assert unsure.low < sure.low < 0.95 < sure.high


@pytest.mark.parametrize("images", [5, 60, 400])
def test_intervals_of_a_calibration_error_hold_the_true_one_however_few_images_there_are(images: int) -> None:
    """The plain figure is too large by chance: at 60 images without any error it is some 5 points."""
    for bias in (0.0, 0.08):
        found = [calibration_interval(drawn(images, seed, bias), 0, ALPHA) for seed in range(60)]
        missed = sum(not interval.low <= 100 * bias + 1e-9 or not 100 * bias <= interval.high for interval in found)
        assert missed <= 60 * ALPHA


def test_a_true_claim_on_calibration_passes_with_images_enough_and_a_false_one_fails() -> None:
    claim = KINDS["calibration"].model_validate(
        {"name": "it", "kind": "calibration", "model": "m", "at_most_points": 4.0}
    )
    for images, bias, verdict in (
        (4000, 0.0, "pass"),
        (4000, 0.1, "fail"),
        (5, 0.0, "undecided"),
        (5, 0.1, "undecided"),
    ):
        told = Told(tuple(drawn(images, 1, bias)), Counter())
        assert verdict_on(claim, told, "images", ALPHA).verdict == verdict, (images, bias)  # type: ignore[arg-type]


def test_a_handful_of_sure_and_right_answers_proves_nothing() -> None:
    assert calibration_interval(answers([0.999] * 5, [True] * 5), 0, ALPHA).high > 50
    assert calibration_interval(answers([0.999], [True]), 0, ALPHA).low == 0.0


def data_set(folder: Path, each: int = 3) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            color = (100 * number, 20 * index, 7)
            Image.new("RGB", (8, 8), color).save(folder / name / f"{index}.png")
    return folder


def test_images_that_the_model_was_trained_on_are_left_out(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data")
    parts = {"cat/0.png": "train", "dog/0.png": "val", "cat/1.png": "test", "dog/1.png": "test"}
    known, labels = Recorded(parts), ("cat", "dog")
    test = labelled_images(data, known, labels, "test")
    assert ([path.name for path in test.paths], test.labels) == (["1.png", "1.png"], labels)
    every = labelled_images(data, known, labels, "all")
    assert [str(path.relative_to(data)) for path in every.paths] == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
    assert every.used.startswith("4 images, without 2 of the training and validation split")
    assert "6 images (no split is known)" in labelled_images(data, Recorded(), labels, "all").used
    with pytest.raises(ArtifactError, match="--split all"):
        labelled_images(data, Recorded(), labels, "test")
    with pytest.raises(ArtifactError, match="classes that the model does not know: dog"):
        labelled_images(data, known, ("cat",), "all")
    with pytest.raises(UsageError, match=r"not known what images .*: give them with --data DIR, or other"):
        labelled_images(None, known, labels, "test")


def test_a_model_from_the_hub_asks_for_images_with_the_flags_that_take_them() -> None:
    of_hub, labels = Recorded({"cat/0.png": "test"}, {"name": "pets", "path": None}), ("cat", "dog")
    asked = "the model comes from the hub, and its images are not here: give "
    with pytest.raises(UsageError) as refused:
        labelled_images(None, of_hub, labels, "test")
    assert str(refused.value) == f"{asked}them with --data DIR, or other labelled ones with --data DIR --split all"
    with pytest.raises(UsageError) as refused:
        labelled_images(None, of_hub, labels, "all")
    assert str(refused.value) == f"{asked}labelled ones with --data DIR"


@contextmanager
def service(asked: list[dict[str, Any]], *, partial: bool = False) -> Iterator[str]:
    """A service that answers `cat` with 0.6, in the shapes that docs/http.md has."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.give({"repository": "abc", "models": [{"name": "pets", "labels": ["cat", "dog"], "image_size": 32}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            asked.append({**query, "header": self.headers.get("X-RRR-Effort")})
            labels = [{"label": "cat", "probability": 0.6}]
            answer: dict[str, Any] = {
                "model": {"name": "pets", "members": 8},
                "predictions": labels,
                "effort": query.get("effort", "auto"),
            }
            answer |= {"members_used": 2, "partial": partial, "unsure": False}
            if "coverage" in query:
                answer |= (
                    {"set_reason": "partial"} if partial else {"set": [*labels, {"label": "dog", "probability": 0.4}]}
                )
            self.give(answer)

        def give(self, document: object) -> None:
            body = json.dumps(document, separators=(",", ":")).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


CLAIMS = """\
version: 1
claims:
  - {name: sets, kind: coverage, model: pets, coverage: 0.9, effort: fast, at_least: 0.6}
  - {name: sure, kind: calibration, model: pets, at_most_points: 1}
  - {name: other, kind: calibration, model: pests, at_most_points: 1}
"""


def verify(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, Any]]:
    claims = tmp_path / "claims.yaml"
    claims.write_text(CLAIMS)
    nowhere = ("--repository", str(tmp_path / "none"), "--json")
    code = run(["verify", "--claims", str(claims), "--scrape", url, *nowhere, *arguments])
    captured = capsys.readouterr()
    assert code in (0, 1), captured.err
    return {verdict["name"]: verdict for verdict in json.loads(captured.out)["verdicts"]}


def test_verify_sends_labelled_images_with_the_claims_effort_and_coverage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, Any]] = []
    data = data_set(tmp_path / "data", each=5)
    with service(asked) as url:
        found = verify(tmp_path, url, capsys, "--data", str(data), "--split", "all")
    assert Counter((one["effort"], one.get("coverage")) for one in asked) == {("fast", "0.9"): 10, ("auto", None): 10}
    sets, sure, other = found["sets"], found["sure"], found["other"]
    assert (sets["verdict"], sets["estimate"], sets["samples"]) == ("pass", 1.0, {"pets": 10})
    assert (sets["evidence"]["mean_set_size"], sets["evidence"]["members_used"]) == (2.0, {"2": 10})
    assert "10 images (no split is known)" in sets["explanation"]
    assert (sure["verdict"], sure["estimate"], sure["evidence"]["accuracy"]) == ("undecided", pytest.approx(10), 0.5)
    assert (other["verdict"], other["reason"]) == ("undecided", "unknown_model")


def test_partial_answers_decide_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_set(tmp_path / "data")
    with service([], partial=True) as url:
        found = verify(tmp_path, url, capsys, "--data", str(data), "--split", "all")
    assert (found["sets"]["reason"], found["sure"]["reason"]) == ("requests_failed", "requests_failed")
    assert "6 of 6 images got no usable answer: 6 x partial" in found["sets"]["explanation"]


def test_a_service_without_sets_leaves_a_coverage_claim_undecided_and_says_why() -> None:
    claim = KINDS["coverage"].model_validate(
        {"name": "it", "kind": "coverage", "model": "m", "coverage": 0.9, "at_least": 0.9}
    )
    told = Told(tuple(drawn(10, 0, 0.0)), Counter(), "built without images")
    found = verdict_on(claim, told, "images", ALPHA)  # type: ignore[arg-type]
    assert (found.verdict, found.reason) == ("undecided", "no_evidence")
    assert "built without images" in found.explanation


def test_a_load_tells_which_share_the_first_members_answered() -> None:
    asked: list[dict[str, Any]] = []
    with service(asked) as url:
        path = f"{url}/v1/models/pets/predict"
        result = asyncio.run(closed_loop(path, [b"x"], 1, requests=3, headers={"X-RRR-Effort": "fast"}))
    told = told_by(result.answered_by)
    assert told == [{"effort": "auto", "members_used": 2, "members": 8, "answers": 3}]
    full = {**told[0], "effort": "full", "members_used": 8}
    assert early_text([full]) is None
    assert early_text(told) == "100.0% of answers came from the first members alone"
    of_four = [*told, {**full, "effort": "fast", "members_used": 2, "answers": 1}]
    assert early_text(of_four) == "100.0% of answers came from the first members alone, 25.0% by effort fast"
    assert {one["header"] for one in asked} == {"fast"}
