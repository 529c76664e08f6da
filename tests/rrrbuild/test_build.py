import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rrrbuild import machine
from rrrbuild.build import build_engine
from rrrbuild.engine import load_engine
from rrrbuild.heldout import held_out_images
from rrrbuild.manifest import MANIFEST, BatchRange, Manifest, read_engine
from rrrbuild.targets import TARGETS, Tolerance
from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, SPLIT, Arrays, Checkpoint
from rrrnet.errors import ArtifactError, CheckFailedError, IncompatibleError, UsageError
from rrrnet.inference import predictor

BATCH = BatchRange(1, 2, 4)
Damage = Callable[[Path, str], Path]


def test_an_engine_gives_what_pytorch_gives_on_the_test_split(
    target: str, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    steps: list[str] = []
    manifest = build_engine(checkpoint.path, target, batch=BATCH, out=tmp_path / "engine", report=steps.append)

    assert manifest.verified is not False
    assert manifest.verified["images"] == 12  # half of 3 x 8
    assert manifest.verified["source"] == "test split of colours"
    assert manifest.verified["max_abs_error"] <= TARGETS[target].tolerance.max_abs_error
    assert manifest.verified["label_agreement"] == 1
    assert manifest.verified["accuracy"] == manifest.verified["reference_accuracy"]
    assert list(manifest.latency_ms) == ["sequential", "merged", "split"]
    for rows in manifest.latency_ms.values():
        assert list(rows) == ["1", "2", "4"]
        assert all(0 < row["min"] <= row["median"] <= row["p95"] for row in rows.values())
    measured = steps.index("measuring latency at batch 1, 2, 4")
    assert steps[measured + 1].endswith("is the fastest of sequential, merged, split")

    held_out = held_out_images(checkpoint, None, limit=7)
    found = load_engine(tmp_path / "engine", threads=1)(held_out.images)
    assert found.shape == (7, 2, 3)  # more images than the largest batch
    assert found.dtype == np.float32
    error = np.abs(found - predictor(checkpoint)(held_out.images)).max()
    assert error <= TARGETS[target].tolerance.max_abs_error


def test_the_manifest_says_where_the_engine_comes_from(openvino_engine: Manifest, checkpoint: Checkpoint) -> None:
    assert openvino_engine.name == "duo"
    assert openvino_engine.labels == ("red", "green", "blue")
    assert openvino_engine.preprocess == checkpoint.preprocess
    assert openvino_engine.architecture == checkpoint.architecture
    assert openvino_engine.inputs == [{"name": "images", "dtype": "uint8", "shape": [-1, 32, 32, 3]}]
    assert openvino_engine.outputs == [{"name": "probabilities", "dtype": "float32", "shape": [-1, 2, 3]}]
    assert openvino_engine.checkpoint["sha256"] == sealed.sha256_of(checkpoint.path / DOCUMENT)
    assert openvino_engine.data is not None
    assert openvino_engine.data["name"] == "colours"
    assert openvino_engine.versions["openvino"] == machine.package_version("openvino")
    assert openvino_engine.device["cpu"] == machine.cpu_model()
    assert openvino_engine.command.startswith("rrr build ")
    assert "--target openvino-fp32 --plan sequential --batch 1,2,4" in openvino_engine.command
    assert sorted(openvino_engine.files) == ["model.bin", "model.xml", SPLIT]
    assert openvino_engine.engine_bytes == sum(
        (openvino_engine.path / f"model.{end}").stat().st_size for end in ("bin", "xml")
    )
    assert (openvino_engine.path / SPLIT).read_bytes() == (checkpoint.path / SPLIT).read_bytes()


def test_an_engine_of_one_member_keeps_the_members_axis(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], one_member: object, data: Path
) -> None:
    single = make_checkpoint(tmp_path / "single", one_member, data=data)
    manifest = build_engine(single.path, "onnxruntime-fp32", batch=BATCH, out=tmp_path / "engine")

    assert manifest.outputs[0]["shape"] == [-1, 1, 3]
    assert load_engine(tmp_path / "engine")(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 1, 3)


def test_a_missing_engine_file_is_refused_with_its_name(tmp_path: Path, openvino_engine: Manifest) -> None:
    engine = shutil.copytree(openvino_engine.path, tmp_path / "engine")
    (engine / "model.bin").unlink()

    with pytest.raises(ArtifactError, match=r"model\.bin is missing; build it again with rrr build"):
        read_engine(engine)


def resealed(engine: Path, folder: Path, change: Callable[[dict[str, object]], object]) -> Path:
    """A copy of an engine whose manifest says something else, properly sealed."""
    copy = shutil.copytree(engine, folder)
    document = json.loads((copy / MANIFEST).read_text())
    change(document)
    sealed.seal(copy, MANIFEST, document)
    return copy


def test_an_engine_of_another_runtime_version_is_refused_before_it_is_opened(
    tmp_path: Path, openvino_engine: Manifest
) -> None:
    def change(document: dict[str, object]) -> None:
        document["versions"] = {"openvino": "2019.1.0"}

    engine = resealed(openvino_engine.path, tmp_path / "engine", change)
    (engine / "model.xml").write_text("not even XML")
    sealed.seal(engine, MANIFEST, json.loads((engine / MANIFEST).read_text()))

    with pytest.raises(IncompatibleError, match=r"built for openvino 2019\.1\.0, have 20\d\d") as caught:
        load_engine(engine)
    assert caught.value.exit_code == 4
    assert "built with: rrr build" in str(caught.value)


def test_an_engine_for_a_precision_that_the_cpu_lacks_is_refused(
    tmp_path: Path, openvino_engine: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(document: dict[str, object]) -> None:
        document["target"] = "openvino-bf16"

    engine = resealed(openvino_engine.path, tmp_path / "engine", change)
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset({"avx2"}))

    with pytest.raises(IncompatibleError, match=r"none of avx512_bf16, amx_bf16.* use openvino-fp32"):
        load_engine(engine)


def test_bf16_is_built_but_not_verified_on_a_cpu_that_lacks_it(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset({"avx2"}))

    manifest = build_engine(checkpoint.path, "openvino-bf16", plan="sequential", batch=BATCH, out=tmp_path / "engine")

    assert manifest.verified is False
    assert "none of avx512_bf16" in manifest.unverified_reason
    assert manifest.latency_ms == {}


def test_images_of_another_shape_or_type_are_refused(openvino_engine: Manifest) -> None:
    engine = load_engine(openvino_engine.path)

    with pytest.raises(UsageError, match=r"shape \(1, 3, 32, 32\) and dtype uint8: duo takes \(N, 32, 32, 3\)"):
        engine(np.zeros((1, 3, 32, 32), np.uint8))
    with pytest.raises(UsageError, match="dtype float32"):
        engine(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(UsageError, match="N at least 1"):
        engine(np.zeros((0, 32, 32, 3), np.uint8))


def test_an_engine_outside_its_tolerance_leaves_nothing_or_the_engine_that_was_there(
    tmp_path: Path, openvino_engine: Manifest, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible = replace(TARGETS["openvino-fp32"], tolerance=Tolerance(0.0, 0.0, 1.0))
    monkeypatch.setitem(TARGETS, "openvino-fp32", impossible)
    engine = tmp_path / "engine"
    for before in ([], [engine]):
        if before:
            shutil.copytree(openvino_engine.path, engine)
        with pytest.raises(CheckFailedError, match="differs from PyTorch's by") as caught:
            build_engine(checkpoint.path, "openvino-fp32", batch=BATCH, out=engine)
        assert caught.value.exit_code == 1
        assert list(tmp_path.iterdir()) == before
    assert read_engine(engine).files == openvino_engine.files


def test_a_network_that_overflows_is_refused_for_its_nan(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], weights: Callable[..., Arrays], checkpoint: Checkpoint
) -> None:
    arrays = weights(checkpoint.architecture)
    arrays["members.1.fc.weight"][:] = 3e38
    overflowing = make_checkpoint(tmp_path / "overflowing", weights=arrays)

    with pytest.raises(CheckFailedError, match="NaN or infinity on 5 of 5 images"):
        build_engine(overflowing.path, "onnxruntime-fp32", batch=BATCH, out=tmp_path / "engine", images=5)
    assert not (tmp_path / "engine").exists()


def test_a_damaged_checkpoint_is_refused_with_the_file_name(
    tmp_path: Path, damaged: Damage, checkpoint: Checkpoint
) -> None:
    copy = damaged(checkpoint.path, "model.safetensors")
    with pytest.raises(ArtifactError, match=r"model\.safetensors was changed"):
        build_engine(copy, "openvino-fp32", out=tmp_path / "engine")


def test_lost_images_are_asked_for(tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], data: Path) -> None:
    moved = shutil.copytree(data, tmp_path / "moved")
    orphan = make_checkpoint(tmp_path / "orphan", data=moved)
    shutil.rmtree(moved)

    with pytest.raises(UsageError, match=r"moved, which is no folder any more: tell where they are with --data DIR"):
        build_engine(orphan.path, "openvino-fp32", out=tmp_path / "engine")
    manifest = build_engine(
        orphan.path, "onnxruntime-fp32", plan="merged", batch=BATCH, out=tmp_path / "engine", data=data
    )
    assert manifest.verified is not False
    assert manifest.verified["images"] == 12


def test_a_checkpoint_that_never_had_data_is_verified_on_generated_patterns(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    bare = make_checkpoint(tmp_path / "bare")

    manifest = build_engine(
        bare.path, "onnxruntime-fp32", plan="sequential", batch=BATCH, out=tmp_path / "engine", images=6
    )

    assert manifest.verified is not False
    assert manifest.verified["images"] == 6
    assert manifest.verified["accuracy"] is None
    assert manifest.verified["source"].startswith("generated patterns")
    assert manifest.data is None


def test_a_data_set_with_other_classes_is_refused(tmp_path: Path, checkpoint: Checkpoint, data: Path) -> None:
    other = shutil.copytree(data, tmp_path / "other")
    (other / "red").rename(other / "crimson")

    with pytest.raises(ArtifactError, match=r"classes that .* does not know: crimson"):
        held_out_images(checkpoint, other, limit=5)


def test_labels_follow_the_checkpoints_order_not_the_folders(checkpoint: Checkpoint, data: Path) -> None:
    held_out = held_out_images(checkpoint, data, limit=100)

    # folders sort as blue, green, red; the checkpoint's labels are red, green, blue
    assert held_out.labels is not None
    assert np.bincount(held_out.labels).tolist() == [4, 4, 4]
    strongest = held_out.images.mean(axis=(1, 2)).argmax(axis=1)
    assert (strongest == held_out.labels).all()


def test_few_images_are_spread_over_all_classes(checkpoint: Checkpoint) -> None:
    held_out = held_out_images(checkpoint, None, limit=6)

    assert held_out.labels is not None
    assert np.bincount(held_out.labels).tolist() == [2, 2, 2]
