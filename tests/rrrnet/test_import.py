"""A fine-tuned ResNet152 of elsewhere becomes a checkpoint that answers as its file does."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from harness.service import RRR
from rrrnet.network.backbone import backbone_shapes

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
LABELS = ("2", "10", "1")
SIZE = 32


def rrr(*words: str | Path, expect: int = 0) -> str:
    """Run one command and require its exit code; what it printed, with its lines joined."""
    done = subprocess.run([str(RRR), *map(str, words)], check=False, capture_output=True, text=True, timeout=600)
    printed = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == expect, printed
    assert "Traceback" not in printed
    return printed


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A ResNet152 in half precision by torchvision's names, whose blocks add little, so that no layer overflows."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in backbone_shapes().items():
        if len(shape) == 4:
            fan = shape[1] * shape[2] * shape[3]
            tensors[name] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        else:
            kind = name.rpartition(".")[2]
            value = {"weight": 0.3 if "bn3" in name else 1.0, "running_var": 1.0}.get(kind, 0.0)
            tensors[name] = torch.full(shape, value) + 0.05 * torch.rand(shape, generator=generator)
    tensors["fc.weight"] = torch.randn(3, 2048, generator=generator) * 0.3
    tensors["fc.bias"] = torch.tensor([0.1, 0.0, -0.1])
    return {name: tensor.half() for name, tensor in tensors.items()}


def plain(state: dict[str, Tensor], images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Probabilities (N, C) of the state dict by torch's functions alone. Images: (N, S, S, 3)."""
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    x = ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)

    def conv(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"].float()
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (
            state[f"{norm}.{kind}"].float() for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift)

    x = F.max_pool2d(F.relu(conv(x, "conv1", "bn1", 2)), 3, 2, 1)
    for stage, blocks in enumerate((3, 8, 36, 3), 1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.relu(conv(x, f"{name}.conv1", f"{name}.bn1"))
            y = F.relu(conv(y, f"{name}.conv2", f"{name}.bn2", stride))
            y = conv(y, f"{name}.conv3", f"{name}.bn3")
            short = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", stride) if block == 0 else x
            x = F.relu(y + short)
    logits = F.linear(x.mean((2, 3)), state["fc.weight"].float(), state["fc.bias"].float())
    return logits.softmax(1).numpy()


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS))
    return path


def as_lightning(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"epoch": 1, "state_dict": {f"model.{name}": value for name, value in state.items()}}, path)


def as_safetensors(state: dict[str, Tensor], path: Path) -> None:
    renamed = {name.replace("fc.", "head.fc."): value for name, value in state.items()}
    save_file({f"module.{name}": value for name, value in renamed.items()}, path)


@pytest.mark.parametrize(("name", "write"), [("net.ckpt", as_lightning), ("net.safetensors", as_safetensors)])
def test_an_import_without_data_answers_as_the_file_does(
    tmp_path: Path,
    state: dict[str, Tensor],
    images: npt.NDArray[np.uint8],
    labels: Path,
    name: str,
    write: Callable[[dict[str, Tensor], Path], None],
) -> None:
    write(state, tmp_path / name)
    out, engine = tmp_path / "net", tmp_path / "engine"
    common = ("--method", "full", "--epochs", "0", "--size", str(SIZE))
    said = rrr("train", *common, "--weights", tmp_path / name, "--labels", labels, "--out", out)
    assert "no --data: the accuracy is not known" in said
    assert not (out / "split.csv").exists()
    document = json.loads((out / "model.json").read_text())
    assert (document["labels"], document["training"]["data"]) == (list(LABELS), None)
    said = rrr("build", out, "--target", "openvino-fp32", "--batch", "1,2,6", "--images", "8", "--out", engine)
    assert "not known: no labelled images" in said
    from rrrbuild.engine import load_engine

    found = load_engine(engine)(images)[:, 0]
    np.testing.assert_allclose(found, plain(state, images), atol=1e-3)
    assert "never had images: give labelled ones with --data" in rrr("evaluate", out, expect=2)
    assert "No accuracy is known." in rrr("report", out, "--engine", engine, "--json")
    assert "never had data, and INT8 is calibrated" in rrr("build", out, "--target", "openvino-int8", expect=2)
    rrr("describe", out)


def test_a_file_of_labels_orders_the_outputs_also_where_there_are_data(
    tmp_path: Path, state: dict[str, Tensor], labels: Path
) -> None:
    as_lightning(state, tmp_path / "net")
    images = np.random.default_rng(1).integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8)
    answers = plain(state, images).argmax(1)
    # Six lie in the class that the file answers, two more in each class.
    truth = np.concatenate([answers[:6], np.arange(6) % 3])
    for index, image in enumerate(images):
        folder = tmp_path / "data" / LABELS[truth[index]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    common = ("--method", "full", "--epochs", "0", "--size", str(SIZE), "--data", tmp_path / "data")
    rrr("train", *common, "--weights", tmp_path / "net", "--labels", labels, "--out", tmp_path / "out")
    printed = rrr("evaluate", tmp_path / "out", "--split", "all", "--json")
    found, _ = json.JSONDecoder().raw_decode(printed[printed.index("{") :])
    assert found["accuracy"] == pytest.approx((answers == truth).mean())


def test_what_cannot_be_kept_is_refused_by_the_command_with_both_numbers(
    tmp_path: Path, state: dict[str, Tensor], labels: Path
) -> None:
    torch.save(state | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, tmp_path / "net.pth")
    common = ("--method", "full", "--epochs", "0", "--labels", labels, "--out", tmp_path / "out")
    said = rrr("train", *common, "--weights", tmp_path / "net.pth", expect=3)
    assert "net.pth: fc has 1000 classes, --labels has 3" in said
    assert not (tmp_path / "out").exists()
