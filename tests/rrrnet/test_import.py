"""A fine-tuned ResNet152, 50 or 101 of elsewhere becomes a checkpoint that answers as its file does."""

import argparse
import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from harness.fake_hub import running
from harness.foreign_names import by_transformers
from harness.service import RRR
from rrrnet.checkpoint import read_checkpoint, read_weights
from rrrnet.inference import predictor
from rrrnet.network.architecture import BACKBONES
from rrrnet.network.backbone import backbone_shapes
from rrrnet.network.ensemble import RRRNet

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
    for name, shape in backbone_shapes("resnet152").items():
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
    for stage, most in enumerate((3, 8, 36, 3), 1):
        for block in range(most):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            if f"{name}.conv1.weight" not in state:
                continue
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


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def headless(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def blocks(state: dict[str, Tensor], second: int, third: int) -> dict[str, Tensor]:
    """The network with so many blocks in layer2 and layer3."""
    most = {"layer2": second, "layer3": third}

    def kept(name: str) -> bool:
        stage, block = name.split(".")[:2]
        return stage not in most or int(block) < most[stage]

    return {name: value for name, value in state.items() if kept(name)}


def sequential(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in fastai's body."""
    children = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    parts = {name: name.partition(".") for name in headless(state)}
    return {f"0.{children[head]}.{rest}": state[name] for name, (head, _, rest) in parts.items()}


def wide(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inner channels of each block doubled."""
    ends = (".conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")
    return {
        name: torch.cat([value, value]) if name.startswith("layer") and name.endswith(ends) else value
        for name, value in state.items()
    }


# What people send: the name of the file, and what torch.save or safetensors was given.
Wrap = Callable[[dict[str, Tensor]], Any]
ANSWERED: dict[str, Wrap] = {
    "plain.pth": dict,
    "sequential_head.pth": lambda state: {name.replace("fc.", "fc.1."): value for name, value in state.items()},
    "module.pth": partial(under, "module."),
    "net.ckpt": lambda state: {"state_dict": under("model.", state), "optimizer_states": [], "hyper_parameters": {}},
    "backbone.pth": lambda state: {"state_dict": under("backbone.", state)},
    "compiled.pth": partial(under, "_orig_mod."),
    "compiled_parallel.pth": partial(under, "module._orig_mod."),
    "nested.pth": partial(under, "module.model.backbone."),
    "model_state_dict.pth": lambda state: {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {}},
    },
    "net.pth": lambda state: {"net": state, "acc": 91.2},
    "average.pth.tar": lambda state: {"arch": "resnet152", "state_dict": state, "state_dict_ema": wide(state)},
    "bfloat16.pth": lambda state: {name: value.bfloat16() for name, value in state.items()},
    "module.safetensors": partial(under, "module."),
    "model.safetensors": lambda state: under("model.", {k.replace("fc.", "head.fc."): v for k, v in state.items()}),
    "numpy.pth": lambda state: {"state_dict": state, "best_acc": np.float64(91.0)},
    "namespace.pth": lambda state: {"model": state, "args": argparse.Namespace(lr=1)},
    "resnet50.pth": partial(blocks, second=4, third=6),
    "resnet101.pth": lambda state: {"model": under("module.", blocks(state, second=4, third=23))},
    "no_ending": dict,
    "model.PTH": dict,
    "model.pkl": dict,
}
REFUSED: dict[str, tuple[Wrap, str]] = {
    "mlp.pth": (
        lambda state: state | {"fc.weight": torch.zeros(8, 2048), "fc.2.weight": torch.zeros(3, 8)},
        "its classifier is an MLP, not one linear layer: fc.weight (8, 2048), fc.2.weight (3, 8)",
    ),
    "encoder.pth": (lambda state: under("encoder.", headless(state)), "it holds no classifier"),
    "no_bias.pth": (
        lambda state: {name: value for name, value in state.items() if name != "fc.bias"},
        "its classifier lacks a tensor: fc.bias is missing",
    ),
    "imagenet.pth": (
        lambda state: state | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)},
        "fc has 1000 classes, --labels has 3",
    ),
    "fastai.pth": (lambda state: {"model": sequential(state), "opt": {}}, "it holds no classifier"),
    "resnet50_half.pth": (partial(blocks, second=4, third=3), "is not a ResNet50 with torchvision's names: layer3.3"),
    "wide.pth": (wide, "this is a Wide ResNet152 (128 channels"),
    "whole.pth": (lambda _: torch.nn.Linear(2, 2), "it holds a whole model (torch.nn.modules.linear.Linear"),
    "lacking.pth": (
        lambda state: {name: value for name, value in state.items() if name != "layer3.17.conv2.weight"},
        "layer3.17.conv2.weight is missing",
    ),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_the_classifier_of_every_wrapping_answers_as_the_files(
    tmp_path: Path, state: dict[str, Tensor], images: npt.NDArray[np.uint8], labels: Path, name: str
) -> None:
    file, out = tmp_path / name, tmp_path / "out"
    wrapped = ANSWERED[name](state)
    save_file(wrapped, file) if file.suffix == ".safetensors" else torch.save(wrapped, file)
    common = ("--method", "full", "--epochs", "0", "--size", str(SIZE), "--labels", labels)
    rrr("train", *common, "--weights", file, "--out", out)
    file.unlink()  # each takes 120 MB
    checkpoint = read_checkpoint(out)
    model = RRRNet(checkpoint.architecture).eval()
    tensors = {name: torch.from_numpy(array) for name, array in read_weights(checkpoint).items()}
    assert not [key for key in model.load_state_dict(tensors, strict=False).missing_keys if "tracked" not in key]
    (out / "model.safetensors").unlink()
    mean, std = (torch.tensor(value) for value in (checkpoint.preprocess.mean, checkpoint.preprocess.std))
    inputs = ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = model(inputs).softmax(2)[:, 0].numpy()
    backbone = file.stem if file.stem in BACKBONES else "resnet152"
    assert (checkpoint.architecture.backbone, checkpoint.architecture.is_full) == (backbone, True)
    kept = {key: value for key, value in state.items() if key in tensors}
    rounded = kept if name != "bfloat16.pth" else {key: value.bfloat16() for key, value in kept.items()}
    np.testing.assert_allclose(found, plain(rounded, images), atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrapping_without_a_classifier_that_fits_is_refused_in_a_line(
    tmp_path: Path, state: dict[str, Tensor], labels: Path, name: str
) -> None:
    wrap, words = REFUSED[name]
    torch.save(wrap(state), tmp_path / name)
    common = ("--method", "full", "--epochs", "0", "--labels", labels, "--out", tmp_path / "out")
    said = rrr("train", *common, "--weights", tmp_path / name, expect=3)
    (tmp_path / name).unlink()
    assert words in said
    assert not (tmp_path / "out").exists()


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
    assert "never had data: give labelled ones with --data DIR --split all" in rrr("evaluate", out, expect=2)
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


def test_a_network_of_the_hub_answers_as_its_file_does(
    tmp_path: Path, state: dict[str, Tensor], images: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "model.safetensors", tmp_path / "out"
    save_file({by_transformers(name): value for name, value in state.items()}, file)
    config = {"model_type": "resnet", "id2label": {str(number): label for number, label in enumerate(LABELS)}}
    documents = {"config.json": config, "preprocessor_config.json": {"size": {"height": SIZE, "width": SIZE}}}
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        texts = {name: json.dumps(document).encode() for name, document in documents.items()}
        hub.put("me/net", {**texts, file.name: file.read_bytes()})
        said = rrr("train", "--method", "full", "--epochs", "0", "--weights", "hf://me/net", "--out", out)
        assert "hf://me/net names 3 labels: 2, 10, 1;" in said
        assert "rrr: there is no repository me/other" in rrr(
            "train", "--weights", "hf://me/other", "--data", tmp_path, "--out", tmp_path / "x", expect=2
        )
    checkpoint = read_checkpoint(out)
    assert (checkpoint.labels, checkpoint.preprocess.size) == (LABELS, SIZE)
    found = predictor(checkpoint)(images)[:, 0]
    np.testing.assert_allclose(found, plain(state, images), atol=1e-5)
