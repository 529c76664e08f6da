"""Verdicts from bench results and from artifacts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrrbuild.manifest import MANIFEST, read_engine
from rrrbuild.repository_document import read_repository, write_document
from rrrnet import sealed
from rrrserve.bench.figures import figures, histogram_of
from rrrserve.claims.artifacts import Artifacts
from rrrserve.claims.bench_file import BenchEvidence
from rrrserve.claims.claims_file import read_claims
from rrrserve.claims.evaluate import evaluate
from rrrserve.claims.kinds import KINDS
from rrrserve.claims.verdicts import Verdict
from rrrserve.cli import run

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
    return {"model": model, "level": "http", "mode": "closed", "concurrency": 1, "errors": {}, "rounds": rounds}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A result with two models, and a search for the highest rate of one."""
    tried = [{"rate_per_second": rate, "p99_ms": 10.0, "ok": rate < 90} for rate in (50.0, 80.0, 100.0)]
    searched = {"model": "quick", "p99_ms_limit": 20.0, "rate_per_second": 80.0, "p99_ms": 10.0, "tried": tried}
    document = {
        "format": 1,
        "kind": "rrr-bench",
        "command": "rrr bench --rounds 12",
        "started": "2020-02-29T12:00:00Z",
        "environment": {"machine": {"cpu": "an older one", "cores": 64}, "versions": {"rrr": "0.0.1"}},
        "runs": [bench_run("quick", 0.01, 200, 1), bench_run("slow", 0.01 * RATIO, 200, 2)],
        "highest_rate": [searched],
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
        ({"at_least_per_second": 75, "p99_ms": 20}, "pass", "bound_met", "measured 80 (80 to 100) 1/s"),
        ({"at_least_per_second": 90, "p99_ms": 20}, "undecided", "interval_straddles_bound", "search more finely"),
        ({"at_least_per_second": 120, "p99_ms": 20}, "fail", "bound_missed", "which is not at least 120 1/s"),
        ({"at_least_per_second": 90, "p99_ms": 30, "concurrency": 1}, "pass", "bound_met", "at least 90 1/s"),
        (
            {"at_least_per_second": 90, "p99_ms": 9, "concurrency": 1},
            "fail",
            "bound_missed",
            "at most 9 ms are claimed",
        ),
        ({"at_least_per_second": 90, "p99_ms": 9}, "undecided", "no_evidence", "but http at 1; --concurrency selects"),
    ],
)
def test_throughput_from_a_search_or_from_runs(
    bench: Path, fields: dict[str, Any], verdict: str, reason: str, message: str
) -> None:
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
        ('{"kind": "rrr-verdicts", "format": 1}', 3, "is not a result of rrr bench --out"),
        (
            json.dumps({**document, "runs": [{**document["runs"][0], "rounds": [{}] * 9}]}),
            3,
            "rounds are not as rrr bench",
        ),
        (json.dumps({**document, "runs": [{**document["runs"][0], "rounds": []}]}), 1, "1 undecided: it"),
        (json.dumps({**document, "runs": document["runs"][1:]}), 1, "1 undecided: it"),
        (json.dumps(document), 0, ""),
    ):
        bench.write_text(text)
        assert run([*command, str(bench)]) == code
        assert message in capsys.readouterr().err
    assert run([*command, str(tmp_path / "none.json")]) == 3


def test_figures_of_rrr_bench_are_read_as_it_writes_them() -> None:
    """The fields of a round that `bench_run` makes up are among those that the real ones have."""
    assert {"ok", "errors", "wall_seconds", "mean_ms"} <= figures([]).keys()


def artifact(repository: Path, **fields: Any) -> Verdict:
    """The verdict on a claim about `single` from artifacts."""
    claim = KINDS[fields["kind"]].model_validate({"name": "it", "model": "single", **fields})
    return Artifacts(repository, repository.parent / "engines").verdict(claim, ALPHA)  # type: ignore[arg-type]


def test_sizes_are_exact_and_ratios_are_the_baselines(repository: Path) -> None:
    models = {model["name"]: model for model in json.loads((repository / "repository.json").read_text())["models"]}
    parameters = models["single"]["parameters"]
    for bound, verdict in (({"at_most": parameters}, "pass"), ({"at_most": parameters - 1}, "fail")):
        found = artifact(repository, kind="parameters", **bound)
        assert (found.verdict, found.interval) == (verdict, (parameters, parameters, parameters, None))
    ratio = models["tiny"]["macs"] / models["single"]["macs"]
    found = artifact(repository, kind="macs", baseline="tiny", at_least=0.99 * ratio, at_most=1.01 * ratio)
    assert found.verdict == "pass"
    files = read_engine(repository / "single" / "1").files
    found = artifact(repository, kind="engine_bytes", at_least=1)
    assert found.interval is not None
    assert found.interval.value == sum(entry["size_bytes"] for entry in files.values())


def test_agreement_has_the_interval_of_its_few_images(repository: Path) -> None:
    """8 of 8 images agree; Wilson's interval of that begins at 0.6756."""
    sure, bold = (artifact(repository, kind="agreement", at_least=share) for share in (0.65, 0.9))
    assert (sure.verdict, sure.samples) == ("pass", {"single": 8})
    assert (bold.verdict, bold.reason) == ("undecided", "interval_straddles_bound")
    assert bold.interval is not None
    assert (bold.interval.value, bold.interval.high) == (1.0, 1.0)
    assert bold.interval.low == pytest.approx(0.6756, abs=1e-4)
    assert "rrr build --images" in bold.explanation


@pytest.mark.parametrize(
    ("fields", "reason", "message"),
    [
        ({"kind": "accuracy_difference", "at_least_points": -1}, "not_verified", "which have no labels"),
        ({"kind": "parameters", "baseline": "tinny", "at_least": 1}, "unknown_model", "Did you mean 'tiny'?"),
        ({"kind": "agreement", "other_target": "openvino-bf16", "at_least": 0.5}, "no_evidence", "there is no engine"),
    ],
)
def test_what_artifacts_do_not_hold_is_undecided(
    repository: Path, fields: dict[str, Any], reason: str, message: str
) -> None:
    found = artifact(repository, **fields)
    assert (found.verdict, found.reason) == ("undecided", reason)
    assert message in found.explanation


def with_accuracies(repository: Path, folder: Path) -> Path:
    """A copy whose manifests were verified on 200 labelled images; `single` has an engine of another target too."""
    copy = Path(shutil.copytree(repository, folder / "repository", ignore=shutil.ignore_patterns("__pycache__")))
    for model, figures_of_it in {"single": (0.895, 0.9, 0.985), "tiny": (0.5, 0.5, 1.0)}.items():
        document = json.loads((copy / model / "1" / MANIFEST).read_text())
        names = ("accuracy", "reference_accuracy", "label_agreement")
        document["verified"] |= {"images": 200, **dict(zip(names, figures_of_it, strict=True))}
        sealed.seal(copy / model / "1", MANIFEST, document)
        document["target"], document["verified"]["label_agreement"] = "openvino-fp32", 0.99
        (folder / "engines" / model / "openvino-fp32").mkdir(parents=True)
        sealed.seal(folder / "engines" / model / "openvino-fp32", MANIFEST, document)
    write_document(copy, read_repository(repository).models)
    return copy


def test_accuracies_of_engine_checkpoint_and_baseline(tmp_path: Path, repository: Path) -> None:
    """PyTorch has 180 of 200 right, the engine 179 with 3 labels changed, the baseline 100."""
    copy = with_accuracies(repository, tmp_path)
    lost = artifact(copy, kind="accuracy_difference", at_least_points=-3)
    assert lost.interval is not None
    assert lost.verdict == "pass"
    assert lost.interval.value == pytest.approx(-0.5)
    assert -2.5 < lost.interval.low < -0.5 < 0 < lost.interval.high < 2
    gained = artifact(copy, kind="accuracy_difference", baseline="tiny", at_least_points=30)
    assert gained.interval is not None
    assert gained.verdict == "pass"
    assert gained.interval.value == pytest.approx(39.5)
    both = artifact(copy, kind="agreement", other_target="openvino-fp32", at_least=0.93)
    assert both.interval is not None
    assert both.verdict == "pass"
    assert both.interval.value == pytest.approx(0.975)  # 3 and 2 differ, at worst on other images


def test_artifacts_alone_need_no_service(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text("version: 1\nclaims: [{name: small, kind: parameters, model: single, at_most: 10000000}]\n")
    assert len(read_claims(path).claims) == 1
    assert run(["verify", "--claims", str(path), "--repository", str(repository), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["source"] == {"kind": "artifacts", "path": str(repository)}
    assert document["verdicts"][0]["evidence"]["parameters"].keys() == {"single"}
    assert run(["verify", "--claims", str(path), "--repository", str(tmp_path / "none"), "--json"]) == 1
    (verdict,) = json.loads(capsys.readouterr().out)["verdicts"]
    assert verdict["reason"] == "no_evidence"
    assert "none does not exist: expected a Triton repository" in verdict["explanation"]
