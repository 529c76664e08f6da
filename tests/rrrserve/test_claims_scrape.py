"""Verdicts from scraped text, over real HTTP: the same claims, and one thing after another goes wrong."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from harness.fake_metrics import RATIO, Fake, serving_metrics
from rrrserve.cli import run

Edit = Callable[[int, str], str]


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving_metrics() as server:
        yield server


@pytest.fixture(autouse=True)
def quick_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty blocks within a fraction of a second: the fake's time passes with scrapes."""
    monkeypatch.setattr("rrrserve.evidence.scrape._MIN_BLOCK_SECONDS", 0.01)


def claims_file(folder: Path, *claims: str, baseline: str = "slow") -> Path:
    """Claims on the ratio of the fake's two models: each given as "mean at_least 4"."""
    lines = ["version: 1", "claims:"]
    for index, claim in enumerate(claims):
        statistic, bound, value = claim.split()
        lines += [f"  - name: claim {index}", "    kind: speedup", "    model: quick", f"    baseline: {baseline}"]
        lines += ["    level: triton", f"    statistic: {statistic}", f"    {bound}: {value}"]
    path = folder / "claims.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def verdicts(
    capsys: pytest.CaptureFixture[str], path: Path, *arguments: str, code: int
) -> tuple[list[dict[str, Any]], str]:
    """The verdicts, and the last line on standard error."""
    assert run(["verify", "--claims", str(path), "--seconds", "0.3", "--json", *arguments]) == code
    said = capsys.readouterr()
    return json.loads(said.out)["verdicts"], "".join(said.err.strip().splitlines()[-1:])


def test_true_and_false_claims_and_one_that_buckets_cannot_tell(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = claims_file(tmp_path, "mean at_least 4", "mean at_least 10", "p50 at_least 5.1", "p50 at_least 3")
    found, said = verdicts(capsys, path, "--scrape", fake.url, code=1)
    assert [item["verdict"] for item in found] == ["pass", "fail", "undecided", "pass"]
    assert [item["reason"] for item in found] == ["bound_met", "bound_missed", "bucket_too_coarse", "bound_met"]
    low, high = found[0]["interval"]
    assert low < RATIO < high
    assert high / low < 1.1
    assert found[0]["samples"]["quick"] == found[0]["samples"]["slow"] == 100 * (fake.scrapes - 1)
    assert "claim the mean, or verify from a result of rrr bench" in found[2]["explanation"]
    mean = '(sum(increase({0}_sum{{model="{1}"}}[{2}] @ {3})) / sum(increase({0}_count{{model="{1}"}}[{2}] @ {3})))'
    query, command = found[0]["queries"]
    (window,), (moment,) = (set(re.findall(pattern, query)) for pattern in (r"\[(\w+)\]", r"@ ([\d.]+)"))
    name = "rrr_inference_duration_seconds"
    assert query == " / ".join(mean.format(name, model, window, moment) for model in ("slow", "quick"))
    assert 300 <= int(window.removesuffix("ms")) < 10_000  # the time from the first scrape to the last, not --seconds
    assert time.time() - 10 < float(moment) <= time.time()
    # So short a window may hold no two scrapes of a Prometheus.
    assert command == f"rrr verify --claims {path} --scrape {fake.url} --seconds 0.3 --concurrency 1"
    assert low < found[0]["evidence"]["pooled"] < high
    assert said == "rrr: 2 pass, 1 fail, 1 undecided: claim 1, claim 2"


def test_a_claim_at_the_true_ratio_is_undecided_with_few_samples_and_decided_with_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = claims_file(tmp_path, "mean at_least 4.85", "mean at_most 5.15")
    for requests, expected in ((2, "undecided"), (1000, "pass")):
        server = Fake(requests, seed=2)
        found, _ = verdicts(capsys, path, "--scrape", server.url, code=1 if expected == "undecided" else 0)
        server.server.shutdown()
        server.server.server_close()
        assert [item["verdict"] for item in found] == [expected] * 2
        if expected == "undecided":
            assert {item["reason"] for item in found} == {"interval_straddles_bound"}
            assert "measure longer (--seconds)" in found[0]["explanation"]


def replaced(old: str, new: str, *, at: int) -> Callable[[int, str], str]:
    """Change the text from one scrape on."""
    return lambda scrape, text: text.replace(old, new) if scrape >= at else text


def _nan(scrape: int, text: str) -> str:
    return re.sub(r"(?m)^(rrr_inference_duration_seconds_sum\S+) .*$", r"\1 NaN", text) if scrape >= 3 else text


def _first_text_again(*scrapes: int) -> Edit:
    """In these scrapes, by default in all, the counters stand as in the first."""
    first: list[str] = []

    def edit(scrape: int, text: str) -> str:
        first.append(text)
        return first[0] if scrape in scrapes or not scrapes else text

    return edit


def _bucket(old: str, new: str) -> Edit:
    """Change one model's buckets in one scrape amid the others."""
    return lambda scrape, text: (
        "".join(line.replace(old, new) if 'model="quick"' in line else line for line in text.splitlines(keepends=True))
        if scrape == 7
        else text
    )


def told(*names: str, at: int) -> Callable[[int, str], str]:
    """Metrics that tell what is served, which are those of the second of each pair from one scrape on."""
    return lambda scrape, text: text + "".join(f"{name.split(' | ')[scrape >= at]}\n" for name in names)


def engines(first: str, second: str) -> tuple[str, str]:
    """What a service tells before and after it was changed; "1 a" is version 1 from repository a."""
    info = 'rrr_model_info{{model="quick",version="{}",target="t",members="1"}} 1'
    words = [pair.split() for pair in (first, second)]
    repositories = " | ".join(f'rrr_repository_info{{repository="{repository}"}} 1' for _, repository in words)
    return " | ".join(info.format(version) for version, _ in words), repositories


RELOADED = 'rrr_reloads_total{outcome="switched"} 3 | rrr_reloads_total{outcome="switched"} 5'
STARTED = "process_start_time_seconds 1000 | process_start_time_seconds 1100"


@pytest.mark.parametrize(
    ("told_of", "reason", "message", "with_allow_resets"),
    [
        (
            engines("1 a", "2 a"),
            "engine_changed",
            "the engine was version 1 (t) and is version 2 (t)",
            "engine_changed",
        ),
        (engines("1 a", "1 b"), "engine_changed", "the repository was a and is b", "engine_changed"),
        ((*engines("1 a", "1 a"), RELOADED), "engine_changed", "was reloaded 2 times meanwhile", "bound_met"),
        ((*engines("1 a", "1 a"), STARTED), "counter_reset", "the service was restarted meanwhile", "bound_met"),
        ((*engines("1 a", "1 a"), STARTED.replace("1100", "1001")), "bound_met", "as claimed", "bound_met"),
    ],
)
def test_a_reload_or_a_restart_is_seen_though_no_counter_falls(
    fake: Fake,
    told_of: tuple[str, ...],
    reason: str,
    message: str,
    with_allow_resets: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake.edit = told(*told_of, at=6)
    path = claims_file(tmp_path, "mean at_least 4")
    found, _ = verdicts(capsys, path, "--scrape", fake.url, code=reason != "bound_met")
    assert found[0]["reason"] == reason
    assert message in found[0]["explanation"]
    fake.scrapes = 0
    found, _ = verdicts(capsys, path, "--scrape", fake.url, "--allow-resets", code=with_allow_resets != "bound_met")
    assert found[0]["reason"] == with_allow_resets
    assert found[0]["evidence"].get("dropped_blocks", 0) == 2 * (reason != with_allow_resets)  # one of each model


@pytest.mark.parametrize(
    ("edit", "reason", "message"),
    [
        (_nan, "not_a_number", 'rrr_inference_duration_seconds_sum{model="quick",target="any"} is nan'),
        (_first_text_again(6), "counter_reset", "fell from"),
        (_first_text_again(), "no_traffic", "did not grow: no request was answered meanwhile; --drive sends some"),
        (
            replaced("rrr_inference_duration_seconds", "rrr_inference_time_seconds", at=0),
            "metric_missing",
            "Did you mean 'rrr_inference_time_seconds_count'?",
        ),
        (replaced('model="slow"', 'model="slov"', at=0), "unknown_model", "Did you mean 'slov'?"),
        (_bucket('le="0.0', 'le="abc'), "bad_metrics", "has a bucket with le='abc"),
        (_bucket('le="+Inf"', 'le="NaN"'), "bad_metrics", "has a bucket with le='NaN': it must be a number above 0"),
        (
            _bucket('le="+Inf"', 'el="+Inf"'),
            "bad_metrics",
            "rrr_inference_duration_seconds_bucket of quick has a bucket w",
        ),
        (lambda _, text: "<html>not metrics at all</html>", "bad_metrics", "not in Prometheus's text format"),
        (lambda _, text: "", "metric_missing", "metrics seen: none of ours"),
    ],
)
def test_broken_metrics_each_have_their_message(
    fake: Fake, edit: Any, reason: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.edit = edit
    found, said = verdicts(capsys, claims_file(tmp_path, "mean at_least 4"), "--scrape", fake.url, code=1)
    assert (found[0]["verdict"], found[0]["reason"]) == ("undecided", reason)
    assert message in found[0]["explanation"]
    assert (found[0]["estimate"], found[0]["interval"]) == (None, None)
    assert said == "rrr: 1 undecided: claim 0"


def test_a_restart_can_be_left_out(fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake.edit = _first_text_again(6)
    path = claims_file(tmp_path, "mean at_least 4")
    found, _ = verdicts(capsys, path, "--scrape", fake.url, "--allow-resets", code=0)
    assert found[0]["verdict"] == "pass"
    assert "blocks were left out: a counter was reset or a target down" in found[0]["explanation"]


def test_a_dead_target_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    path = claims_file(tmp_path, "mean at_least 4")
    for arguments in (["--scrape", url], ["--scrape", url, "--drive"], ["--prometheus", url]):
        found, said = verdicts(capsys, path, *arguments, code=1)
        assert (found[0]["verdict"], found[0]["reason"]) == ("undecided", "target_down")
        assert url in found[0]["explanation"]
        assert "running" in found[0]["explanation"]
        assert said == "rrr: 1 undecided: claim 0"
    verdicts(capsys, path, "--scrape", url, "--allow-undecided", code=0)


@pytest.mark.parametrize(
    ("status", "drive", "message"),
    [
        (401, True, "/v1/models answered 401: --token-file FILE or RRR_TOKEN gives its token"),
        (401, False, "/metrics answered 401: --token-file FILE or RRR_TOKEN gives its token"),
        (503, True, "/v1/models answered 503"),
        (200, True, "/v1/models did not list models: is it an rrr service?"),
    ],
)
def test_a_service_that_refuses_says_why(
    fake: Fake, status: int, drive: bool, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.status = status
    arguments = ["--scrape", fake.url, *(["--drive"] if drive else [])]
    found, _ = verdicts(capsys, claims_file(tmp_path, "mean at_least 4"), *arguments, code=1)
    assert found[0]["reason"] == "target_down"
    assert found[0]["explanation"] == f"{fake.url}: GET {fake.url}{message}".removeprefix(f"{fake.url}: " * drive)


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("<html>", "target_down", "answered without JSON: is it a Prometheus?"),
        ('{"status": "success"}', "bad_metrics", "answered without results: is it a Prometheus?"),
        ('{"status": "success", "data": {"result": [{}]}}', "bad_metrics", "not as Prometheus: KeyError('metric')"),
    ],
)
def test_what_is_no_prometheus_leaves_claims_undecided(
    fake: Fake, text: str, reason: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.prometheus = text
    found, _ = verdicts(capsys, claims_file(tmp_path, "mean at_least 4"), "--prometheus", fake.url, code=1)
    assert (found[0]["verdict"], found[0]["reason"]) == ("undecided", reason)
    assert message in found[0]["explanation"]


TRITON = """\
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="quick",version="1"} 100
nv_inference_count{model="quick",version="1"} ROWS
nv_inference_exec_count{model="quick",version="1"} 100
nv_inference_compute_infer_duration_us{model="quick",version="1"} 100000
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TRITON.replace("ROWS", "130"), "Triton ran 3900 images of 3000 requests of quick in 3000 batches"),
        (TRITON.replace("ROWS", "100") + 'nv_inference_count{model="quick-combine"} 1\n', "quick is a Triton ensemble"),
    ],
)
def test_tritons_counters_are_refused_where_they_do_not_mean_an_engines_time(
    fake: Fake, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text("version: 1\nclaims: [{name: engine, kind: latency, model: quick, level: engine, at_most_ms: 2}]\n")

    def grown(scrape: int, ours: str) -> str:
        fake.triton = "".join(
            line + "\n" if line[0] == "#" else f"{line.rsplit(' ', 1)[0]} {scrape * int(line.rsplit(' ', 1)[1])}\n"
            for line in text.splitlines()
        )
        return ours

    fake.edit = grown
    found, _ = verdicts(capsys, path, "--scrape", fake.url, code=1)
    assert (found[0]["reason"], found[0]["verdict"]) == ("untrusted_metric", "undecided")
    assert message in found[0]["explanation"]


def test_every_format_holds_every_verdict(fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = claims_file(tmp_path, "mean at_least 4", "mean at_least 10", "p50 at_least 5.1")
    files = [tmp_path / name for name in ("out.json", "junit.xml", "claims.md")]
    options = [word for pair in zip(("--out", "--junit", "--markdown"), map(str, files), strict=True) for word in pair]
    command = ["verify", "--claims", str(path), "--scrape", fake.url, "--seconds", "0.3", *options]
    assert run(command) == 1
    said = capsys.readouterr()
    assert "1 pass, 1 fail, 1 undecided" in said.out
    document = json.loads(files[0].read_text())
    assert (document["format"], document["kind"], document["confidence"]) == (1, "rrr-verdicts", 0.95)
    assert set(document) == {
        *("format", "kind", "claims", "confidence", "started", "source", "environment", "measured", "verdicts"),
    }
    assert document["source"]["kind"] == "scrape"
    assert set(document["environment"]) == {"machine", "versions"}
    suites = ElementTree.parse(files[1]).getroot()  # noqa: S314  our own file
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("3", "1", "1")
    assert [case.get("name") for case in suites.iter("testcase")] == ["claim 0", "claim 1", "claim 2"]
    markdown = files[2].read_text()
    assert "# 1 pass, 1 fail, 1 undecided" in markdown
    assert markdown.count("claim 2") == 2
