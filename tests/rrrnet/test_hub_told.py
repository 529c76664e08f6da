"""What `config.json` and `preprocessor_config.json` tell, as timm and transformers write them."""

from typing import Any

import pytest

from rrrnet.errors import ArtifactError
from rrrnet.hub.told import CONFIG, PREPROCESSOR, Told, check_network, understand
from rrrnet.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

# The entries of timm/resnet152.a1h_in1k and of microsoft/resnet-152 that matter here.
TIMM = {
    "architecture": "resnet152",
    "num_classes": 1000,
    "global_pool": "avg",
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
}
TRANSFORMERS = {
    "architectures": ["ResNetForImageClassification"],
    "depths": [3, 8, 36, 3],
    "downsample_in_first_stage": False,
    "hidden_act": "relu",
    "id2label": {
        "0": "tench, Tinca tinca",
        "1": "crane",
        "10": "brambling",
        "2": "crane",
        **{str(i): str(i) for i in range(3, 10)},
    },
    "layer_type": "bottleneck",
    "model_type": "resnet",
}
CONVNEXT = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}


def told(config: Any = None, processor: Any = None) -> Told:
    documents = {CONFIG: config, PREPROCESSOR: processor}
    return understand({name: document for name, document in documents.items() if document is not None}, "me/net")


def crop(size: int, edge: int, resize: str = "bicubic", **others: Any) -> Preprocess:
    return Preprocess(size, resize, jpeg_oversize=0, mode="crop", resize_size=edge, **others)


def timm(**entries: Any) -> Any:
    return {**TIMM, "pretrained_cfg": TIMM["pretrained_cfg"] | entries}  # type: ignore[operator]  # a dict


@pytest.mark.parametrize(
    ("config", "processor", "preprocess"),
    [
        (TIMM, None, crop(224, 248)),
        (timm(crop_pct=0.95, interpolation="bilinear"), None, crop(224, 235, "bilinear")),
        (timm(mean=[0.5] * 3, std=[0.2] * 3), None, crop(224, 248, mean=(0.5,) * 3, std=(0.2,) * 3)),
        (timm(crop_mode="squash", crop_pct=1.0), None, Preprocess(224, "bicubic")),
        (TRANSFORMERS, CONVNEXT, crop(224, 256)),
        (TRANSFORMERS, CONVNEXT | {"size": {"shortest_edge": 224}, "crop_pct": None}, crop(224, 256)),
        (TRANSFORMERS, CONVNEXT | {"size": {"shortest_edge": 384}}, Preprocess(384, "bicubic")),
        (TRANSFORMERS, {"size": {"height": 64, "width": 64}, "resample": 2}, Preprocess(64)),
        (
            TRANSFORMERS,
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            crop(224, 256, "bilinear"),
        ),
        (TRANSFORMERS, {"size": 64, "do_normalize": False}, Preprocess(64, mean=(0.0,) * 3, std=(1.0,) * 3)),
        (TRANSFORMERS, None, None),
        (None, None, None),
    ],
)
def test_images_become_inputs_as_the_files_say(config: Any, processor: Any, preprocess: Preprocess | None) -> None:
    assert told(config, processor).preprocess == preprocess
    assert preprocess is None or preprocess.mean in (IMAGENET_MEAN, (0.5,) * 3, (0.0,) * 3)
    assert preprocess is None or preprocess.std in (IMAGENET_STD, (0.2,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("config", "processor", "words"),
    [
        (timm(interpolation="lanczos"), None, "resize rule is 'lanczos': allowed are bilinear, bicubic"),
        (timm(crop_mode="border"), None, "crop_mode is border with crop_pct 0.9"),
        (timm(input_size=[3, 224, 192]), None, "input_size is 224 x 192"),
        (timm(input_size="large"), None, "its mean, std and sizes are not taken"),
        (None, CONVNEXT | {"resample": 0}, 'resize rule is "another of Pillow\'s"'),
        (None, {"size": {"shortest_edge": 224}}, "no square comes of it"),
        (
            None,
            {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            "a crop is taken here from an image of a shortest_edge",
        ),
        (
            None,
            {"size": 256, "do_center_crop": True, "crop_size": {"height": 224, "width": 192}},
            "crop_size is 224 x 192, and not a square",
        ),
        (None, CONVNEXT | {"rescale_factor": 1}, "rescale_factor is 1, and not 1/255"),
        ({"id2label": {"0": "a", "2": "b"}}, None, "its labels are not taken: their numbers are not 0 to 1"),
        ({"label_names": ["a", 7]}, None, "its labels are not taken: not all are text"),
    ],
)
def test_what_cannot_be_done_so_is_told_and_left_to_the_options(config: Any, processor: Any, words: str) -> None:
    found = told(config, processor)
    assert (found.preprocess, found.labels) == (None, ())
    assert len(found.notes) == 1
    assert found.notes[0].startswith("note: me/net: ")
    assert words in found.notes[0]


def test_labels_are_in_the_order_of_their_numbers_and_each_is_another() -> None:
    found = told(TRANSFORMERS)
    assert found.labels == ("tench, Tinca tinca", "crane (1)", "crane (2)", *map(str, range(3, 10)), "brambling")
    assert found.notes == ("note: me/net has 1 labels twice (crane): their numbers are added",)
    assert told({"label_names": ["cat", "dog"]}).labels == ("cat", "dog")
    assert told({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}).labels == ()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            TRANSFORMERS | {"downsample_in_bottleneck": True},
            "downsample_in_bottleneck is True, so it strides in the first",
        ),
        (TRANSFORMERS | {"downsample_in_first_stage": True}, "its first stage strides"),
        (TRANSFORMERS | {"model_type": "vit"}, "model_type is vit, so it is another network"),
        (
            TIMM | {"architecture": "resnetaa50"},
            "architecture is resnetaa50: taken are resnet50, resnet101 and resnet152",
        ),
        (TIMM | {"global_pool": "max"}, "global_pool is max"),
    ],
)
def test_a_network_that_computes_otherwise_is_refused_by_its_config(config: Any, words: str) -> None:
    with pytest.raises(ArtifactError, match=f"me/net: in its config.json, .*{words}"):
        check_network({CONFIG: config}, "me/net")


def test_networks_as_ours_and_files_of_others_pass() -> None:
    for config in (TIMM, TRANSFORMERS, TIMM | {"architecture": "tv_resnet152"}, {"anything": 1}):
        check_network({CONFIG: config}, "me/net")
    check_network({}, "me/net")
