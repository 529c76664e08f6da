"""Engines that give embeddings: the members' pooled features side by side, of length 1."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import torch

from rrrbuild import choice, lazy, machine, measure
from rrrbuild.build import build_engine
from rrrbuild.engine import load_engine
from rrrbuild.export import export_onnx
from rrrbuild.heldout import held_out_images
from rrrbuild.manifest import BatchRange, Manifest
from rrrbuild.targets import TARGETS
from rrrbuild.trust import Trust
from rrrbuild.verify import compare_embeddings
from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import CheckFailedError, UsageError
from rrrnet.inference import embedder, load_model
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture
from rrrnet.network.ensemble import normalise

BATCH = BatchRange(1, 2, 4)
MakeCheckpoint = Callable[..., Checkpoint]
Images = npt.NDArray[np.uint8]


def cosines(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    scale = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return np.asarray((found * expected).sum(axis=1) / scale)


def test_an_embedding_is_each_members_average_of_layer4_side_by_side_divided_by_its_length(
    checkpoint: Checkpoint, images: Images
) -> None:
    found = embedder(checkpoint)(images)

    assert found.shape == (3, 2 * 4 * 16)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    model = load_model(checkpoint)
    with torch.inference_mode():
        features = model.forward_features(normalise(torch.from_numpy(images), checkpoint.preprocess))
        parts = [tail.layer4(tail.layer3(features)).mean((2, 3)) for tail in model.tails()]  # type: ignore[operator]  # modules
    long = torch.cat(parts, dim=1).numpy()
    np.testing.assert_allclose(found, long / np.linalg.norm(long, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("plan", ["sequential", "merged"])
def test_the_channels_that_a_plan_pads_are_not_in_the_embedding(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, images: Images, plan: str
) -> None:
    odd = make_checkpoint(tmp_path / "odd", Architecture(3, REDUCED_BLOCKS, members=2, widths=(9, 17)))

    exported = export_onnx(odd, plan=plan, half=False, align=16, embed=True)
    session = ort.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (embedding,) = session.run(["embedding"], {"images": images})

    assert [output.shape for output in session.get_outputs()] == [["N", 2, 3], ["N", 2 * 4 * 17]]
    np.testing.assert_allclose(embedding, embedder(odd)(images), atol=1e-5)


def test_an_engine_without_embed_is_exported_as_ever(checkpoint: Checkpoint) -> None:
    session = ort.InferenceSession(export_onnx(checkpoint, plan="merged", half=False))
    assert [output.name for output in session.get_outputs()] == ["probabilities"]


def test_every_target_of_a_cpu_gives_pytorchs_embeddings_within_its_bound(
    target: str, tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    if TARGETS[target].on_gpu:
        pytest.skip("targets of a GPU give no embeddings")
    monkeypatch.setattr(measure, "_SECONDS_PER_SIZE", 0.02)
    plan = "auto" if target == "onnxruntime-fp32" else "merged"
    built = build_engine(checkpoint.path, target, plan=plan, batch=BATCH, out=tmp_path / "engine", embed=True)

    assert built.outputs[1] == {"name": "embedding", "dtype": "float32", "shape": [-1, 128]}
    assert list(built.latency_ms) == (["sequential", "merged"] if plan == "auto" else ["merged"])  # never split
    assert built.cascade is None
    assert built.command.endswith(f"--embed --out {tmp_path / 'engine'}")
    assert built.verified is not False
    assert built.verified["embedding"]["dim"] == 128
    held_out = held_out_images(checkpoint, None, limit=7).images
    expected = embedder(checkpoint)(held_out)
    found = load_engine(tmp_path / "engine", threads=1).embed(list(held_out))  # more images than the largest batch
    assert found.shape == (7, 128)
    assert cosines(found, expected).min() >= built.verified["embedding"]["tolerance"]["min_cosine"]
    if TARGETS[target].precision == "fp32":
        assert np.abs(found - expected).max() <= 1e-3


def test_without_a_target_the_fastest_that_gives_embeddings_is_taken(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_SECONDS_PER_SIZE", 0.02)
    few = {name: TARGETS[name] for name in ("onnxruntime-fp32", "openvino-fp32", "tensorrt-fp16")}
    monkeypatch.setattr(choice, "TARGETS", few)
    asked: list[Checkpoint] = []

    def counted(network: Checkpoint) -> Callable[[Images], npt.NDArray[np.float32]]:
        asked.append(network)
        return embedder(network)

    monkeypatch.setattr(lazy, "embedder", counted)
    monkeypatch.setattr(machine, "gpu", lambda: machine.Gpu("any", "9.0", "1"))

    built, chosen = choice.build_best(
        checkpoint.path,
        plan="merged",
        batch=BATCH,
        max_drop=100,
        out=tmp_path / "engine",
        data=None,
        images=4,
        calibration_images=4,
        report=lambda _: None,
        embed=True,
    )

    assert (chosen.target, built.embedding_dim) == (built.target, 128)
    tried = {trial.target: trial.out for trial in chosen.trials}
    assert tried == {"onnxruntime-fp32": "", "openvino-fp32": ""}  # a GPU's is not even tried
    assert len(asked) == 2  # PyTorch's embeddings: once for all trials, once for the build of the fastest


def test_an_engine_without_embeddings_says_how_to_build_one_that_has_them(openvino_engine: Manifest) -> None:
    with pytest.raises(UsageError, match="rrr build CHECKPOINT --target openvino-fp32 --embed"):
        load_engine(openvino_engine.path).embed(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("target", "plan", "trust", "told"),
    [
        ("openvino-fp32", "auto", Trust(cascade=True), "a cascade leaves most of them out; leave one of the two away"),
        ("openvino-fp32", "split", Trust(), "--embed and --plan split: .* leave --plan out"),
        (
            "tensorrt-fp16",
            "auto",
            Trust(),
            "--embed is not for tensorrt-fp16: allowed are openvino-fp32, openvino-bf16",
        ),
    ],
)
def test_what_does_not_go_with_embeddings_is_refused_before_anything_is_read(
    tmp_path: Path, target: str, plan: str, trust: Trust, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        build_engine(tmp_path / "nowhere", target, plan=plan, trust=trust, embed=True)


@pytest.mark.parametrize(
    ("target", "second", "told"),
    [
        ("openvino-fp32", [1.002, 0], r"differs from PyTorch's by 0\.002 on 2 images; allowed is 0\.001"),
        ("openvino-bf16", [0.98, 0.19], r"cosine with PyTorch's is 0\.98\d* on 2 images; at least 0\.99"),
        ("openvino-int8", [1, 4], r"an embedding's length is 4\.12, not 1"),
        ("openvino-int8", [1, np.nan], "an embedding's length is nan, not 1"),
    ],
)
def test_embeddings_outside_a_targets_bound_are_refused_with_both_numbers(
    target: str, second: list[float], told: str
) -> None:
    reference = np.array([[1, 0], [1, 0]], np.float32)

    with pytest.raises(CheckFailedError, match=told):
        compare_embeddings(np.array([[1, 0], second], np.float32), reference, TARGETS[target])
