"""Only what was measured is stamped: the bench's own time and machine, and services that serve the very repository."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from rrrbuild.repository_document import read_repository, write_document
from rrrnet.errors import UsageError
from rrrserve.cli import run
from rrrserve.evidence.measured import check_measured
from rrrserve.stamps.stamp import STAMP

LATENCY = "version: 1\nclaims: [{name: quick, kind: latency, model: single, level: LEVEL, at_most_ms: 60000}]\n"
OTHER = "0123456789ab"


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the repository that the service serves, of the same digest; the engines' stamps go afterwards."""
    yield Path(shutil.copytree(repository, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__")))
    for model in read_repository(repository).models:
        (Path(model.engine or "") / STAMP).unlink(missing_ok=True)


@pytest.fixture
def other(copy: Path, tmp_path: Path) -> Path:
    """A repository of the same models that is not the same."""
    folder = Path(shutil.copytree(copy, tmp_path / "other"))
    write_document(folder, tuple(replace(model, engine=None) for model in read_repository(copy).models))
    return folder


@pytest.fixture
def verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run `rrr verify --stamp` with one claim: exit code, the verdicts (empty without any) and what was said last."""

    def verified(*arguments: object, claims: str = LATENCY, level: str = "http") -> tuple[int, dict[str, Any], str]:
        path = tmp_path / "claims.yaml"
        path.write_text(claims.replace("LEVEL", level))
        capsys.readouterr()
        code = run(["verify", "--claims", str(path), "--stamp", "--json", *map(str, arguments)])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else {}, said.err.strip().splitlines()[-1]

    return verified


def benched(folder: Path, *arguments: object) -> tuple[Path, dict[str, Any]]:
    """A result of `rrr bench` that could be from 2020 and another machine, and its document."""
    out = folder / "bench.json"
    load = ("--rounds", "8", "--seconds", "0.1", "--warm-up", "0", "--concurrency", "1", "--sizes", "32")
    assert run(["bench", *map(str, arguments), *load, "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    document["started"] = "2020-02-29T12:00:00Z"
    document["environment"]["machine"]["cpu"] = "an older one"
    out.write_text(json.dumps(document))
    return out, document


def answered(url: str) -> float:
    """Predictions that the service has answered."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    pattern = r'^rrr_request_duration_seconds_count\{.*route=".*/predict"\} (\S+)$'
    return sum(float(count) for count in re.findall(pattern, text, re.MULTILINE))


@pytest.mark.parametrize("level", ["http", pytest.param("engine", marks=pytest.mark.nightly)])
def test_a_bench_is_stamped_with_its_own_time_and_machine_if_it_measured_these_engines(
    level: str, service: Any, copy: Path, other: Path, tmp_path: Path, verify: Any
) -> None:
    subject = ("--url", service.url, "--model", "single") if level == "http" else ("--engine", copy / "single" / "1")
    bench, document = benched(tmp_path, *subject)
    (measured,) = document["runs"]
    digests = {"http": ("repository", read_repository(copy).short_digest), "engine": ("engine_sha256", None)}
    key, expected = digests[level]
    assert measured[key] == (expected or read_repository(copy).models[1].engine_sha256)
    code, verdicts, _ = verify("--bench", bench, "--repository", copy, level=level)
    assert (code, verdicts["started"], verdicts["environment"]) == (0, document["started"], document["environment"])
    (entry,) = json.loads((copy / "single" / STAMP).read_text())["claims"].values()
    assert (entry["verified_at"], entry["environment"]) == (document["started"], document["environment"])

    for digest, words in ((OTHER, OTHER), (None, "the bench result has no digest of single")):
        measured[key] = digest
        bench.write_text(json.dumps(document))
        out = tmp_path / "verdicts.json"
        code, verdicts, said = verify("--bench", bench, "--repository", other, "--out", out, level=level)
        assert (code, json.loads(out.read_text())) == (2, verdicts), "verdicts are kept where they cannot be stamped"
        assert words in said
        assert "nothing was stamped" in said
        assert not (other / "single" / STAMP).exists()


@pytest.mark.nightly
def test_a_bench_over_which_the_repository_changed_warns_and_holds_no_digest(
    service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rrrserve.bench.clients.subjects.repository_now", lambda url, options: OTHER)
    _, document = benched(tmp_path, "--url", service.url, "--model", "single")
    assert document["runs"][0]["repository"] is None
    assert (
        f"does not serve the repository any more that it served in the beginning ({OTHER} now)"
        in (document["client"]["warnings"][-1])
    )


@pytest.mark.nightly
def test_a_bench_that_does_not_tell_when_and_where_it_was_made_is_refused(
    copy: Path, tmp_path: Path, verify: Any
) -> None:
    bench, document = benched(tmp_path, "--engine", copy / "single" / "1")
    for change in ({"started": "yesterday"}, {"started": "2020-02-29T12:00:00"}, {"environment": {"machine": "mine"}}):
        bench.write_text(json.dumps(document | change))
        code, verdicts, said = verify("--bench", bench, "--repository", copy, level="engine")
        assert (code, verdicts) == (3, {})
        assert f"{bench} is not as rrr bench --out writes it: {next(iter(change))}" in said


def test_a_driven_service_is_stamped_on_its_own_repository_and_another_is_refused_before_any_load(
    service: Any, copy: Path, other: Path, verify: Any
) -> None:
    here, elsewhere = (read_repository(path).short_digest for path in (copy, other))
    drive = ("--scrape", service.url, "--drive", "--seconds", "600")
    before = answered(service.url)
    code, verdicts, said = verify(*drive, "--repository", other)
    assert (code, verdicts) == (2, {})
    assert f"{service.url} served the repository {here}, and --repository {other} is {elsewhere}" in said
    assert answered(service.url) == before
    code, verdicts, said = verify(*drive, "--repository", copy)
    assert (code, verdicts["measured"][0]["repositories"]) == (0, [here])
    assert said == f"stamped: {Path(read_repository(copy).models[1].engine or '') / STAMP}"


@pytest.mark.nightly
def test_prometheus_has_to_remember_the_repository_that_is_stamped(
    observed: Any, copy: Path, other: Path, verify: Any
) -> None:
    window = ("--prometheus", observed.url, "--range", f"{round(time.time() - observed.started)}s")
    code, _, said = verify(*window, "--repository", other)
    here, elsewhere = (read_repository(path).short_digest for path in (copy, other))
    assert code == 2
    assert f"{observed.service.url.removeprefix('http://')} served the repository {here}, and " in said
    assert f"{other} is {elsewhere}" in said
    code, verdicts, _ = verify(*window, "--repository", copy, "--allow-undecided")
    assert (code, verdicts["measured"][0]["repositories"]) == (0, [here])
    assert (copy / "single" / STAMP).is_file()
    nobody = LATENCY.replace("model: single", "model: tiny, statistic: p99")
    code, _, said = verify("--prometheus", observed.url, "--range", "1ms", "--repository", copy, claims=nobody)
    assert code == 2, "no counters in a millisecond"
    assert "nothing was stamped" in said


@pytest.mark.parametrize(
    ("repositories", "words"),
    [
        ([OTHER], f"http://h:1 served the repository {OTHER}, and --repository"),
        (["HERE", OTHER], f"http://h:1 served the repository {OTHER}, and --repository"),
        ([""], "http://h:1 told no repository (rrr_repository_info), and --repository"),
        (["", "HERE"], "http://h:1 told no repository"),
        ([], "http://h:1 told no repository"),
        (None, "nothing tells that --repository"),
    ],
)
def test_verdicts_about_another_or_an_unknown_repository_are_not_stamped(
    repositories: list[str] | None, words: str, repository: Path
) -> None:
    served = read_repository(repository)
    told = [served.short_digest if digest == "HERE" else digest for digest in repositories or ()]
    place = {"where": "http://h:1", "repositories": told, "model": None, "engine_sha256": None}
    document = {"verdicts": [{"kind": "speedup"}], "measured": [] if repositories is None else [place]}
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        check_measured(document, served)
    assert served.short_digest in str(caught.value)
    check_measured({"verdicts": [{"kind": "parameters"}], "measured": []}, served)
    check_measured({**document, "measured": [{**place, "repositories": [served.short_digest]}]}, served)


def test_what_cannot_be_stamped_is_said_before_the_load(service: Any, copy: Path, verify: Any) -> None:
    before = answered(service.url)
    drive = ("--scrape", service.url, "--drive", "--seconds", "600", "--repository", copy)
    code, verdicts, said = verify(*drive, claims=LATENCY.replace("single", "resnet"))
    assert (code, verdicts) == (2, {})
    assert f"no claim names a model of {copy}: they are about resnet, and it holds tiny, single" in said
    in_the_way = Path(read_repository(copy).models[1].engine or "") / STAMP
    in_the_way.mkdir()
    try:
        code, verdicts, said = verify(*drive)
    finally:
        in_the_way.rmdir()
    assert (code, verdicts) == (2, {})
    assert said == f"rrr: --stamp is {in_the_way}, which is a folder: name a file"
    assert answered(service.url) == before
