"""`rrr train --weights hf://OWNER/NAME`: a checkpoint with the labels and preprocessing of the repository."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.fake_hub import FakeHub
from harness.foreign_names import by_transformers
from rrrnet.checkpoint import Checkpoint, read_checkpoint
from rrrnet.data.dataset import ImageSet
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.hub.told import Told
from rrrnet.images.preprocess import Preprocess
from rrrnet.network import architecture as shapes
from rrrnet.network.backbone import backbone_shapes
from rrrnet.training import fit as fitting
from rrrnet.training import planning
from rrrnet.training.options import Options
from rrrnet.weights import importing, start

CONFIG = {"model_type": "resnet", "id2label": {"0": "red", "1": "green", "2": "blue"}}
PROCESSOR = {"crop_pct": 0.875, "size": 224, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}


def saved(tensors: dict[str, Tensor]) -> bytes:
    """As torch.save writes them: one number under each, whatever its shape."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def weights() -> bytes:
    every = backbone_shapes("resnet152") | {"fc.weight": (3, 2048), "fc.bias": (3,)}
    return saved({by_transformers(name): torch.ones(1).expand(shape) for name, shape in every.items()})


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ResNet152 itself would take a second and 240 MB."""
    monkeypatch.setattr(importing, "RRRNet", lambda architecture: SimpleNamespace(architecture=architecture))
    monkeypatch.setattr(importing, "export_weights", lambda _: {})
    monkeypatch.setattr(start, "load_pretrained", lambda *_: [])


def put(hub: FakeHub, weights: bytes, config: Any = CONFIG, processor: Any = PROCESSOR) -> str:
    documents = {"config.json": config, "preprocessor_config.json": processor}
    files = {name: json.dumps(document).encode() for name, document in documents.items() if document is not None}
    return hub.put("me/net", {**files, "pytorch_model.bin": weights})


def imported(out: Path, **options: Any) -> tuple[Checkpoint, list[str]]:
    """The checkpoint of an import without data, and what was said."""
    import_it: dict[str, Any] = {"method": "full", "epochs": 0}
    return trained(None, out, **import_it, **options)


def trained(data: Path | None, out: Path, *, stop: bool = False, **options: Any) -> tuple[Checkpoint, list[str]]:
    said: list[str] = []
    fitting.fit(
        Options(data, out, weights="hf://me/net", **options),
        report=lambda *_: None,
        stop=lambda: stop,
        say=said.append,
        started=lambda *_: None,
    )
    return read_checkpoint(out), said


@pytest.mark.usefixtures("_no_network")
def test_labels_and_preprocessing_come_with_the_weights_and_are_told(
    fake_hub: FakeHub, weights: bytes, tmp_path: Path
) -> None:
    commit = put(fake_hub, weights)
    checkpoint, said = imported(tmp_path / "net", license="apache-2.0")
    assert checkpoint.architecture == shapes.full(3)
    assert checkpoint.labels == ("red", "green", "blue")
    rule = Preprocess(224, "bicubic", (0.5,) * 3, (0.25,) * 3, 0, "crop", 256)
    assert checkpoint.preprocess == rule
    origin = checkpoint.training["weights"]
    assert origin["repository"] == "me/net"
    assert origin["origin"].startswith(f"hf://me/net@{commit}:pytorch_model.bin, sha256 ")
    assert f"hf://me/net was trained on images so: {rule.describe()}; --size, --preprocess and others change it" in said
    assert "hf://me/net names 3 labels: red, green, blue; --labels FILE gives others" in said
    assert f"images: {rule.describe()}" in said
    assert not [line for line in said if "default squash" in line]
    page = (tmp_path / "net" / "README.md").read_text()
    assert 'base_model: "me/net"\n' in page
    assert 'license: "apache-2.0"\n' in page


@pytest.mark.usefixtures("_no_network")
def test_every_part_of_it_is_overridden_by_the_options(fake_hub: FakeHub, weights: bytes, tmp_path: Path) -> None:
    from rrrnet.images.preprocess_options import PreprocessOptions

    put(fake_hub, weights)
    (tmp_path / "labels.txt").write_text("1\n2\n3")
    given = PreprocessOptions(mean="0.1,0.2,0.3", interpolation="bilinear")
    checkpoint, said = imported(tmp_path / "a", labels=tmp_path / "labels.txt", preprocess=given, size=64)
    assert checkpoint.labels == ("1", "2", "3")
    assert checkpoint.preprocess == Preprocess(64, "bilinear", (0.1, 0.2, 0.3), (0.25,) * 3)
    assert not [line for line in said if "labels:" in line]
    checkpoint, _ = imported(tmp_path / "b", preprocess=PreprocessOptions(resize=96, crop=64))
    assert (checkpoint.preprocess.resize_size, checkpoint.preprocess.size) == (96, 64)


@pytest.mark.usefixtures("_no_network")
def test_a_repository_without_labels_or_with_too_many_says_so(
    fake_hub: FakeHub, weights: bytes, tmp_path: Path
) -> None:
    put(fake_hub, weights, config=None, processor=None)
    with pytest.raises(UsageError, match="hf://me/net names no labels: give them by --labels FILE"):
        imported(tmp_path / "net")
    put(fake_hub, weights, config={"label_names": ["a", "b"]})
    with pytest.raises(ArtifactError, match=r"classifier\.1 has 3 classes, hf://me/net has 2"):
        imported(tmp_path / "net")
    assert not (tmp_path / "net").exists()


@pytest.mark.usefixtures("_no_network")
def test_another_network_is_refused_as_in_a_local_file_and_by_its_config_before_it_is_downloaded(
    fake_hub: FakeHub, weights: bytes, tmp_path: Path
) -> None:
    put(fake_hub, saved({"blocks.0.attn.qkv.weight": torch.ones(1)}), config=None)
    (tmp_path / "labels.txt").write_text("1\n2\n3")
    with pytest.raises(ArtifactError, match=r"hf://me/net is not a ResNet.*it seems to be a transformer"):
        imported(tmp_path / "net", labels=tmp_path / "labels.txt")
    put(fake_hub, weights, config=CONFIG | {"downsample_in_bottleneck": True})
    fake_hub.asked.clear()
    with pytest.raises(ArtifactError, match="downsample_in_bottleneck is True"):
        imported(tmp_path / "net")
    assert not [asked for asked in fake_hub.asked if asked.endswith("pytorch_model.bin")]


def test_without_data_only_a_whole_network_of_the_hub_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--data is missing: .*or --weights hf://OWNER/NAME"):
        Options(None, tmp_path, method="ensemble", epochs=0, weights="hf://me/net")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """3 x 4 images of 40 x 40 noisy pixels."""
    random = np.random.default_rng(0)
    for label in ("blue", "green", "red"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            image.save(tmp_path / "data" / label / f"{number}.png")
    return tmp_path / "data"


@pytest.mark.nightly  # it trains, and reads 60 million numbers three times
def test_a_training_sees_images_as_the_repository_says_and_goes_on_without_the_hub(
    fake_hub: FakeHub, weights: bytes, data: Path, tmp_path: Path
) -> None:
    put(fake_hub, weights, processor={"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3})
    how: Any = {"method": "reduced", "epochs": 1, "batch_size": 4, "device": "cpu"}
    stopped, said = trained(data, tmp_path / "net", stop=True, **how)
    assert not stopped.training["complete"]
    assert stopped.labels == ("blue", "green", "red")  # those of the data: the classifier is a fresh one
    assert stopped.preprocess == Preprocess(32, mean=(0.5,) * 3)
    assert "--method takes the first blocks of hf://me/net: the classifier starts fresh" in said
    fake_hub.commits.clear()
    gone_on, said = trained(data, tmp_path / "net", resume=True, **how)
    assert gone_on.training["complete"]
    assert gone_on.preprocess == stopped.preprocess
    assert gone_on.training["weights"] == stopped.training["weights"]


def test_a_size_that_is_squashed_to_comes_with_the_weights_unless_another_is_given(tmp_path: Path) -> None:
    rule = Preprocess(384, "bicubic")
    for given, size in ((None, 384), (64, 64)):
        asked = Options(None, tmp_path, method="full", epochs=0, weights="hf://me/net", size=given)
        options = planning.as_told(asked, Told(preprocess=rule), lambda _: None)
        assert planning.preprocess_of(options, Told(preprocess=rule)) == Preprocess(size, "bicubic")


def test_the_order_of_the_labels_is_the_repositorys_where_its_classifier_is_kept() -> None:
    images = ImageSet("data", Path("data"), (), (), ("blue", "red"), (), "")
    for method, epochs, labels, kept in (
        ("full", 5, ("red", "blue"), True),
        ("head", 0, ("red", "blue"), True),
        ("full", 5, ("cat", "dog"), False),
        ("full", 0, ("cat", "dog"), True),  # and refused, for the classes differ
        ("full", 0, (), False),
        ("ensemble", 0, ("red", "blue"), False),
    ):
        options: Any = SimpleNamespace(method=method, epochs=epochs)
        assert planning.keeps_labels(options, Told(labels), images) == kept
