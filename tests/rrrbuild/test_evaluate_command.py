"""`rrr evaluate` of engines that ask some of their members, and what `rrr build` tells of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rrrbuild.commands.trust_lines import trust_lines
from rrrbuild.manifest import Manifest
from rrrserve.cli import run

Capture = pytest.CaptureFixture[str]


def test_figures_are_those_of_what_is_answered_with_those_before_calibration_beside(
    cascade_engine: Manifest, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["evaluate", str(cascade_engine.path), "--data", str(data), "--split", "all"]
    kept = ["--predictions", str(tmp_path / "p.npz")]
    found = {}
    for effort in ("fast", "full"):
        assert run([*command, "--json", "--effort", effort, *kept]) == 0
        found[effort] = json.loads(capsys.readouterr().out)
        with np.load(tmp_path / "p.npz") as arrays:
            asked = np.isfinite(arrays["probabilities"]).all(axis=2).sum(axis=1)
            assert (str(arrays["effort"]), str(arrays["target"])) == (effort, "openvino-fp32")
        assert asked.mean() == found[effort]["members_used"]
    assert cascade_engine.cascade is not None
    assert found["fast"]["members_used"] == cascade_engine.cascade["k"]
    assert (found["fast"]["share_early"], found["full"]["share_early"]) == (1.0, 0.0)
    assert {member["images"] for member in found["fast"]["members"]} == {0, 24}
    for scores in found.values():
        assert set(scores["uncalibrated"]) == {"accuracy", "nll", "ece", "brier"}
        assert scores["accuracy"] == scores["uncalibrated"]["accuracy"]
        assert scores["nll"] != scores["uncalibrated"]["nll"]
        assert set(scores["coverage"]) == {"0.90", "0.95"}

    assert run(command) == 0
    printed = capsys.readouterr().out
    assert "ensemble, uncalibrated" in printed
    assert "sets for 95%: hold the right label of" in printed
    assert run([*command, "--effort", "most"]) == 2
    assert "--effort is 'most': allowed are fast, auto, full" in capsys.readouterr().err


def test_rrr_predict_on_folders_ends_with_these_figures(
    cascade_engine: Manifest, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    for effort in ("fast", "auto", "full"):
        asked = ["--effort", effort, "--json"]
        assert run(["evaluate", str(cascade_engine.path), "--data", str(data), "--split", "all", *asked]) == 0
        figures = json.loads(capsys.readouterr().out)
        out = tmp_path / f"{effort}.jsonl"
        assert run(["predict", str(data), "--engine", str(cascade_engine.path), "--out", str(out), *asked]) == 0
        scores = json.loads(capsys.readouterr().out)["scores"]
        assert scores["coverage"].keys() == {"0.90", "0.95"}
        for name in ("accuracy", "nll", "ece", "brier", "members_used", "share_early", "balanced_accuracy"):
            assert scores[name] == pytest.approx(figures[name], rel=1e-5), (effort, name)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert {row["effort"] for row in rows} == {effort}
        assert sum(row["members_used"] for row in rows) / len(rows) == figures["members_used"]
        assert sum(row["label"] == row["truth"] for row in rows) / len(rows) == figures["accuracy"]


def test_an_engine_without_a_cascade_answers_every_effort_by_all_members(
    openvino_engine: Manifest, capsys: Capture
) -> None:
    assert run(["evaluate", str(openvino_engine.path), "--effort", "fast", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["effort"], found["members_used"], found["share_early"]) == ("full", 2.0, 0.0)
    assert (found["uncalibrated"], found["coverage"]) == (None, None)


def test_the_build_tells_of_cascade_temperatures_and_sets_or_why_there_are_none(
    cascade_engine: Manifest, openvino_engine: Manifest
) -> None:
    cascade = cascade_engine.cascade
    assert cascade is not None
    told = dict(trust_lines(cascade_engine))
    assert told["cascade"].startswith(f"{cascade['k']} of 4 members first, tau {cascade['tau']:.3f}: they settle ")
    assert told["batch 2, expected"].startswith(f"{cascade['cost_ms']['expected']['2']:.2f} ms (first ")
    assert {"temperature", "ECE", "sets for 90%", "sets for 95%", "with, without it"} <= told.keys()
    assert all(told["ECE"].count(effort) == 1 for effort in ("fast", "auto", "full"))
    told = dict(trust_lines(openvino_engine))
    assert told["cascade"] == f"none: {openvino_engine.cascade_reason}"
    assert told["calibration"] == "none, for the same reason: temperature 1 and no sets"
    assert trust_lines(replace(openvino_engine, cascade_reason="", confidence_reason="")) == []
