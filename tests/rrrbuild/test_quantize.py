"""`rrr build` to INT8: which images calibrate, what the accuracy gate does, and what the manifest keeps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rrrbuild import candidates, machine
from rrrbuild.build import build_engine
from rrrbuild.calibration import calibration_images
from rrrbuild.engine import Float32Array
from rrrbuild.export import export_onnx
from rrrbuild.heldout import HeldOut, held_out_images
from rrrbuild.manifest import BatchRange, read_engine
from rrrbuild.quantize import METHODS, Quantiser
from rrrbuild.targets import TARGETS, Target, Tolerance, int8_kernels
from rrrnet.checkpoint import SPLIT, Arrays, Checkpoint
from rrrnet.data.dataset import read_split
from rrrnet.errors import CheckFailedError, UsageError
from rrrnet.inference import predictor
from rrrnet.network.architecture import Architecture
from rrrserve.cli import run

BATCH = BatchRange(1, 2, 4)
OPENVINO = TARGETS["openvino-int8"]
needs_rtx = pytest.mark.skipif(machine.package_version("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


def quantiser(checkpoint: Checkpoint, *, target: Target = OPENVINO, told: list[str] | None = None) -> Quantiser:
    chosen = calibration_images(checkpoint, None, limit=128)
    held_out = held_out_images(checkpoint, None, limit=256)
    report = (lambda _: None) if told is None else told.append
    return Quantiser(target, chosen, held_out, max_drop=0.5, report=report)


# What makes a tensor, by its batch norms, and what reads it, in a network of (1, 2, 2, 1) blocks.
STEM = (["bn1"], ["layer1.0.conv1", "layer1.0.downsample.0"])
STAGES = (
    STEM,
    (["layer1.0.bn3", "layer1.0.downsample.1"], ["layer2.0.conv1", "layer2.0.downsample.0"]),
    (
        ["layer2.0.bn3", "layer2.0.downsample.1", "layer2.1.bn3"],
        ["layer2.1.conv1", "layer3.0.conv1", "layer3.0.downsample.0"],
    ),
    (
        ["layer3.0.bn3", "layer3.0.downsample.1", "layer3.1.bn3"],
        ["layer3.1.conv1", "layer4.0.conv1", "layer4.0.downsample.0"],
    ),
)


def poisoned(arrays: Arrays, tensors: Sequence[tuple[list[str], list[str]]]) -> Arrays:
    """One channel a million times as large, which its readers scale back: the same function in float."""
    for norms, readers in tensors:
        for norm in norms:
            for name in ("weight", "bias"):
                arrays[f"{norm}.{name}"][0] *= 1e6
        for reader in readers:
            arrays[f"{reader}.weight"][:, 0] /= 1e6
    return arrays


def test_calibration_images_are_of_the_training_split_and_none_is_verified_on(checkpoint: Checkpoint) -> None:
    chosen = calibration_images(checkpoint, None, limit=6)

    parts = read_split(checkpoint.path / SPLIT)
    assert [parts[file] for file in chosen.files] == ["train"] * 6
    assert {Path(file).parent.name for file in chosen.files} == {"red", "green", "blue"}
    assert chosen.images.shape == (6, 32, 32, 3)
    assert chosen.source == "training split of colours"
    assert len(calibration_images(checkpoint, None, limit=1000).files) == 12
    assert calibration_images(checkpoint, None, limit=6).sha256 == chosen.sha256
    assert calibration_images(checkpoint, None, limit=5).sha256 != chosen.sha256


def test_other_images_are_split_in_halves_and_none_is_used_twice(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], data: Path
) -> None:
    untaught = make_checkpoint(tmp_path / "untaught")
    chosen = calibration_images(untaught, data, limit=1000)

    assert len(chosen.files) == 12
    assert chosen.source == "a seeded half of colours"
    every = held_out_images(untaught, data, limit=1000)
    rest = held_out_images(untaught, data, limit=1000, without=chosen.files)
    assert (len(every.images), len(rest.images)) == (24, 12)
    pixels = {image.tobytes() for image in chosen.images}
    assert not any(image.tobytes() in pixels for image in rest.images)


def test_a_checkpoint_that_never_had_data_is_told_what_to_do(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], capsys: pytest.CaptureFixture[str]
) -> None:
    untaught = make_checkpoint(tmp_path / "untaught")

    code = run(["build", str(untaught.path), "--target", "tensorrt-rtx-int8", "--out", str(tmp_path / "engine")])
    assert code == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "untaught never had data, and INT8 is calibrated on real images: give a data set with --data DIR" in printed
    assert not (tmp_path / "engine").exists()


def test_no_calibration_images_are_a_usage_error(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="--calibration-images 0"):
        build_engine(checkpoint.path, "onnxruntime-int8", calibration_images=0)


def test_the_manifest_says_how_the_engine_was_calibrated_and_quantised(tmp_path: Path, checkpoint: Checkpoint) -> None:
    out = tmp_path / "engine"
    told: list[str] = []
    build_engine(
        checkpoint.path, OPENVINO.name, batch=BATCH, max_drop=3, out=out, calibration_images=9, report=told.append
    )

    manifest = read_engine(out)
    assert manifest.quantisation is not None
    assert manifest.quantisation["calibration"] == {
        "images": 9,
        "source": "training split of colours",
        "choice": "evenly spread over the training split",
        "sha256": calibration_images(checkpoint, None, limit=9).sha256,
    }
    exact = int8_kernels(machine.cpu_features()) == "exact"
    assert manifest.quantisation["weight_bits"] == (8 if exact else 7)
    assert list(manifest.quantisation["plans"]) == ["sequential", "merged", "split"]
    for record in manifest.quantisation["plans"].values():
        assert record["method"] == "full range"
        assert (record["float_convolutions"], record["failed_methods"]) == ([], [])
        assert record["images"] == 12
        assert record["accuracy"] == record["reference_accuracy"]
    assert manifest.verified is not False
    assert 0 < manifest.verified["max_abs_error"] < 0.1  # by the engine itself, whatever CPU this is
    assert manifest.verified["cpu"] == machine.cpu_model()
    assert manifest.verified["cpu_features"] == sorted(machine.cpu_features())
    assert "--max-drop 3 --calibration-images 9" in manifest.command
    assert any(step.startswith("calibrating plan merged on 9 images (training split of colours)") for step in told)


@pytest.mark.parametrize(
    ("target", "features", "limit"),
    [
        ("openvino-int8", {"avx2"}, 64),
        ("onnxruntime-int8", {"avx2", "avx512f"}, 64),
        ("onnxruntime-int8", {"avx2", "avx512_vnni"}, 127),
        ("tensorrt-rtx-int8", {"avx2"}, 127),
    ],
)
def test_weights_get_7_bits_where_sums_of_8_bit_products_would_overflow(
    target: str, features: set[str], limit: int, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(features))
    quantised = onnx.load_from_string(
        quantiser(checkpoint, target=TARGETS[target]).quantise(
            export_onnx(checkpoint, plan="merged", half=False, align=16), "merged"
        )
    )
    weights = [
        numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer if tensor.name.endswith(".weight")
    ]
    kernels = [array.astype(int) for array in weights if array.dtype == np.int8]
    assert len(kernels) > 10
    assert max(np.abs(array).max() for array in kernels) == limit
    assert np.iinfo(np.int16).max >= 2 * 255 * 64


def test_int8_that_this_cpu_computes_wrongly_is_refused_with_what_was_measured(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise CheckFailedError("onnxruntime-int8: a probability differs from PyTorch's by 0.9 on 12 images")

    monkeypatch.setattr(candidates, "compare", wrong)  # exact arithmetic has passed before
    expected = r"differs from PyTorch's by 0\.9 .*INT8 kernels of this CPU .*or take onnxruntime-fp32"
    with pytest.raises(CheckFailedError, match=expected):
        build_engine(checkpoint.path, "onnxruntime-int8", plan="merged", batch=BATCH, out=tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_the_same_checkpoint_and_images_give_the_same_bytes(checkpoint: Checkpoint) -> None:
    exported = export_onnx(checkpoint, plan="merged", half=False, align=16)

    assert quantiser(checkpoint).quantise(exported, "merged") == quantiser(checkpoint).quantise(exported, "merged")


def test_where_plain_calibration_fails_the_most_sensitive_convolutions_stay_in_float(
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
    one_member: Architecture,
    weights: Callable[..., Arrays],
    data: Path,
) -> None:
    odd = make_checkpoint(tmp_path / "odd", one_member, weights=poisoned(weights(one_member), [STEM]), data=data)
    told: list[str] = []
    strict = replace(OPENVINO, tolerance=Tolerance(0.05, 0.02, 0.95))  # 12 images flip too rarely
    gate = quantiser(odd, target=strict, told=told)
    gate.quantise(export_onnx(odd, plan="sequential", half=False), "sequential")

    record = gate.record()["plans"]["sequential"]
    assert record["method"] == "least square error, 10 % in float"
    assert {"layer1.0.conv1.output", "layer1.0.downsample.0.output"} < set(record["float_convolutions"])
    assert len(record["float_convolutions"]) == 3  # 10 % of 23, rounded up
    assert [failed["method"] for failed in record["failed_methods"]] == [method.name for method in METHODS[:2]]
    assert any(step.startswith("INT8 by full range does not pass: openvino-int8:") for step in told)


@pytest.mark.parametrize("target", ["openvino-int8", "tensorrt-rtx-int8"])
def test_a_network_that_loses_too_much_whatever_is_tried_exits_with_1_and_says_what_to_try(
    target: str,
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
    one_member: Architecture,
    weights: Callable[..., Arrays],
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrays = poisoned(weights(one_member), STAGES)
    hopeless = make_checkpoint(tmp_path / "hopeless", one_member, weights=arrays, data=data)

    code = run(["build", str(hopeless.path), "--target", target, "--out", str(tmp_path / "engine")])
    assert code == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "on 12 images" in printed
    assert "3 other ways to quantise failed too" in printed
    assert "Try more calibration images (--calibration-images, now 12), a larger --max-drop, or --target" in printed
    assert not (tmp_path / "engine").exists()


def test_a_drop_of_accuracy_is_told_with_both_accuracies(checkpoint: Checkpoint) -> None:
    wrong = quantiser(checkpoint)
    exported = export_onnx(checkpoint, plan="sequential", half=False)
    loose = replace(
        OPENVINO, tolerance=replace(OPENVINO.tolerance, max_abs_error=2.0, mean_abs_error=2.0, min_label_agreement=0)
    )
    chosen = calibration_images(checkpoint, None, limit=1)
    dark = replace(chosen, images=np.zeros_like(chosen.images))  # ranges of a black image: everything else is clipped
    held_out = held_out_images(checkpoint, None, limit=256)
    labels = np.argmax(reference(checkpoint, held_out), axis=1)  # FP32 is right on every image
    judged = Quantiser(loose, dark, replace(held_out, labels=labels), max_drop=0.5, report=lambda _: None)

    with pytest.raises(
        CheckFailedError, match=r"accuracy falls by \d+\.\d\d percentage points on 12 images \(100\.00% to"
    ):
        judged.quantise(exported, "sequential")
    assert wrong.quantise(exported, "sequential")


def reference(checkpoint: Checkpoint, held_out: HeldOut) -> Float32Array:
    """What PyTorch's ensemble says, (N, C)."""
    probabilities: Float32Array = predictor(checkpoint)(held_out.images).mean(axis=1)
    return probabilities


@needs_rtx
def test_tensorrt_rtx_builds_the_quantised_network_ahead_of_time(tmp_path: Path, checkpoint: Checkpoint) -> None:
    for plan in ("sequential", "merged"):
        out = tmp_path / plan
        manifest = build_engine(checkpoint.path, "tensorrt-rtx-int8", plan=plan, batch=BATCH, out=out)

        assert manifest.device["built_for"] == ["8.0", "8.6", "8.9", "12.0"]
        assert manifest.quantisation is not None
        record = manifest.quantisation["plans"][plan]
        assert record["accuracy"] == record["reference_accuracy"]  # measured on the quantised graph, without a GPU
        assert "ERROR" not in (out / "build.log").read_text()
