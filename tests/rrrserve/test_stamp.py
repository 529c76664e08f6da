"""Claims beside artifacts: what is written, what makes them stale, and that a broken stamp breaks nothing else."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.verdicts import SENTENCE, verdicts
from rrrbuild.manifest import MANIFEST
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import DOCUMENT, read_repository
from rrrnet import sealed
from rrrnet.errors import UsageError
from rrrserve.stamps import environment
from rrrserve.stamps.stamp import STAMP, write_stamps
from rrrserve.stamps.travelling import StampedClaim, engine_claims, served_claims
from rrrserve.tune.choose import Candidate
from rrrserve.tune.measure import apply


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Path:
    """A copy of the repository, made from a copy of the ensemble's engine."""
    source = read_repository(repository)
    engines = []
    for model in source.models:
        assert model.engine is not None
        engines.append(Path(shutil.copytree(model.engine, tmp_path / "engines" / model.name)))
    written = write_repository(engines, tmp_path / "repository", backends=frozenset({"python"}))
    return written.path


def claims_of(path: Path, name: str = "tiny") -> tuple[StampedClaim, ...]:
    repository = read_repository(path)
    return served_claims(repository, next(model for model in repository.models if model.name == name))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a stamp and seal it again."""
    document = json.loads(path.read_text())
    change(document)
    sealed.seal_alone(path, document)


def test_a_stamp_holds_verdict_environment_and_the_digests_of_both_models(own: Path) -> None:
    engines = own.parent / "engines"
    written = write_stamps(verdicts("faster"), own)
    assert written == [folder / name / STAMP for name in ("tiny", "single") for folder in (own, engines)]
    document = json.loads(written[0].read_text())
    assert (document["format"], document["kind"], document["model"]) == (1, "rrr-claims", "tiny")
    entry = document["claims"]["faster"]
    assert entry["verdict"]["evidence"] == {"blocks": 20}
    assert entry["environment"] == environment.describe()
    assert set(entry["artifacts"]) == {"tiny", "single"}
    files = entry["artifacts"]["single"]["files"]
    assert files["single/config.pbtxt"] == sealed.sha256_of(own / "single" / "config.pbtxt")
    assert files["single/1/model.onnx"] == sealed.sha256_of(own / "single" / "1" / "model.onnx")
    assert entry["artifacts"]["tiny"]["engine_sha256"] == sealed.sha256_of(engines / "tiny" / MANIFEST)


def test_an_unchanged_artifact_carries_a_fresh_claim(own: Path) -> None:
    write_stamps(verdicts("faster"), own)
    (claim,) = claims_of(own)
    assert not claim.stale
    assert claim.line() == f"claim: {SENTENCE}: pass, 5.31 x (5.18 to 5.44)"
    assert claim.to_json() == {
        "name": "faster",
        "sentence": SENTENCE,
        "verdict": "pass",
        "estimate": 5.31,
        "interval": (5.18, 5.44),
        "unit": "x",
        "verified_at": "2026-11-22T10:00:00Z",
        "stale": False,
        "stale_reasons": (),
    }
    assert engine_claims(own.parent / "engines" / "tiny") == (claim,)


def test_two_runs_merge_by_name_and_the_later_one_stays(own: Path) -> None:
    write_stamps(verdicts("faster", "smaller"), own)
    write_stamps(verdicts("faster", "new", started="2026-11-22T12:00:00Z", estimate=5.2), own)
    write_stamps(verdicts("faster", started="2026-11-22T11:00:00Z", estimate=9.9), own)
    found = {claim.name: (claim.estimate, claim.verified_at) for claim in claims_of(own)}
    assert found == {
        "faster": (5.2, "2026-11-22T12:00:00Z"),
        "smaller": (5.31, "2026-11-22T10:00:00Z"),
        "new": (5.2, "2026-11-22T12:00:00Z"),
    }


def test_a_stamp_is_outside_of_every_seal_and_goes_when_the_artifact_is_written_anew(own: Path) -> None:
    seal = sealed.sha256_of(own / DOCUMENT)
    write_stamps(verdicts("faster"), own)
    assert sealed.sha256_of(own / DOCUMENT) == seal
    engines = [own.parent / "engines" / name for name in ("tiny", "single")]
    again = write_repository(engines, own, backends=frozenset({"python"}))
    assert [served_claims(again, model) for model in again.models] == [(), ()]
    assert [len(engine_claims(engine)) for engine in engines] == [1, 1]


def test_tuned_settings_make_the_claims_of_both_models_stale(own: Path) -> None:
    write_stamps(verdicts("faster"), own)
    repository = read_repository(own)
    tuned = next(model for model in repository.models if model.name == "single")
    chosen = Candidate(instances=1, threads=7, queue_delay_us=0)
    apply(repository, tuned, chosen, sealed.sha256_of(own / DOCUMENT), {"model": "single"})
    for name in ("tiny", "single"):
        (claim,) = claims_of(own, name)
        assert claim.stale_reasons == ("files changed since: single/config.pbtxt",)
        assert claim.line() == (
            f"claim: {SENTENCE}: stale (files changed since: single/config.pbtxt), was pass 5.31 x (5.18 to 5.44)"
        )


@pytest.mark.parametrize(
    ("part", "key", "value", "reason"),
    [
        ("machine", "cpu", "Other", r"CPU: Other when verified, .* now"),
        ("machine", "cores", 999, r"usable cores: 999 when verified, \d+ now"),
        ("machine", "gpu", {"name": "H100"}, r"GPU: H100 when verified, .* now"),
        ("machine", "cpu_features", ["warp"], r"CPU features: now without warp.*"),
        ("versions", "rrr", "0.0.1", r"rrr 0\.0\.1 when verified, .* now"),
        ("versions", "onnxruntime", "1.0", r"onnxruntime 1\.0 when verified, .* now"),
        ("versions", "nvidia-pytriton", None, r"nvidia-pytriton \(none\) when verified, .* now"),
    ],
)
def test_other_hardware_or_versions_make_a_claim_stale(
    own: Path, part: str, key: str, value: object, reason: str
) -> None:
    document = verdicts("faster")
    document["environment"] = json.loads(json.dumps(document["environment"]))
    document["environment"][part][key] = value
    write_stamps(document, own)
    (claim,) = claims_of(own)
    assert any(re.fullmatch(reason, found) for found in claim.stale_reasons), claim.stale_reasons


def test_a_package_that_the_models_do_not_run_on_may_change(own: Path) -> None:
    document = verdicts("faster")
    versions = {**document["environment"]["versions"], "openvino": "1.0", "torch": "1.0"}
    document["environment"] = {**document["environment"], "versions": versions}
    write_stamps(document, own)
    assert not claims_of(own)[0].stale


def test_a_model_that_is_gone_or_built_again_makes_a_claim_stale(own: Path) -> None:
    write_stamps(verdicts("faster"), own)
    repository = read_repository(own)
    alone = replace(repository, models=repository.models[:1])
    assert served_claims(alone, alone.models[0])[0].stale_reasons == ("single is not here any more",)
    engine = own.parent / "engines" / "tiny"
    (engine / MANIFEST).write_text((engine / MANIFEST).read_text() + " ")
    assert engine_claims(engine)[0].stale_reasons == ("the engine was built again since",)


def test_an_engine_folder_with_another_or_a_damaged_engine_gets_no_stamp(own: Path) -> None:
    engines = own.parent / "engines"
    (engines / "tiny" / "stem.onnx").write_bytes(b"damaged")
    shutil.rmtree(engines / "single")
    shutil.copytree(engines / "tiny", engines / "single")
    assert write_stamps(verdicts("faster"), own) == [own / "tiny" / STAMP, own / "single" / STAMP]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_text(path.read_text().replace('"pass"', '"fail"')), "changed after it was written"),
        (lambda path: path.write_bytes(b""), "changed after it was written"),
        (lambda path: path.write_bytes(b"\xff\xfe{"), "changed after it was written"),
        (lambda path: path.write_text("[" * 100_000), "changed after it was written"),
        (lambda path: edit(path, lambda document: document.update(format=2)), "format: Input should be 1"),
        (lambda path: edit(path, lambda document: document.pop("claims")), "claims: Field required"),
        (
            lambda path: edit(path, lambda document: document["claims"]["faster"]["verdict"].update(estimate="x")),
            "claims.faster.verdict.estimate: Input should be a valid number",
        ),
        (lambda path: edit(path, lambda document: document["claims"]["faster"]["artifacts"].clear()), "is not about"),
        (lambda path: path.write_bytes(b" " * (4 * 2**20 + 1)), "no regular file of at most 4194304 bytes"),
    ],
)
def test_a_broken_stamp_is_shown_as_unreadable_and_replaced(
    own: Path, damage: Callable[[Path], object], reason: str
) -> None:
    path = write_stamps(verdicts("faster"), own)[0]
    damage(path)
    (claim,) = claims_of(own)
    assert (claim.name, claim.verdict, claim.stale) == (STAMP, "unreadable", True)
    assert reason in claim.stale_reasons[0]
    assert str(own) not in claim.stale_reasons[0], "clients see it"
    assert claim.line().endswith("write it again with rrr verify --stamp")
    write_stamps(verdicts("other"), own)
    assert [found.name for found in claims_of(own)] == ["other"]


def test_control_characters_do_not_reach_the_terminal(own: Path) -> None:
    document = verdicts("faster")
    document["verdicts"][0]["sentence"] = "fast\x1b[2J\nready: http://elsewhere"
    write_stamps(document, own)
    assert claims_of(own)[0].line().startswith("claim: fast [2J ready: http://elsewhere: pass")


def test_verdicts_about_other_models_are_refused_with_the_names(own: Path) -> None:
    document = verdicts("faster")
    document["verdicts"][0]["models"] = ["glyphs"]
    with pytest.raises(UsageError, match=r"they are about glyphs, and it holds tiny, single"):
        write_stamps(document, own)
    assert not (own / "tiny" / STAMP).exists()


def test_the_service_shows_fresh_stale_and_unreadable_claims(
    own: Path, start_service: Callable[..., Any], png: Callable[[int], bytes]
) -> None:
    write_stamps(verdicts("faster"), own)
    (own / "single" / STAMP).write_text("{}")
    served = start_service(str(own), "--port", "0")
    log = served.log.read_text()
    assert f"tiny: claim: {SENTENCE}: pass, 5.31 x (5.18 to 5.44)" in log
    assert "single: claims unreadable: claims.json was changed after it was written; write it again with" in log
    with httpx.Client(base_url=served.url, trust_env=False, timeout=30) as client:
        tiny, single = client.get("/v1/models").json()["models"]
        assert [claim["verdict"] for claim in single["claims"]] == ["unreadable"]
        (claim,) = tiny["claims"]
        assert (claim["sentence"], claim["estimate"], claim["interval"]) == (SENTENCE, 5.31, [5.18, 5.44])
        assert claim["stale"] is False
        properties = client.get("/docs.json").json()["components"]["schemas"]["ServedClaim"]["properties"]
        assert set(claim) == set(properties)
        edit(own / "tiny" / STAMP, lambda stamp: stamp["claims"]["faster"]["environment"]["machine"].update(cores=999))
        (claim,) = client.get("/v1/models").json()["models"][0]["claims"]
        assert claim["stale"] is True
        assert claim["stale_reasons"][0].startswith("usable cores: 999 when verified")
        assert client.post("/v1/predict", content=png(0)).status_code == 200
