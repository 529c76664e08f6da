"""What a report tells of trainings that ended early, and of engines that were verified elsewhere or not at all."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rrrserve.report.collect import missing_section
from rrrserve.report.training import ended, resuming, training_section
from rrrserve.report.verification import verified_elsewhere
from rrrserve.stamps.environment import describe

ENDINGS: list[tuple[dict[str, Any], str | None]] = [
    ({"complete": True, "epochs": 20, "epochs_done": 20}, "all 20 epochs"),
    (
        {"complete": True, "epochs": 7, "epochs_done": 7, "minutes": 5.0},
        "all 7 epochs, as many as fit into --minutes 5",
    ),
    (
        {"complete": True, "epochs": 300, "epochs_done": 42, "selection": {"epoch": 12}},
        "ended after 42 of 300 epochs: nothing better on the validation images after epoch 12",
    ),
    (
        {"complete": False, "stopped": True, "epochs": 20, "epochs_done": 3},
        "stopped in epoch 4 of 20 by Ctrl-C or another signal",
    ),
    (
        {"complete": False, "stopped": False, "epochs": 20, "epochs_done": 0},
        "stopped in epoch 1 of 20 when it was last saved: its process has ended without a word, or still trains",
    ),
    ({"complete": False, "epochs": 20, "epochs_done": 3}, "stopped in epoch 4 of 20 before its end"),
    ({"complete": True, "epochs": 0, "epochs_done": 0}, "0 epochs: not trained here"),
    ({"data": None}, None),
]


@pytest.mark.parametrize(("training", "told"), ENDINGS)
def test_it_is_told_after_how_many_epochs_a_training_ended_and_why(training: dict[str, Any], told: str | None) -> None:
    assert ended(training) == told


def test_where_the_images_lay_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    data = {"name": "mine", "path": "/data/ann/mine", "test_path": "/data/ann/theirs", "images": 9}
    found: Any = SimpleNamespace(path=tmp_path, training={"data": data}, command="rrr train")
    told = training_section(found)
    assert told is not None
    assert told["data"] == {"name": "mine", "images": 9}


def document(**changes: Any) -> dict[str, Any]:
    """A report's document as far as what is missing is judged by it."""
    trained = {"path": "my models/x", "complete": True, "ended": "all 2 epochs", "command": "rrr train --out x"}
    known = {"name": "x", "accuracy": [1], "calibration": 1, "bench": [{"about_this_model": True}], "served": 1}
    return {**known, "claims": [1], "engines": [engine()], "training": trained, **changes}


def engine(**changes: Any) -> dict[str, Any]:
    known = {"target": "openvino-int8", "command": "rrr build x", "verified": {"images": 9}, "unverified_reason": ""}
    return {**known, "verified_elsewhere": None, **changes}


def test_a_stopped_training_is_told_with_the_command_that_goes_on() -> None:
    stopped = {**document()["training"], "complete": False, "ended": "stopped in epoch 1 of 2 by Ctrl-C"}
    stopped["command"] = "rrr train --overwrite --out x"
    (row,) = missing_section(document(training=stopped), [])
    assert (row["section"], row["command"]) == ("model", "rrr train --out x --resume")
    assert "not complete: stopped in epoch 1 of 2 by Ctrl-C. All figures are of the network" in row["text"]
    assert resuming("rrr train --resume") == "rrr train --resume"


def test_engines_that_were_not_verified_or_not_here_are_told_with_the_command_that_builds_them() -> None:
    rows = missing_section(
        document(
            engines=[
                engine(verified=False, unverified_reason="no GPU"),
                engine(verified_elsewhere="CPU: an abacus when verified, another now"),
                engine(),
            ]
        ),
        [],
    )
    assert [row["text"] for row in rows] == [
        "openvino-int8 was not verified: no GPU",
        "openvino-int8 was not verified on this machine: CPU: an abacus when verified, another now",
    ]
    assert {(row["section"], row["command"]) for row in rows} == {("engines", "rrr build x")}


def test_without_an_engine_the_build_command_can_be_pasted() -> None:
    (row,) = missing_section(document(engines=[]), [])
    assert row["command"] == "rrr build 'my models/x'"


def manifest(**changes: Any) -> Any:
    """An engine's manifest as far as its verification goes; of this machine but for the changes."""
    here = describe()["machine"]
    of_cpu = {key: here[key] for key in ("cpu", "cpu_features")}
    found = SimpleNamespace(target="openvino-fp32", verified={**of_cpu, "images": 8}, device={**of_cpu, "gpu": None})
    for key, value in changes.items():
        setattr(found, key, value)
    return found


def test_an_engine_that_was_verified_on_another_machine_is_told_from_one_verified_here() -> None:
    assert verified_elsewhere(manifest()) is None
    assert verified_elsewhere(manifest(verified=False)) is None, "that is told by another sentence"
    told = verified_elsewhere(manifest(verified={"cpu": "an abacus", "cpu_features": ["beads"]}))
    assert told is not None
    assert told.startswith("CPU: an abacus when verified, ")
    assert "without beads" in told
    assert "an abacus when verified" in str(verified_elsewhere(manifest(verified={}, device={"cpu": "an abacus"})))
    on_gpu = {"target": "tensorrt-fp16", "device": {"gpu": {"name": "H1"}, "cpu": "an abacus"}}
    assert str(verified_elsewhere(manifest(**on_gpu))).startswith("GPU: H1 when verified, ")
