"""Verdicts from scraped text, over real HTTP: the same claims, and one thing after another goes wrong."""

import json
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from rrrserve.cli import run
from rrrserve.metrics import BUCKETS

Edit = Callable[[str], str]
RATIO = 5.0


class Fake:
    """A server whose `/metrics` goes on by one block of requests with every scrape."""

    def __init__(self, requests: int, *, seed: int = 0) -> None:
        self.registry = CollectorRegistry()
        self.spent = Histogram(
            "rrr_inference_duration_seconds", "", ["model", "target"], buckets=BUCKETS, registry=self.registry
        )
        self.random = np.random.default_rng(seed)
        self.requests = requests
        self.edit: Callable[[int, str], str] = lambda _, text: text
        self.triton = ""
        self.scrapes = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                text = fake.triton if self.path == "/metrics/triton" else fake.advance()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def advance(self) -> str:
        speed = self.random.lognormal(0, 0.1)
        for model, mean in (("quick", 0.01), ("slow", 0.01 * RATIO)):
            child = self.spent.labels(model, "any")
            for seconds in mean * speed * self.random.lognormal(-0.02, 0.2, self.requests):
                child.observe(seconds)
        self.scrapes += 1
        return self.edit(self.scrapes, generate_latest(self.registry).decode())


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake(100)
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(autouse=True)
def quick_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty blocks within a fraction of a second: the fake's time passes with scrapes."""
    monkeypatch.setattr("rrrserve.claims.scrape._MIN_BLOCK_SECONDS", 0.01)


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
    return json.loads(said.out)["verdicts"], said.err.strip().splitlines()[-1]


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
    assert found[0]["queries"] == [
        '(sum(increase(rrr_inference_duration_seconds_sum{model="slow"}[1s])) / '
        'sum(increase(rrr_inference_duration_seconds_count{model="slow"}[1s]))) / '
        '(sum(increase(rrr_inference_duration_seconds_sum{model="quick"}[1s])) / '
        'sum(increase(rrr_inference_duration_seconds_count{model="quick"}[1s])))'
    ]
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
    lines = [
        "rrr_inference_duration_seconds_sum" + line.split("_sum", 1)[1].rsplit(" ", 1)[0] + " NaN"
        if scrape >= 3 and line.startswith("rrr_inference_duration_seconds_sum")
        else line
        for line in text.splitlines()
    ]
    return "\n".join(lines) + "\n"


def _restarted() -> Callable[[int, str], str]:
    first: list[str] = []

    def edit(scrape: int, text: str) -> str:
        first.append(text)
        return first[0] if scrape == 6 else text

    return edit


def _frozen() -> Callable[[int, str], str]:
    first: list[str] = []

    def edit(_: int, text: str) -> str:
        first.append(text)
        return first[0]

    return edit


@pytest.mark.parametrize(
    ("edit", "reason", "message"),
    [
        (_nan, "not_a_number", 'rrr_inference_duration_seconds_sum{model="quick",target="any"} is nan'),
        (_restarted(), "counter_reset", "fell from"),
        (_frozen(), "no_traffic", "did not grow: no request was answered meanwhile; --drive sends some"),
        (
            replaced("rrr_inference_duration_seconds", "rrr_inference_time_seconds", at=0),
            "metric_missing",
            "Did you mean 'rrr_inference_time_seconds_count'?",
        ),
        (replaced('model="slow"', 'model="slov"', at=0), "unknown_model", "Did you mean 'slov'?"),
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
    fake.edit = _restarted()
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say where the evidence is, with --scrape"),
        (["--drive"], "--drive needs to know whom to ask"),
        (["--scrape", "localhost:3000"], "--scrape is 'localhost:3000': expected http://HOST:PORT"),
        (["--prometheus", "http://h:1", "--range", "5 minutes"], "--range is '5 minutes': expected a duration such as"),
        (["--prometheus", "http://h:1", "--scrape", "http://h:2"], "together need --drive"),
        (["--bench", "x.json", "--scrape", "http://h:2"], "--bench is evidence of its own"),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = claims_file(tmp_path, "mean at_least 4")
    assert run(["verify", "--claims", str(path), *arguments]) == 2
    assert message in capsys.readouterr().err
