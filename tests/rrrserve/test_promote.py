"""`rrr promote`: steps, verdicts and where the weight is left, against metrics whose ratio is known."""

import asyncio
import json
import math
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.fake_metrics import RATIO, Fake, serving_metrics
from rrrserve.cli import run
from rrrserve.config.routes import Route, routes_of
from rrrserve.judge.promotion import LOOKS, Look, Promotion, look_share, places, promote
from rrrserve.process.scratch import prefix
from rrrserve.state.shared_state import STATE, SharedState
from rrrserve.versions.routing import Routes, RoutesControl, RoutesFile, read_routes, write_routes
from rrrserve.versions.running_services import announce

(ROUTE,) = routes_of(["default=slow:90,quick:10"])
STEPS = [10.0, 25.0, 50.0, 100.0]
LIVE = """
version: 1
claims:
  - {{name: ratio, kind: speedup, model: quick, baseline: slow, level: triton, at_least: {at_least}}}
"""


def verdicts(*words: str) -> dict[str, Any]:
    return {"confidence": 0.95, "verdicts": [{"verdict": word, "name": word} for word in words]}


class Run:
    """A promotion with verdicts that were written before.

    Attributes:
        percents: that `quick` was given, in turn.
        judged: how long was waited, how long the step had been held, and the share of alpha, for each look.
    """

    def __init__(self, *found: dict[str, Any], steps: list[float] = STEPS) -> None:
        self.percents: list[float] = []
        self.judged: list[tuple[float, float, float]] = []
        self.told: list[Look | Route] = []
        self._found = iter(found)
        self.promotion = Promotion(10.0)
        asyncio.run(
            promote(
                *(self.promotion, ROUTE, "quick", steps, 60.0),
                change=self.change,
                judge=self.judge,
                tell=self.told.append,
            )
        )

    async def change(self, route: Route) -> None:
        self.percents.append(round(100 * route.shares["quick"], 6))

    async def judge(self, waited: float, held: float, share: float) -> dict[str, Any]:
        self.judged.append((waited, held, share))
        return next(self._found)


def test_each_step_is_taken_once_all_claims_pass_and_the_last_needs_no_traffic_beside_it() -> None:
    done = Run(*[verdicts("pass", "pass")] * 3)
    assert done.percents == [25, 50, 100]
    assert (done.promotion.outcome, done.promotion.percent) == ("promoted", 100)
    assert [(look.percent, look.number) for look in done.promotion.looks] == [(10, 1), (25, 1), (50, 1)]
    assert [type(item) for item in done.told] == [Look, Route, Look, Route, Look, Route]


def test_one_claim_that_fails_takes_everything_away_though_others_pass() -> None:
    done = Run(verdicts("pass"), verdicts("pass", "fail", "undecided"))
    assert done.percents == [25, 0]
    assert (done.promotion.outcome, done.promotion.percent) == ("moved_back", 0)


def test_what_is_undecided_is_held_longer_and_left_where_it_is_after_four_looks() -> None:
    done = Run(verdicts("pass"), *[verdicts("pass", "undecided")] * LOOKS)
    assert done.percents == [25]
    assert (done.promotion.outcome, done.promotion.percent) == ("undecided", 25)
    assert [(waited, held) for waited, held, _ in done.judged[1:]] == [(60, 60), (120, 180), (240, 420), (480, 900)]
    late = Run(verdicts("undecided"), verdicts("undecided"), verdicts("pass"), steps=[10.0, 100.0])
    assert (late.percents, late.promotion.outcome) == ([100], "promoted")


def test_all_looks_of_a_promotion_share_one_alpha() -> None:
    shares = [share for _, _, share in Run(*[verdicts("undecided")] * LOOKS).judged]
    assert shares == [look_share(number) / 3 for number in range(1, LOOKS + 1)]
    assert sum(look_share(number) for number in range(1, 10_000)) == pytest.approx(1, abs=1e-3)
    assert look_share(1) == 6 / math.pi**2


def test_a_promotion_begins_with_what_the_model_has() -> None:
    assert places(0.1, STEPS) == STEPS
    assert places(0, STEPS) == STEPS
    assert places(0.15, STEPS) == [15, 25, 50, 100]
    assert places(0.5, STEPS) == [50, 100]
    assert places(1, STEPS) == [100]
    assert Run(steps=[10.0]).promotion.outcome == "promoted"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving_metrics() as server:
        yield server


@pytest.fixture
def folder(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The private folder of a service that is this process, with a worker that follows and the fake's metrics."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("rrrserve.evidence.scrape._MIN_BLOCK_SECONDS", 0.01)
    private = tmp_path / f"{prefix(1)}01234567"
    private.mkdir()
    write_routes(private, Routes(1, {ROUTE.name: ROUTE}))
    SharedState.create(private / STATE, ["quick", "slow"], 1)
    announce(private, fake.url, tmp_path / "repository")
    state, over = SharedState.open(private / STATE, 1), threading.Event()
    file = RoutesFile(private)

    def follow() -> None:
        while not over.wait(0.02):
            if (changed := file.changed()) is not None:
                state.use_routing(changed.number)

    thread = threading.Thread(target=follow)
    thread.start()
    yield private
    over.set()
    thread.join()


def claims_file(folder: Path, text: str) -> str:
    path = folder / "claims.yaml"
    path.write_text(text)
    return str(path)


def quick_share(folder: Path) -> float:
    return read_routes(folder).routes["default"].shares["quick"]


def test_a_true_claim_takes_the_route_and_the_command_that_keeps_it_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = claims_file(tmp_path, LIVE.format(at_least=RATIO - 2))
    assert run(["promote", "--claims", claims, "--steps", "10,60,100", "--every", "1s"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("default: ")] == [
        "default: slow 40 %, quick 60 %",
        "default: slow 0 %, quick 100 %",
    ]
    assert sum(line.startswith("  pass: ratio: measured ") for line in said) == 2
    assert said[-2] == "promoted: quick has 100 % of default, until the service ends"
    assert said[-1] == f"next: rrr serve {tmp_path}/repository --route default=slow:0,quick:100"
    assert quick_share(folder) == 1
    assert run(["promote", "--claims", claims, "--json"]) == 0, "it has all already"
    assert json.loads(capsys.readouterr().out)["looks"] == []


def test_a_model_that_becomes_slow_on_the_way_loses_all_and_the_exit_code_is_1(
    fake: Fake, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def slower(scrape: int, text: str) -> str:
        fake.ratio = RATIO if quick_share(folder) < 0.5 else 1.0
        return text

    fake.edit = slower
    claims = claims_file(tmp_path, LIVE.format(at_least=RATIO - 2))
    assert run(["promote", "--claims", claims, "--steps", "10,60,100", "--every", "1s", "--json"]) == 1
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document.keys() == {"service", "route", "model", "outcome", "percent", "looks"}
    assert (document["service"], document["route"], document["model"]) == (fake.url, "default", "quick")
    assert (document["outcome"], document["percent"]) == ("moved_back", 0)
    assert [(look["percent"], look["verdicts"][0]["verdict"]) for look in document["looks"]] == [
        (10, "pass"),
        (60, "fail"),
    ]
    assert document["looks"][0]["confidence"] == pytest.approx(1 - 0.05 * look_share(1) / 2)
    assert said.err.splitlines()[-1] == "rrr: moved back: quick has 0 % of default now (ratio: bound_missed)"
    assert quick_share(folder) == 0


def test_an_error_on_the_way_tells_what_the_model_has(
    fake: Fake, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(scrape: int, text: str) -> str:
        (folder / "service.json").unlink(missing_ok=True)
        return text

    fake.edit = ended
    claims = claims_file(tmp_path, LIVE.format(at_least=RATIO - 2))
    assert run(["promote", "--claims", claims, "--every", "1s"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"rrr: the service at {fake.url} has ended, and its weights with it; quick has 10 % of default"
    )


@pytest.mark.parametrize(
    ("arguments", "text", "says"),
    [
        (["--steps", "25,10,100"], LIVE.format(at_least=3), "--steps is '25,10,100': expected percentages that ascend"),
        (["--steps", "100"], LIVE.format(at_least=3), "--steps is '100': "),
        (["--steps", "0,100"], LIVE.format(at_least=3), "--steps is '0,100': "),
        (["--steps", "a,100"], LIVE.format(at_least=3), "--steps is 'a,100': "),
        (["--every", "soon"], LIVE.format(at_least=3), "--every is 'soon': expected a duration such as 30s, 5m"),
        (["--every", "10ms"], LIVE.format(at_least=3), "--every is '10ms': allowed is 1s or more"),
        (["--route", "other"], LIVE.format(at_least=3), "has no route other: start it with rrr serve "),
        (["--model", "fast"], LIVE.format(at_least=3), "--model is 'fast': default divides its requests among slow, q"),
        (["--url", "http://127.0.0.1:1"], LIVE.format(at_least=3), "no such service is ready here; those that are: "),
        (
            [],
            LIVE.format(at_least=3).replace("baseline: slow", "baseline: slov"),
            "claim 'ratio' is about slov, and default gives traffic to slow, quick alone. Did you mean 'slow'?",
        ),
        (
            [],
            "version: 1\nclaims: [{name: c, kind: coverage, model: quick, coverage: 0.9, at_least: 0.8}]\n",
            "claim 'c' is judged by answers to labelled images, not by traffic: leave it to rrr verify --data DIR",
        ),
        (
            [],
            "version: 1\nclaims: [{name: c, kind: latency, model: slow, at_most_ms: 8}]\n",
            "no claim is about quick: nothing would tell whether it may have more of default",
        ),
    ],
)
def test_what_cannot_be_promoted_is_refused_before_anything_is_moved(
    arguments: list[str], text: str, says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["promote", "--claims", claims_file(tmp_path, text), *arguments]) == 2
    assert says in capsys.readouterr().err
    assert read_routes(folder).number == 1


def test_only_one_promotion_moves_weights_at_a_time(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RoutesControl(folder).held():
        assert run(["promote", "--claims", claims_file(tmp_path, LIVE.format(at_least=3))]) == 1
    assert "another rrr promote moves weights of this service: let it end first" in capsys.readouterr().err
