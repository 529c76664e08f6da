"""Files of weights: judged by content, read without running them, refused in words; and the hub out of reach."""

import argparse
import io
import socket
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.fake_hub import FakeHub
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.images.preprocess import Preprocess
from rrrnet.network import architecture as shapes
from rrrnet.network.architecture import backbone_title
from rrrnet.network.backbone import backbone_shapes
from rrrnet.network.ensemble import RRRNet
from rrrnet.training.options import Options
from rrrnet.training.planning import choose_architecture
from rrrnet.training.settle import settle_weights
from rrrnet.weights import imagenet, start
from rrrnet.weights.pretrained import check_source, read_pretrained
from rrrnet.weights.start import Origin

# Whole in shape, one number in size: torch.save keeps what lies under a tensor, not its repetitions.
BACKBONE = {name: torch.ones(1).expand(shape) for name, shape in backbone_shapes("resnet152").items()}


def layer(name: str, outputs: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.ones(1).expand(outputs, 2048), f"{name}.bias": torch.arange(float(outputs))}


class _Canary:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("canary"),)  # type: ignore[return-value]  # a pickle that would run code


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["epoch.pth.tar", "MODEL.PTH", "checkpoint"])
def test_what_torch_save_wrote_is_read_whatever_its_name_is(name: str) -> None:
    torch.save({"state_dict": OrderedDict(BACKBONE | layer("fc.1", 3)), "epoch": 3}, name)
    pretrained = read_pretrained(name)
    assert pretrained.origin.startswith(f"{name}, sha256 ")
    assert pretrained.found.tensors["fc.bias"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("zipped", [True, False])  # as torch.save does since 1.6, and as before
def test_objects_beside_the_tensors_are_named_and_not_made(*, zipped: bool) -> None:
    beside = {"args": argparse.Namespace(lr=1), "best": np.float64(91), "path": Path("x")}
    content = {"model": BACKBONE | layer("fc", 3)} | beside
    torch.save(content, "net.pth", _use_new_zipfile_serialization=zipped)
    found = read_pretrained("net.pth").found
    assert (found.head, len(found.notes)) == ("fc", 1)
    assert "not read, being no tensors: argparse.Namespace" in found.notes[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"conv1.weight": _Canary()},
            r"cannot be read as tensors only: it holds other objects \(.*pathlib\.Path.*\), which could run code",
        ),
        (
            {"model": {k: v for k, v in BACKBONE.items() if "3.20." not in k}, "args": argparse.Namespace(lr=1)},
            r"layer3\.20\..*not read, being no tensors: argparse\.Namespace",
        ),
        (
            nn.Sequential(nn.Linear(2, 2)),
            r"a whole model \(torch\.nn\..*; if you trust it, save its .*m\.state_dict\(\)",
        ),
        (
            {"model": nn.Linear(2, 2)},
            r"a whole model \(torch\.nn\.modules\.linear\.Linear\).*m\['model'\]\.state_dict\(\)",
        ),
        ([1, 2], "holds no tensors of a network"),
    ],
)
def test_a_pickle_of_something_else_is_refused_and_not_run(content: object, words: str) -> None:
    torch.save(content, "net.pth")
    with pytest.raises(ArtifactError, match=words):
        read_pretrained("net.pth")
    assert not Path("canary").exists()


def zip_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, "")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("net.onnx", b"\x08\x07onnx", "this is an ONNX model"),
        ("net.pth", b"\x08\x07pytorch", "this is an ONNX model"),
        ("net.keras", b"PK", "this is a Keras model"),
        ("net.bin", b"\x89HDF\r\n", "this is a Keras model"),
        ("net.pth", b"<!DOCTYPE html>", "a web page"),
        ("net.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("net.bin", b'{"weight_map": {}}', "JSON text"),
        ("net.pth", b"", "the file is empty"),
        ("net.safetensors", b"not weights at all", "cannot be read as safetensors"),
        ("net.pth", b"not weights at all", "cannot be read as tensors only: it is damaged"),
        ("net.zip", zip_of("a/b"), "a zip archive that torch.save did not write"),
        ("net.pt", zip_of("net/constants.pkl"), r"is TorchScript, a program: .*torch\.jit\.load\('net\.pt'\)"),
    ],
)
def test_files_of_other_programs_and_damaged_ones_are_refused_in_words(name: str, data: bytes, words: str) -> None:
    Path(name).write_bytes(data)
    with pytest.raises(ArtifactError, match=words):
        read_pretrained(name)


def test_a_missing_file_a_folder_and_a_key_without_a_file_are_misuse() -> None:
    Path("folder").mkdir()
    for weights, key, words in (
        ("nowhere.pth", None, "no such file; allowed are imagenet, none"),
        ("folder", None, "is a folder, and no checkpoint of rrr train"),
        ("none", "model", "--weights-key model: it chooses a network in a file"),
    ):
        with pytest.raises(UsageError, match=words):
            check_source(weights, key=key)


def test_numbers_that_are_not_finite_or_no_floats_are_refused() -> None:
    for name, tensor, words in (
        ("conv1.weight", torch.full((64, 3, 7, 7), torch.nan), "conv1.weight has values that are not finite"),
        ("bn1.bias", torch.zeros(64, dtype=torch.int8), "bn1.bias holds int8"),
        ("bn1.running_var", torch.full((64,), -1.0), "bn1.running_var has variances below 0"),
    ):
        torch.save(BACKBONE | layer("fc", 3) | {name: tensor}, "net.pth")
        with pytest.raises(ArtifactError, match=words):
            read_pretrained("net.pth")


@pytest.fixture
def _nothing_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "load_pretrained", lambda model, tensors, slices: [])


def begin(*, classes: int, trained: bool, weights: str = "net.pth", full: bool = True) -> list[str]:
    """What is said where a network of so many classes starts from the file."""
    said: list[str] = []
    model = cast(RRRNet, SimpleNamespace(architecture=shapes.full(classes) if full else shapes.reduced(classes)))
    labels = tuple(str(index) for index in range(classes))
    start.start(model, Origin(weights, None, labels, False, trained, Preprocess(64)), said.append)
    return said


@pytest.mark.usefixtures("_nothing_copied")
def test_a_classifier_of_another_size_is_refused_where_nothing_trains_another_and_told_where_it_does() -> None:
    torch.save(BACKBONE | layer("fc", 1000), "net.pth")
    with pytest.raises(ArtifactError, match=r"fc has 1000 classes, the data have 3; with --epochs 0 .* random"):
        begin(classes=3, trained=False)
    assert "net.pth: fc has 1000 classes, the data have 3: the classifier starts fresh" in begin(
        classes=3, trained=True
    )
    torch.save(BACKBONE, "net.pth")
    with pytest.raises(ArtifactError, match="it holds no classifier; with --epochs 0"):
        begin(classes=3, trained=False)


@pytest.mark.usefixtures("_nothing_copied")
def test_an_import_says_in_which_order_its_outputs_are_and_what_images_it_will_see() -> None:
    torch.save(BACKBONE | layer("fc", 3), "net.pth")
    said = "\n".join(begin(classes=3, trained=False))
    assert "fc of net.pth is kept; its outputs are taken to be, in this order: 0, 1, 2; --labels FILE" in said
    assert "note: imported networks get our default squash: whole image to 64 x 64" in said
    assert "starting from net.pth, a ResNet152, 0 tensors fresh" in said
    assert "its answers are random" in "\n".join(begin(classes=3, trained=False, full=False))


@pytest.fixture
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_empty_cache")
def test_offline_imagenet_weights_say_what_to_do_and_without_weights_training_starts_from_scratch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match=r"resnet152\.a1h_in1k is neither cached nor reachable.*--weights none"):
        read_pretrained("imagenet")
    with pytest.raises(ArtifactError, match=r"timm/resnet50\.a1_in1k is neither cached"):
        read_pretrained("imagenet", backbone="resnet50")
    said: list[str] = []
    assert imagenet.imagenet_or_none(said.append, "resnet101") == "none"
    assert "timm/resnet101.a1h_in1k is neither cached" in said[0]
    assert said[0].startswith("WARNING: NO PRE-TRAINED WEIGHTS, TRAINING STARTS FROM SCRATCH")


RESNET152 = "timm/resnet152.a1h_in1k"


def test_imagenet_weights_are_downloaded_once(fake_hub: FakeHub) -> None:
    fake_hub.put(RESNET152, {"model.safetensors": b"weights", "config.json": b"{}"})
    said: list[str] = []
    file = imagenet.hub_weights(said.append, "resnet152")
    assert file.read_bytes() == b"weights"
    assert said == [f"downloading model.safetensors of hf://{RESNET152} (0.0 MB)"]
    fake_hub.asked.clear()
    assert imagenet.hub_weights(said.append, "resnet152") == file
    assert (fake_hub.asked, len(said)) == ([], 1)


def test_a_download_is_told_without_a_terminal_too(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(*_: str, tqdm_class: Any, **__: Any) -> None:
        with tqdm_class(unit="B", unit_scale=True, total=240_000_000, initial=0, desc="model.safetensors") as bar:
            bar.update(120_000_000)
            bar.refresh()

    fake_hub.put(RESNET152, {"model.safetensors": b""})
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    imagenet.hub_weights(lambda _: None, "resnet152")
    assert capsys.readouterr().err.startswith("downloading, MB: 120 of 240, ")


def test_a_hub_that_does_not_give_imagenet_weights_is_told_in_words_with_what_to_do_without(fake_hub: FakeHub) -> None:
    fake_hub.put(RESNET152, {"model.safetensors": b""})
    fake_hub.gated.add(RESNET152)
    fake_hub.put("timm/resnet50.a1_in1k", {"config.json": b"{}"})
    for backbone, words in (
        ("resnet152", rf"hf://{RESNET152} is gated: accept its conditions at .*hf auth login"),
        ("resnet101", "there is no repository timm/resnet101.a1h_in1k on the hub, or it is private"),
        ("resnet50", r"hf://timm/resnet50\.a1_in1k has no model\.safetensors; it holds config\.json"),
    ):
        with pytest.raises(ArtifactError, match=rf"--weights imagenet: {words}.*; --weights none trains from scratch"):
            imagenet.hub_weights(lambda _: None, backbone)
        assert imagenet.imagenet_or_none(lambda _: None, backbone) == "none"


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("_empty_cache")
def test_a_hub_that_does_not_answer_is_given_up_after_the_time_that_is_set(
    monkeypatch: pytest.MonkeyPatch, silent_server: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", silent_server)
    monkeypatch.setattr("rrrnet.hub.download.PATIENCE_SECONDS", 0.2)
    with pytest.raises(ArtifactError, match=r"reachable from here \((no answer within 0\.2 s|.*timed out)"):
        imagenet.hub_weights(lambda _: None, "resnet152")
    assert imagenet.imagenet_or_none(lambda _: None, "resnet152") == "none"


def test_safetensors_under_any_ending_are_read(tmp_path: Path) -> None:
    save_file(
        {"module.conv1.weight": torch.zeros(64, 3, 7, 7), "module.layer1.0.conv1.weight": torch.zeros(1)}, "net.pth"
    )
    with pytest.raises(ArtifactError, match=r"not a ResNet50 with torchvision's names: bn1\.weight is missing"):
        read_pretrained("net.pth")


@pytest.mark.parametrize(("backbone", "other"), [("resnet50", "resnet152"), ("resnet101", "resnet50")])
def test_the_file_tells_its_backbone_and_is_refused_where_another_is_insisted_on(backbone: str, other: str) -> None:
    tensors = {name: torch.ones(1).expand(shape) for name, shape in backbone_shapes(backbone).items()}
    torch.save({"state_dict": tensors}, "net.pth")
    asked = Options(Path("data"), Path("out"), weights="net.pth")
    for options in (asked, replace(asked, backbone=backbone)):
        assert settle_weights(options, print).backbone == backbone
    title, wanted = backbone_title(backbone), backbone_title(other)
    with pytest.raises(UsageError, match=rf"net\.pth is a {title}, not a {wanted}: leave out --backbone {other}"):
        settle_weights(replace(asked, backbone=other), print)


def test_without_weights_the_option_names_the_whole_network() -> None:
    asked = Options(Path("data"), Path("out"), method="full", weights="none")
    assert choose_architecture(settle_weights(asked, print), 3) == shapes.full(3, backbone="resnet152")
    for method, blocks in (("full", (3, 4, 23, 3)), ("reduced", (1, 1, 1, 1)), ("ensemble", (1, 1, 1, 1))):
        options = replace(asked, method=method, backbone="resnet101")  # type: ignore[arg-type]  # a method each
        network = choose_architecture(settle_weights(options, print), 3)
        assert (network.backbone, network.blocks) == ("resnet101", blocks)
    with pytest.raises(UsageError, match="--backbone resnet34: no such backbone; allowed are resnet50, resnet101, res"):
        replace(asked, backbone="resnet34")


@pytest.mark.parametrize("wrong", [{"weights": "none"}, {"epochs": 1}, {"labels": None}, {"method": "ensemble"}])
def test_only_an_import_may_leave_out_the_data(tmp_path: Path, wrong: dict[str, Any]) -> None:
    torch.save({}, "net.pth")
    right: dict[str, Any] = {"method": "full", "epochs": 0, "labels": tmp_path / "labels.txt", "weights": "net.pth"}
    Options(None, tmp_path / "out", **right)
    with pytest.raises(UsageError, match="--data is missing"):
        Options(None, tmp_path / "out", **(right | wrong))
