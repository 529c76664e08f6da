"""`rrr claims init`: a claims file that rrr verify takes, from what a repository's documents hold."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rrrbuild import repository_document
from rrrbuild.manifest import BatchRange, Manifest, write_manifest
from rrrbuild.repository_document import Repository, ServedModel, read_repository, write_document
from rrrnet import sealed
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import Architecture, ensemble, full
from rrrserve.claims.claims_file import read_claims
from rrrserve.commands.claims import init
from rrrserve.judge.artifacts import Artifacts
from rrrserve.judge.draft import _above, _below

PROOF = {"images": 200, "label_agreement": 0.995, "accuracy": 0.94, "reference_accuracy": 0.945, "source": "images"}


def manifest(name: str, architecture: Architecture, milliseconds: float, verified: Any) -> Manifest:
    """Of an engine with one plan."""
    return Manifest(
        path=Path("/nowhere"),
        name=name,
        target="openvino-fp32",
        family="openvino",
        precision="fp32",
        plan="merged",
        architecture=architecture,
        labels=("a", "b"),
        preprocess=Preprocess(32),
        batch=BatchRange(1, 8, 32),
        inputs=[],
        outputs=[],
        versions={},
        device={},
        verified=verified,
        unverified_reason="" if verified else "another CPU",
        latency_ms={"merged": {"1": {"median": milliseconds}}} if verified else {},
        checkpoint={"name": name, "method": "ensemble", "sha256": "0"},
        data=None,
        command="tests",
        files={},
    )


def write(folder: Path, *manifests: Manifest, bytes_each: int = 1000) -> Repository:
    """A repository of engines that hold nothing but bytes, as many for a member as for a network."""
    models = []
    with sealed.staged(folder, document=repository_document.DOCUMENT) as stage:
        for one in manifests:
            version = stage / one.name / "1"
            version.mkdir(parents=True)
            size = bytes_each * (7 if one.architecture.is_full else 1)
            (version / "model.bin").write_bytes(bytes(size))
            write_manifest(one, version)
            weight = 70 if one.architecture.is_full else 10
            models.append(
                ServedModel(
                    name=one.name,
                    version="1",
                    target=one.target,
                    backend="python",
                    members=one.architecture.members,
                    max_batch_size=32,
                    labels=one.labels,
                    preprocess=one.preprocess,
                    image_size=32,
                    parameters=1000 * weight,
                    macs=999 * weight,
                    outputs=("probabilities",),
                )
            )
        write_document(stage, tuple(models))
    return read_repository(folder)


def claims_of(repository: Repository, out: Path) -> dict[str, dict[str, Any]]:
    """The claims of a file that the command writes, without what is not given, by kind and level."""
    init(repository.path, out, engines=out.parent, force=False, as_json=True)
    found = [claim.model_dump(exclude_unset=True) for claim in read_claims(out).claims]
    return {f"{claim['kind']} {claim.get('level', '')}".strip(): claim for claim in found}


def test_beside_a_resnet152_claims_are_ratios_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = manifest("1", ensemble(2, 8), 15.0, PROOF), manifest("whole", full(2), 96.0, PROOF)
    found = claims_of(write(tmp_path / "repository", fast, slow), tmp_path / "mine.yaml")
    assert {claim["model"] for claim in found.values()} == {"1"}, "a word, though it is a number in YAML"
    assert (found["speedup triton"]["baseline"], found["speedup triton"]["at_least"]) == ("whole", 4.4)
    assert found["speedup http"]["at_least"] == 3.2
    assert found["latency http"]["at_most_ms"] == 110
    assert [found[kind]["at_least"] for kind in ("parameters", "macs", "engine_bytes")] == [7.0, 7.0, 7.0]
    assert found["accuracy_difference"]["baseline"] == "whole"
    assert -6 < found["accuracy_difference"]["at_least_points"] < -4
    assert found["agreement"]["at_least"] == 0.97


def test_beside_several_whole_backbones_each_model_is_compared_with_its_own(tmp_path: Path) -> None:
    networks = [
        manifest("whole-152", full(2), 96.0, PROOF),
        manifest("whole-50", full(2, backbone="resnet50"), 35.0, PROOF),
        manifest("mine-50", ensemble(2, 8, backbone="resnet50"), 15.0, PROOF),
        manifest("mine-101", ensemble(2, 8, backbone="resnet101"), 15.0, PROOF),
    ]
    repository = write(tmp_path / "repository", *networks)
    init(repository.path, tmp_path / "mine.yaml", engines=tmp_path, force=False, as_json=True)
    found = [claim.model_dump() for claim in read_claims(tmp_path / "mine.yaml").claims]
    pairs = {(claim["model"], claim["baseline"]) for claim in found if claim["kind"] == "speedup"}
    assert pairs == {("mine-50", "whole-50"), ("mine-101", "whole-152")}, "of its own backbone, else the first there is"


def test_without_one_they_are_bounds_of_each_model_and_what_documents_hold_passes(tmp_path: Path) -> None:
    repository = write(tmp_path / "repository", manifest("mine", ensemble(2, 4), 4.0, PROOF))
    found = claims_of(repository, tmp_path / "mine.yaml")
    assert set(found) == {
        *("latency http", "parameters", "macs", "engine_bytes", "accuracy_difference", "agreement")
    }  # fmt: skip
    assert found["latency http"]["at_most_ms"] == 50
    assert found["parameters"]["at_most"] == 10_000
    judged = [
        Artifacts(repository.path, tmp_path).verdict(claim, 0.05).verdict  # type: ignore[arg-type]  # all but the first
        for claim in read_claims(tmp_path / "mine.yaml").claims[1:]
    ]
    assert judged == ["pass"] * 5


def test_an_engine_that_was_never_run_gets_no_claims_on_accuracy(tmp_path: Path) -> None:
    other = replace(manifest("other", ensemble(2, 4), 4.0, False), target="tensorrt-fp16")
    found = claims_of(write(tmp_path / "repository", other), tmp_path / "mine.yaml")
    assert set(found) == {"latency http", "parameters", "macs", "engine_bytes"}
    assert found["latency http"]["at_most_ms"] == 1000
    assert "the engine's time is not known" in (tmp_path / "mine.yaml").read_text()


def test_a_file_that_is_there_is_kept_unless_it_is_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = write(tmp_path / "repo sitory", manifest("mine", ensemble(2, 4), 4.0, PROOF))
    out = tmp_path / "mine.yaml"
    out.write_text("my own")
    with pytest.raises(UsageError, match=r"mine\.yaml exists: choose another --out, or replace it with --force"):
        init(repository.path, out, engines=tmp_path, force=False)
    assert out.read_text() == "my own"
    init(repository.path, out, engines=tmp_path, force=True, as_json=False)
    said = capsys.readouterr().out
    assert "its bounds on time are guesses: set them" in said
    assert f"rrr verify --claims {out} --repository '{repository.path}'" in said.splitlines()[-1]
    assert said.splitlines()[-1] in out.read_text().replace("#   rrr", "next: rrr")


@pytest.mark.parametrize("value", [0.00123, 0.999, 1.0, 7.0, 9.99, 10.0, 123.4, 8_034_123.0])
def test_bounds_are_rounded_away_from_what_was_measured_by_less_than_a_tenth(value: float) -> None:
    low, high = _below(value), _above(value)
    assert 0.9 * value <= low <= value <= high <= 1.1 * value
    assert math.isfinite(low + high)
