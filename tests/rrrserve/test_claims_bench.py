"""Verdicts from results of `rrr bench`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrrserve.bench.clients.client import Client
from rrrserve.bench.clients.subjects import Subject
from rrrserve.bench.figures import finished, histogram_of
from rrrserve.bench.loops import Recorder
from rrrserve.bench.plan import BenchPlan, Load
from rrrserve.bench.result import Found
from rrrserve.bench.result_file import read_result
from rrrserve.bench.search import Search, Trial
from rrrserve.claims.kinds import KINDS
from rrrserve.cli import run
from rrrserve.judge.bench_file import BenchEvidence
from rrrserve.judge.evaluate import evaluate
from rrrserve.judge.verdicts import Verdict

ROOT = Path(__file__).parents[2]
ALPHA, RATIO, ROUNDS = 0.05, 5.0, 12


def bench_run(model: str, mean_seconds: float, requests: int, seed: int) -> dict[str, Any]:
    """A run as `rrr bench` writes it."""
    random = np.random.default_rng(seed)
    rounds = []
    for _ in range(ROUNDS):
        latencies = mean_seconds * random.lognormal(-0.005, 0.1, requests)
        histogram = histogram_of(latencies.tolist())
        wall, mean_ms = float(latencies.sum()), 1000 * float(latencies.mean())
        text = histogram.encode().decode()
        rounds.append({"ok": requests, "errors": {}, "wall_seconds": wall, "mean_ms": mean_ms, "histogram": text})
    load = {"model": model, "level": "http", "mode": "closed", "concurrency": 1}
    return {**load, "errors": {}, "rounds": rounds, "ok": requests * ROUNDS, "throughput": 1 / mean_seconds}


def search(requests: int = 1000, **changes: Any) -> dict[str, Any]:
    """A search as `rrr bench` writes it: 80/s kept p99 within 20 ms, 100/s did not."""
    tried = [
        {"rate_per_second": rate, "p99_ms": 10.0, "errors": 0, "requests": requests, "ok": rate < 90}
        for rate in (50.0, 80.0, 100.0)
    ]
    found = {"model": "quick", "level": "http", "p99_ms_limit": 20.0, "rate_per_second": 80.0, "p99_ms": 10.0}
    return {**found, "reason": "", "tried": tried, **changes}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A result with two models, and a search for the highest rate of one."""
    document = {
        "format": 1,
        "kind": "rrr-bench",
        "command": "rrr bench --rounds 12",
        "started": "2020-02-29T12:00:00Z",
        "environment": {"machine": {"cpu": "an older one", "cores": 64}, "versions": {"rrr": "0.0.1"}},
        "runs": [bench_run("quick", 0.01, 200, 1), bench_run("slow", 0.01 * RATIO, 200, 2)],
        "highest_rate": [search()],
    }
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(document))
    return path


def judged(path: Path, **fields: Any) -> Verdict:
    """The verdict on a claim about `quick` from a bench result."""
    claim = KINDS[fields["kind"]].model_validate({"name": "it", "model": "quick", **fields})
    return evaluate(claim, BenchEvidence(path, 1), ALPHA)  # type: ignore[arg-type]


def test_a_bench_decides_a_percentile_that_buckets_cannot(bench: Path) -> None:
    for statistic in ("mean", "p50", "p90"):
        true = judged(bench, kind="speedup", baseline="slow", statistic=statistic, at_least=4.8, at_most=5.2)
        assert (true.verdict, true.reason) == ("pass", "bound_met"), true.explanation
        assert true.interval is not None
        assert true.interval.low < RATIO < true.interval.high
        assert true.queries == ("rrr bench --rounds 12",)
        assert judged(bench, kind="speedup", baseline="slow", statistic=statistic, at_least=10).verdict == "fail"
    latency = judged(bench, kind="latency", statistic="p99", at_most_ms=20)
    assert (latency.verdict, latency.samples) == ("pass", {"quick": 200 * ROUNDS})
    assert latency.interval is not None
    assert latency.interval.value == pytest.approx(10 * np.exp(0.2326), rel=0.03)


@pytest.mark.parametrize(
    ("fields", "verdict", "reason", "message"),
    [
        ({"at_least_per_second": 90, "p99_ms": 30, "concurrency": 1}, "pass", "bound_met", "at least 90 1/s"),
        ({"at_least_per_second": 90, "p99_ms": 9, "concurrency": 1}, "fail", "bound_missed", "at most 9 ms are claim"),
        ({"at_least_per_second": 90, "p99_ms": 9}, "undecided", "no_evidence", "but http at 1, the highest rate of q"),
    ],
)
def test_throughput_from_runs(bench: Path, fields: dict[str, Any], verdict: str, reason: str, message: str) -> None:
    found = judged(bench, kind="throughput", **fields)
    assert (found.verdict, found.reason) == (verdict, reason), found.explanation
    assert message in found.explanation


def test_a_bench_result_that_is_none_or_too_short_is_refused(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = tmp_path / "claims.yaml"
    claims.write_text("version: 1\nclaims: [{name: it, kind: latency, model: quick, at_most_ms: 20}]\n")
    command = ["verify", "--claims", str(claims), "--bench"]
    document = json.loads(bench.read_text())
    for text, code, message in (
        ("{", 3, "is not JSON"),
        ("", 3, "is not JSON"),
        (bench.read_text()[:5000], 3, "is not JSON (Invalid JSON: EOF while parsing"),
        ("[" * 5000, 3, "is not JSON (Invalid JSON: recursion limit exceeded"),
        ((ROOT / "benchmarks" / "results" / "demo.json").read_text(), 3, "is not a result of rrr bench --out"),
        ('{"kind": "rrr-verdicts", "format": 1}', 3, "is not a result of rrr bench --out"),
        (
            json.dumps({**document, "runs": [{**document["runs"][0], "rounds": [{}] * 9}]}),
            3,
            "runs.0.rounds.0.ok: Field required",
        ),
        (json.dumps({**document, "runs": [{**document["runs"][0], "rounds": []}]}), 1, "1 undecided: it"),
        (json.dumps({**document, "runs": document["runs"][1:]}), 1, "1 undecided: it"),
        (json.dumps(document), 0, ""),
    ):
        bench.write_text(text)
        assert run([*command, str(bench)]) == code
        assert message in capsys.readouterr().err
    for path, message in ((tmp_path / "none.json", "No such file or directory"), (tmp_path, "Is a directory")):
        assert run([*command, str(path)]) == 3
        assert capsys.readouterr().err == f"rrr: {path} cannot be read: {message}\n"


def changed(path: Path, **fields: Any) -> Path:
    """The result with other top fields."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return path


def broken(**fields: Any) -> dict[str, Any]:
    """A run whose first round has other fields."""
    found = bench_run("quick", 0.01, 20, 1)
    found["rounds"][0] |= fields
    return found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runs": [{}]}, "runs.0.model: Field required"),
        ({"runs": [1]}, "runs.0: "),
        ({"runs": None}, "runs: Input should be a valid array, found None"),
        ({"runs": [{"model": "quick", "level": "http", "mode": "closed", "concurrency": 1}]}, "runs.0.errors: Field"),
        ({"runs": [{**bench_run("quick", 0.01, 20, 1), "concurrency": None}]}, "a run of mode closed needs concurr"),
        ({"runs": [{**bench_run("quick", 0.01, 20, 1), "errors": {"503": -1}}]}, "runs.0.errors.503: Input should be"),
        ({"runs": [broken(ok=-1)]}, "runs.0.rounds.0.ok: Input should be greater than or equal to 0, found -1"),
        ({"runs": [broken(mean_ms=float("nan"))]}, "runs.0.rounds.0.mean_ms: Input should be a finite number, found n"),
        ({"runs": [broken(mean_ms=1e300)]}, "runs.0.rounds.0.mean_ms: Input should be less than or equal to"),
        ({"runs": [broken(mean_ms=None)]}, "20 requests were answered, so mean_ms and wall_seconds must be above 0"),
        ({"runs": [broken(histogram="no")]}, "the rounds are not as rrr bench writes them"),
        ({"runs": [broken(histogram="HISTFAAAAB542pNpmSzMwMCgyAABTBBKgc3+x3EGhg8Q")]}, "the rounds are not as rrr b"),
        ({"runs": [broken(ok=21)]}, "a histogram of 20 requests where ok is 21"),
        ({"highest_rate": None}, "highest_rate: Input should be a valid array, found None"),
        ({"highest_rate": [{}]}, "highest_rate.0.model: Field required"),
        ({"highest_rate": [search(rate_per_second=1e-320)]}, "highest_rate.0.rate_per_second: Input should be greater"),
        ({"highest_rate": [search(rate_per_second=float("inf"))]}, "highest_rate.0.rate_per_second: Input should be a"),
    ],
)
def test_a_field_that_rrr_bench_does_not_write_is_named_in_one_line(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], message: str
) -> None:
    claims = tmp_path / "claims.yaml"
    claims.write_text("version: 1\nclaims: [{name: it, kind: latency, model: quick, at_most_ms: 20}]\n")
    assert run(["verify", "--claims", str(claims), "--bench", str(changed(bench, **fields))]) == 3
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def unanswered(errors: dict[str, int], answered: int) -> dict[str, Any]:
    """A run as `rrr bench` writes it, in which so many of a round's requests were answered."""
    found = bench_run("quick", 0.01, answered, 1) if answered else bench_run("quick", 0.01, 1, 1)
    if not answered:
        empty = {"ok": 0, "mean_ms": None, "histogram": histogram_of([]).encode().decode()}
        found["rounds"] = [{**entry, **empty} for entry in found["rounds"]]
    return {**found, "errors": errors}


@pytest.mark.parametrize(
    ("runs", "reason", "message"),
    [
        ([], "no_evidence", "has no runs, only the highest rate of quick at level http within p99 20 ms: rrr"),
        ([unanswered({"503": 240}, 0)], "no_traffic", "no request of quick (http at 1) was answered: 240 x 503"),
        ([unanswered({}, 0)], "no_traffic", "was answered: none was sent"),
        (
            [unanswered({"TimeoutError": 18000}, 200)],
            "requests_failed",
            "18000 of 20400 requests to quick (http at 1) failed: 18000 x TimeoutError",
        ),
        ([unanswered({"TimeoutError": 2400}, 200)], "bound_met", "as claimed"),
        (
            [{**bench_run("quick", 0.01, 200, 1), "target": target, "where": "engines/" + target} for target in "ab"],
            "no_evidence",
            "has 2 runs of quick at level http with 1 under way (a, batch 1, engines/a; b, batch 1, engines/b)",
        ),
        (
            [{**bench_run("quick", 0.01, 200, 1), "batch": batch} for batch in (1, 8)],
            "no_evidence",
            "has 2 runs of quick at level http with 1 under way (batch 1; batch 8): a claim is about one",
        ),
    ],
)
def test_runs_that_cannot_decide_a_claim_leave_it_undecided(
    bench: Path, runs: list[dict[str, Any]], reason: str, message: str
) -> None:
    found = judged(changed(bench, runs=runs), kind="latency", at_most_ms=20)
    assert (found.verdict, found.reason) == ("pass" if reason == "bound_met" else "undecided", reason)
    assert message in found.explanation


def test_only_equal_batches_are_compared(bench: Path) -> None:
    runs = [{**bench_run(model, 0.01, 200, 1), "batch": batch} for model, batch in (("quick", 1), ("slow", 8))]
    found = judged(changed(bench, runs=runs), kind="speedup", baseline="slow", at_least=4)
    assert (found.verdict, found.reason) == ("undecided", "no_evidence")
    assert "has quick with batch 1 and slow with batch 8: only equal batches are compared" in found.explanation


@pytest.mark.parametrize(
    ("searches", "bound", "verdict", "reason", "samples", "message"),
    [
        ([search()], 75, "pass", "bound_met", 1000, "measured 80 (80 to 100) 1/s"),
        ([search()], 90, "undecided", "interval_straddles_bound", 2000, "search more finely"),
        ([search()], 120, "fail", "bound_missed", 1000, "which is not at least 120 1/s"),
        ([search(100)], 75, "undecided", "too_few_samples", 100, "the trial of 80/s had 100 requests and p99 needs"),
        ([search(100)], 75, "undecided", "too_few_samples", 100, "search with rrr bench --p99-ms 20 --seconds 14"),
        ([search(999)], 120, "undecided", "too_few_samples", 999, "the trial of 100/s had 999 requests"),
        ([search(level="triton")], 75, "undecided", "no_evidence", None, "highest rate of quick at level triton"),
        ([search(), search()], 75, "undecided", "no_evidence", None, "has 2 searches for the highest rate of quick"),
    ],
)
def test_a_search_decides_over_http_and_with_enough_requests(
    bench: Path,
    searches: list[dict[str, Any]],
    bound: float,
    verdict: str,
    reason: str,
    samples: int | None,
    message: str,
) -> None:
    path = changed(bench, highest_rate=searches)
    found = judged(path, kind="throughput", p99_ms=20, at_least_per_second=bound)
    assert (found.verdict, found.reason) == (verdict, reason), found.explanation
    assert found.samples == ({} if samples is None else {"quick": samples})
    assert message in found.explanation


def nobody(*_: object) -> Client:
    raise AssertionError("nothing is sent here")


def test_what_rrr_bench_writes_is_read(tmp_path: Path) -> None:
    """Real documents: a closed and an open loop, one without any answer, a search with a rate and one without."""
    recorders = [Recorder(latencies_seconds=[0.01, 0.02], late_seconds=[0.001], wall_seconds=0.03), Recorder()]
    turns = [finished(recorder, 0.0) for recorder in recorders]
    loads = (Load(concurrency=1), Load(rate_per_second=5.0))
    subject = Subject("quick", "http", "openvino-bf16", 3, "http://h:1", 1, nobody, nobody)
    found = Found([subject, subject], BenchPlan(loads=loads, rounds=2, seconds=1.0), limits={"http": 1000.0})
    found.turns = {(0, loads[0]): turns, (1, loads[1]): turns, (1, loads[0]): turns[1:]}
    found.searches = {0: Search(20.0, [Trial(8.0, 9.0, 0, 100, ok=True)]), 1: Search(20.0, [])}
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(found.document()))
    result = read_result(path)
    assert [(item.load_text, item.answered, len(item.rounds)) for item in result.runs] == [
        ("http at 1", 2, 2),
        ("http at 5/s", 2, 2),
        ("http at 1", 0, 1),
    ]
    assert [(item.rate_per_second, len(item.tried)) for item in result.highest_rate] == [(8.0, 1), (None, 0)]
    assert str(result.runs[0]) == "openvino-bf16, batch 1, http://h:1"
