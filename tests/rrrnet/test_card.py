"""What makes a checkpoint's folder a repository of the hub: its page and `config.json`; and what of it is sealed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint, read_checkpoint, write_checkpoint
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.hub.card import crop_share, hub_config, model_card
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture
from rrrnet.training.options import Options
from rrrnet.training.resuming import check_out

FIGURES = {"accuracy": 0.941, "nll": 0.2, "ece": 0.01, "brier": 0.1}
CROPPED = Preprocess(224, "bicubic", jpeg_oversize=0, mode="crop", resize_size=235)


@pytest.fixture
def trained(tmp_path: Path) -> Checkpoint:
    training = {
        "complete": True,
        "data": {"name": "pets: cats & \u201cdogs\u201d", "path": "/pets"},
        "metrics": {"test": {**FIGURES, "images": 40, "members": [{**FIGURES, "images": 40}] * 2}},
        "weights": {"origin": "timm/resnet152.a1h_in1k, sha256 0", "repository": "timm/resnet152.a1h_in1k"},
        "license": "apache-2.0",
    }
    shape = Architecture(2, REDUCED_BLOCKS, members=2, widths=(8, 8))
    command = "rrr train --data '/my  pets' --out mine"
    return Checkpoint(tmp_path / "mine", "mine", "ensemble", shape, ("cat: a", "dog"), CROPPED, training, command)


def write(checkpoint: Checkpoint) -> Checkpoint:
    with sealed.staged(checkpoint.path, document=DOCUMENT) as folder:
        write_checkpoint(checkpoint, {"fc.bias": np.zeros(2, np.float32)}, folder)
    return read_checkpoint(checkpoint.path)


def test_the_hub_reads_of_the_page_what_was_measured_and_nothing_else(trained: Checkpoint) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(model_card(trained)).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "rrrnet-serving",
        "image-classification",
    )
    assert (data.base_model, data.metrics) == ("timm/resnet152.a1h_in1k", ["accuracy"])
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results == FIGURES
    assert {result.dataset_name for result in data.eval_results} == {"pets: cats & \u201cdogs\u201d"}
    unmeasured = ModelCard(model_card(replace(trained, training={}))).data
    assert unmeasured.eval_results is None
    assert {"license", "base_model", "metrics"}.isdisjoint(unmeasured.to_dict())


def test_the_page_tells_people_the_scores_the_command_and_how_images_are_seen(trained: Checkpoint) -> None:
    page = model_card(trained)
    assert "\n| ensemble | 0.941 | 0.200 | 0.010 | 0.100 |\n| member 0 | 0.941 |" in page
    assert "\nrrr train --data '/my  pets' --out mine\n" in page
    assert f"\n{CROPPED.describe()}.\n" in page
    assert "\n`cat: a`, `dog`\n" in page
    assert "None: nothing was measured." in model_card(replace(trained, training={}))


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"epochs": 3, "teacher": None}, "which training never saw:"),
        ({"epochs": 3, "teacher": {"trained_on_test_images": 0}}, "which training never saw:"),
        ({"epochs": 0, "teacher": None}, "which this training did not use:"),
        (
            {"epochs": 3, "teacher": {"trained_on_test_images": 12}},
            "which this training did not use (its teacher was trained on 12 of them):",
        ),
        (
            {"epochs": 3, "teacher": {"trained_on_test_images": None}},
            "which this training did not use (its teacher was trained on an unknown number of them):",
        ),
    ],
)
def test_the_page_says_that_nobody_saw_the_test_images_only_where_that_is_known(
    trained: Checkpoint, training: dict[str, object], words: str
) -> None:
    page = model_card(replace(trained, training=trained.training | training))
    assert f"test images of pets: cats & \u201cdogs\u201d, {words}\n" in page


def test_the_config_has_labels_as_transformers_and_images_as_timm(trained: Checkpoint) -> None:
    config = json.loads(json.dumps(hub_config(trained)))
    assert config["id2label"] == {"0": "cat: a", "1": "dog"}
    images = config["pretrained_cfg"]
    assert images["input_size"] == [3, 224, 224]
    assert math.floor(224 / images["crop_pct"]) == 235
    assert (images["crop_mode"], images["interpolation"], images["num_classes"]) == ("center", "bicubic", 2)
    squashed = hub_config(replace(trained, preprocess=Preprocess(64)))["pretrained_cfg"]
    assert (squashed["crop_mode"], squashed["crop_pct"]) == ("squash", 1.0)


def test_every_shorter_side_survives_timms_division() -> None:
    for size in (32, 224, 299):
        for edge in range(size, 2 * size):
            share = crop_share(replace(CROPPED, size=size, resize_size=edge))
            assert math.floor(size / share) == edge


def test_the_page_may_be_edited_or_go_and_the_config_may_not(trained: Checkpoint) -> None:
    written = write(trained)
    assert written.files == {"model.safetensors", "config.json", "README.md"}
    page, config = (written.path / name for name in ("README.md", "config.json"))
    page.write_text("mine")
    read_checkpoint(written.path)
    page.unlink()
    read_checkpoint(written.path)
    config.write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json was changed after it was written"):
        read_checkpoint(written.path)


def test_an_edited_page_is_never_lost(trained: Checkpoint) -> None:
    write(trained)
    asked = Options(trained.path, trained.path, weights="none", overwrite=True)
    check_out(asked)
    (trained.path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"README\.md was changed after rrr wrote it.*move it away"):
        check_out(asked)
    for _ in range(2):  # as when it is edited while a training saves
        write(trained)
        assert (trained.path / "README.md").read_text() == "mine"


def test_a_checkpoint_from_before_there_were_pages_is_read(trained: Checkpoint) -> None:
    written = write(trained)
    document = json.loads((written.path / DOCUMENT).read_text())
    for name in ("README.md", "config.json"):
        (written.path / name).unlink()
    sealed.seal(written.path, DOCUMENT, document)
    assert read_checkpoint(written.path).files == {"model.safetensors"}


def test_a_name_that_leads_out_of_the_folder_is_refused(trained: Checkpoint) -> None:
    written = write(trained)
    document = json.loads((written.path / DOCUMENT).read_text())
    sealed.seal(written.path, DOCUMENT, {**document, "name": "../../elsewhere"})
    with pytest.raises(ArtifactError, match=r"'\.\./\.\./elsewhere' cannot be a model's name"):
        read_checkpoint(written.path)
