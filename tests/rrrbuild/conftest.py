"""Tiny checkpoints (32 px, 3 classes) with random weights, and a small data set of real image files."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from rrrbuild import candidates, measure, trust
from rrrbuild.build import build_engine
from rrrbuild.confidence import thresholds
from rrrbuild.manifest import BatchRange, Manifest
from rrrbuild.targets import TARGETS, build_obstacle, run_obstacle
from rrrbuild.trust import Trust
from rrrnet.checkpoint import SPLIT, Arrays, Checkpoint, read_checkpoint, write_checkpoint
from rrrnet.data.dataset import read_dataset, split_dataset, write_split
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture, convolutions

LABELS = ("red", "green", "blue")
TWO_MEMBERS = Architecture(3, REDUCED_BLOCKS, members=2, widths=(8, 16))
FOUR_MEMBERS = Architecture(3, REDUCED_BLOCKS, members=4, widths=(8, 16))
ONE_MEMBER = Architecture(3, (1, 2, 2, 1), members=1, widths=(8, 16))  # blocks without downsample, as in ResNet152

MakeCheckpoint = Callable[..., Checkpoint]


def random_weights(architecture: Architecture) -> Arrays:
    random, arrays = np.random.default_rng(7), {}
    prefixes = {"stem": [""], "member": [f"members.{index}." for index in range(architecture.members)]}
    if architecture.members == 1:
        prefixes["member"] = [""]
    for part, conv in convolutions(architecture):
        out, fan_in = conv.out_channels, conv.in_channels * conv.kernel**2
        for prefix in prefixes[part]:
            if not conv.batch_norm:
                arrays[f"{prefix}fc.weight"] = random.normal(0, 2 / fan_in**0.5, (out, conv.in_channels))
                arrays[f"{prefix}fc.bias"] = random.normal(0, 0.1, out)
                continue
            kernel = (out, conv.in_channels, conv.kernel, conv.kernel)
            norm = prefix + conv.norm
            arrays[f"{prefix}{conv.name}.weight"] = random.normal(0, (2 / fan_in) ** 0.5, kernel)
            arrays[f"{norm}.weight"] = random.uniform(0.5, 1.0, out)
            arrays[f"{norm}.bias"] = random.normal(0, 0.2, out)
            arrays[f"{norm}.running_mean"] = random.normal(0, 0.2, out)
            arrays[f"{norm}.running_var"] = random.uniform(0.5, 1.5, out)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.fixture(scope="session")
def make_checkpoint() -> MakeCheckpoint:
    """A function that writes a checkpoint, with a data set to remember if one is given."""

    def make(
        path: Path, architecture: Architecture = TWO_MEMBERS, *, weights: Arrays | None = None, data: Path | None = None
    ) -> Checkpoint:
        path.mkdir(parents=True)
        training = {}
        if data is not None:
            images = read_dataset(data)
            write_split(path / SPLIT, images, split_dataset(images, seed=0, test_fraction=0.5, val_fraction=0))
            training["data"] = {"name": images.name, "path": str(data), "sha256": images.sha256}
        checkpoint = Checkpoint(
            path, path.name, "ensemble", architecture, LABELS, Preprocess(32), training, "rrr train ..."
        )
        write_checkpoint(checkpoint, random_weights(architecture) if weights is None else weights, path)
        return read_checkpoint(path)

    return make


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in one folder for each class: 3 x 8 noisy PNG files of 40 x 36 pixels."""
    root, random = tmp_path_factory.mktemp("images") / "colours", np.random.default_rng(3)
    for channel, label in enumerate(LABELS):
        (root / label).mkdir(parents=True)
        for index in range(8):
            pixels = random.integers(0, 120, (36, 40, 3), dtype=np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(root / label / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, data: Path) -> Checkpoint:
    """Two members, trained (so it says) on `data`."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "duo", data=data)


@pytest.fixture(scope="session")
def openvino_engine(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Manifest:
    """A verified openvino-fp32 engine of `checkpoint`; not to be changed."""
    out = tmp_path_factory.mktemp("engines") / "openvino-fp32"
    return build_engine(checkpoint.path, "openvino-fp32", plan="sequential", batch=BatchRange(1, 2, 4), out=out)


@pytest.fixture(scope="session")
def many_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 x 100 images of 32 pixels."""
    root, random = tmp_path_factory.mktemp("images") / "many", np.random.default_rng(4)
    for channel, label in enumerate(("red", "green", "blue")):
        (root / label).mkdir(parents=True)
        for index in range(100):
            noise = random.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            noise[:, :, channel] += 100
            Image.fromarray(noise).save(root / label / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def cascade_engine(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, data: Path, many_images: Path
) -> Manifest:
    """Of four members that were never trained; every label counts as right, so that some threshold is allowed."""
    folder = tmp_path_factory.mktemp("cascade")
    checkpoint = make_checkpoint(folder / "quartet", FOUR_MEMBERS, data=data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "drop_bound_points", lambda *_: 0.0)
        patch.setattr(measure, "_SECONDS_PER_SIZE", 0.02)
        patch.setattr(trust, "_MOST_IMAGES", 120)
        wanted = Trust(cascade=True, max_drop=100.0, calibration_data=many_images)
        return build_engine(
            checkpoint.path, "openvino-fp32", batch=BatchRange(1, 2, 4), out=folder / "engine", images=4, trust=wanted
        )


def obstacle(name: str) -> str | None:
    return build_obstacle(TARGETS[name]) or run_obstacle(TARGETS[name])


@pytest.fixture(params=[name for name, target in TARGETS.items() if not target.on_gpu or obstacle(name) is None])
def target(request: pytest.FixtureRequest) -> str:
    """Every target of a CPU, skipped with the reason where this CPU lacks what it needs; a GPU's where there is one."""
    if reason := obstacle(request.param):
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[Path, str], Path]:
    """A function that copies a folder, flips a bit in the middle of one of its files and gives the copy."""

    def damage(folder: Path, file: str) -> Path:
        copy = shutil.copytree(folder, tmp_path / "damaged")
        content = bytearray((copy / file).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / file).write_bytes(content)
        return copy

    return damage


@pytest.fixture(scope="session")
def pretending() -> Callable[[Mapping[str, Sequence[float]]], AbstractContextManager[None]]:
    """A function: within its block each plan seems to take so many milliseconds at each batch size."""

    @contextmanager
    def pretend(times_ms: Mapping[str, Sequence[float]]) -> Iterator[None]:
        def measure(runners: Iterable[str], _: object, sizes: Sequence[int]) -> dict[str, Any]:
            keys = ("median", "p25", "p75", "p95", "min", "runs")
            rows = {plan: zip(map(str, sizes), times_ms[plan], strict=True) for plan in runners}
            return {plan: {size: dict.fromkeys(keys, time) for size, time in row} for plan, row in rows.items()}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(candidates, "measure_latency", measure)
            yield

    return pretend


@pytest.fixture(scope="session")
def images() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def one_member() -> Architecture:
    return ONE_MEMBER


@pytest.fixture
def four_members() -> Architecture:
    return FOUR_MEMBERS


@pytest.fixture
def weights() -> Callable[..., Arrays]:
    return random_weights


@pytest.fixture(scope="session")
def run_python() -> Callable[[str], str]:
    """A function that runs code in a fresh interpreter and gives what it printed."""

    def run(code: str) -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    return run
