"""Verdicts from artifacts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rrrbuild.manifest import MANIFEST, read_engine
from rrrbuild.repository_document import read_repository, write_document
from rrrnet import sealed
from rrrserve.claims.claims_file import read_claims
from rrrserve.claims.kinds import KINDS
from rrrserve.cli import run
from rrrserve.judge.artifacts import Artifacts
from rrrserve.judge.verdicts import Verdict

ALPHA = 0.05


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
    found = artifact(repository, kind="engine_bytes", at_least=1)
    assert found.interval is not None
    assert found.interval.value == read_engine(repository / "single" / "1").engine_bytes


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
