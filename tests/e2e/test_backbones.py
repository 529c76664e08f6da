"""A ResNet50 and a ResNet101 of elsewhere go the whole way: trained, built, served and verified beside themselves."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.service import RRR, Service
from rrrnet.checkpoint import read_checkpoint, read_weights
from rrrnet.network import architecture as shapes
from rrrnet.network.ensemble import RRRNet

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]
CLASSES, MEMBERS = 3, 2
TARGET = "openvino-fp32"


def rrr(*words: str | Path) -> str:
    """What one command printed; it must succeed."""
    done = subprocess.run([str(RRR), *map(str, words)], check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def fine_tuned(backbone: str) -> dict[str, torch.Tensor]:
    """Random weights whose activations neither grow nor vanish, under a trainer's prefix."""
    torch.manual_seed(0)
    model = RRRNet(shapes.full(CLASSES, backbone=backbone))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.fill_(0.3)
    return {f"module.{name}": value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_a_smaller_backbone_goes_the_whole_way_and_ratios_are_told_to_it(tmp_path: Path, backbone: str) -> None:
    state, title = fine_tuned(backbone), shapes.backbone_title(backbone)
    torch.save({"state_dict": state}, tmp_path / "mine.pth")
    rrr("data", "glyphs", tmp_path / "letters", "--classes", str(CLASSES), "--per-class", "16", "--size", "32")
    common = ("--data", tmp_path / "letters", "--weights", tmp_path / "mine.pth", "--size", "32")
    models = {name: tmp_path / "models" / name for name in ("members", "whole")}
    said = rrr("train", "--out", models["members"], "--members", str(MEMBERS), "--epochs", "1", *common)
    assert f"starting from mine.pth, a {title}, " in said
    rrr("train", "--out", models["whole"], "--method", "full", "--epochs", "0", *common)

    assert read_checkpoint(models["members"]).architecture == shapes.ensemble(CLASSES, MEMBERS, backbone=backbone)
    assert read_checkpoint(models["whole"]).architecture == shapes.full(CLASSES, backbone=backbone)
    stem = read_weights(read_checkpoint(models["members"]))["layer2.0.conv2.weight"]
    assert torch.equal(torch.from_numpy(stem), state["module.layer2.0.conv2.weight"]), "frozen, and that of the file"
    described = json.loads(rrr("describe", models["members"], "--json"))
    whole = shapes.cost(shapes.full(CLASSES, backbone=backbone), 32)["total"]
    assert (described["backbone"], described["baseline"]) == (backbone, whole)

    engines = [tmp_path / "engines" / name / TARGET for name in models]
    for name, engine in zip(models, engines, strict=True):
        rrr("build", models[name], "--target", TARGET, "--batch", "1,2,4", "--images", "16", "--out", engine)
    repository = tmp_path / "repository"
    rrr("repository", *engines, "--out", repository)
    rrr("report", models["members"], "--engine", engines[0], "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"{title} / all" in page
    assert "ResNet152" not in page
    rrr("claims", "init", repository, "--out", tmp_path / "drafted.yaml", "--engines", tmp_path / "engines")
    drafted = yaml.safe_load((tmp_path / "drafted.yaml").read_text())["claims"]
    assert {claim["baseline"] for claim in drafted if claim["kind"] == "macs"} == {"whole"}

    image = next((tmp_path / "letters" / "images").iterdir()).read_bytes()
    with Service(tmp_path / "log", str(repository), "--workers", "1", "--drain", "0") as service:
        for name, count in (("members", MEMBERS), ("whole", 1)):
            answer = service.ask(f"/v1/models/{name}/predict", content=image).raise_for_status().json()
            assert (answer["model"]["name"], answer["model"]["members"]) == (name, count)
        verdicts = verify(tmp_path, service.url, described["ratio"])
    assert verdicts == {"parameters": "pass", "macs": "pass", "speedup": "pass"}


def verify(folder: Path, url: str, ratios: dict[str, float]) -> dict[str, str]:
    """Verdicts by kind on the ratios to the whole backbone: as documents tell them, and faster at all."""
    pair = {"model": "members", "baseline": "whole"}
    claims: list[dict[str, Any]] = [
        {"name": kind, "kind": kind, **pair, "at_least": ratio - 0.01, "at_most": ratio + 0.01}
        for kind, ratio in ratios.items()
    ]
    claims.append({"name": "faster", "kind": "speedup", **pair, "level": "triton", "at_least": 1})
    (folder / "claims.yaml").write_text(yaml.safe_dump({"version": 1, "claims": claims}))
    command = ("verify", "--claims", folder / "claims.yaml", "--scrape", url, "--drive", "--json")
    printed = rrr(*command, "--repository", folder / "repository", "--out", folder / "verdicts.json")
    assert "pass" in printed
    found = json.loads((folder / "verdicts.json").read_text())["verdicts"]
    return {verdict["kind"]: verdict["verdict"] for verdict in found}
