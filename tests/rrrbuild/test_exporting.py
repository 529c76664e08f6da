"""`rrr export`: an ONNX file that tells other programs all they need, and answers as PyTorch does."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from rrrbuild import lazy
from rrrbuild.commands.export import export
from rrrbuild.exporting import export_model
from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import CheckFailedError, UsageError
from rrrnet.images.preprocess import Uint8Array
from rrrnet.network.architecture import Architecture

Capture = pytest.CaptureFixture[str]


def test_the_file_gives_the_mean_of_the_members_and_tells_of_labels_and_images(
    checkpoint: Checkpoint, images: Uint8Array, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "duo.onnx"
    export(checkpoint.path, out, license_="mit", as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["verified"]["max_abs_error"] <= printed["verified"]["tolerance"] == 1e-4
    assert (printed["verified"]["images"], printed["verified"]["source"]) == (12, "test split of colours")
    assert (printed["output_shape"], printed["opset"]) == ([-1, 3], 17)

    session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images})
    assert len(found) == 1
    np.testing.assert_allclose(found[0], lazy.predictor(checkpoint)(images).mean(axis=1), atol=1e-5)
    told = session.get_modelmeta().custom_metadata_map
    assert told == printed["metadata"]
    assert json.loads(told["labels"]) == ["red", "green", "blue"]
    assert json.loads(told["mean"]) == list(checkpoint.preprocess.mean)
    assert (told["size"], told["interpolation"], told["crop_mode"]) == ("32", "bilinear", "squash")
    assert told["model_license"] == "mit"
    assert told["input"].startswith("images, uint8 (N, 32, 32, 3), RGB from 0 to 255; mean and std are applied inside")
    assert told["output"] == "probabilities, float32 (N, 3): the mean of 2 members"


def test_members_are_given_one_by_one_where_they_are_asked_for(
    checkpoint: Checkpoint, images: Uint8Array, tmp_path: Path
) -> None:
    found = export_model(checkpoint.path, tmp_path / "duo.onnx", members=True, images=4)
    assert found.output_shape == (-1, 2, 3)
    assert "model_license" not in found.metadata
    session = ort.InferenceSession(found.path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        session.run(["probabilities"], {"images": images})[0], lazy.predictor(checkpoint)(images), atol=1e-5
    )


def test_one_network_and_no_images_are_enough(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], one_member: Architecture, capsys: Capture
) -> None:
    single = make_checkpoint(tmp_path / "single", one_member)
    export(single.path, tmp_path / "single.onnx", images=4)
    printed = capsys.readouterr()
    assert "4 images (generated patterns: the checkpoint never had data" in printed.err
    assert "licence        none named: --license names one" in printed.out
    assert printed.out.splitlines()[-1] == f"next: rrr build {single.path}"
    graph = onnx.load(tmp_path / "single.onnx").graph
    assert [one.dim_param or one.dim_value for one in graph.output[0].type.tensor_type.shape.dim] == ["N", 3]


def test_a_file_that_answers_otherwise_is_not_written(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = lazy.onnx_answers
    for wrong in (2e-4, np.nan):
        monkeypatch.setattr(lazy, "onnx_answers", lambda *given, by=wrong: answer(*given) + by)
        with pytest.raises(
            CheckFailedError, match=r"differs from PyTorch's by .* allowed is 0\.0001; nothing was written"
        ):
            export_model(checkpoint.path, tmp_path / "duo.onnx", images=2)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_or_is_there_is_told_before_any_work(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").write_text("mine")
    for name, words in (
        ("there.onnx", "exists: replace it with --overwrite"),
        ("net.pb", "name a file that ends with .onnx"),
        ("nowhere/net.onnx", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=words):
            export_model(checkpoint.path, tmp_path / name)
    assert (tmp_path / "there.onnx").read_text() == "mine"
    export_model(checkpoint.path, tmp_path / "there.onnx", images=1, overwrite=True)
    onnx.checker.check_model(str(tmp_path / "there.onnx"))
