"""A ResNet50, 101 or 152 is found in what trainers save, or what was saved instead is named.

Tensors without values are enough.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rrrnet.errors import ArtifactError, UsageError
from rrrnet.network.architecture import BACKBONES, Architecture, convolutions
from rrrnet.network.backbone import backbone_shapes, tensor_shapes
from rrrnet.weights.state_dict import Found, find_resnet

Tensors = dict[str, Tensor]
WHOLE = {
    backbone: {name: torch.empty(shape, device="meta") for name, shape in backbone_shapes(backbone).items()}
    for backbone in BACKBONES
}
BACKBONE = WHOLE["resnet152"]
RENAMED = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def layer(name: str, outputs: int, inputs: int = 2048) -> Tensors:
    return {
        f"{name}.weight": torch.empty(outputs, inputs, device="meta"),
        f"{name}.bias": torch.empty(outputs, device="meta"),
    }


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def sequential(tensors: Tensors) -> Tensors:
    """Names as in nn.Sequential(*model.children())."""
    parts = {name: name.partition(".") for name in tensors}
    return {f"{RENAMED[head]}.{rest}": tensors[name] for name, (head, _, rest) in parts.items()}


def transformers(tensors: Tensors) -> Tensors:
    """Names as in Hugging Face's ResNetForImageClassification."""

    def renamed(name: str) -> str:
        if name.startswith(("conv1.", "bn1.")):
            kind = "convolution" if name.startswith("conv1.") else "normalization"
            return f"resnet.embedder.embedder.{kind}.{name.rpartition('.')[2]}"
        stage, block, part, *rest = name.split(".")
        kind = "convolution" if part.startswith("conv") or rest[0] == "0" else "normalization"
        place = "shortcut" if part == "downsample" else f"layer.{int(part[-1]) - 1}"
        return f"resnet.encoder.stages.{int(stage[-1]) - 1}.layers.{block}.{place}.{kind}.{rest[-1]}"

    return {renamed(name): tensor for name, tensor in tensors.items()}


def find(content: object, key: str | None = None) -> Found:
    return find_resnet(content, "file.pth", key=key)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.net.", "student.f.0."])
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model",), ("checkpoint", "model_state_dict")])
def test_any_prefix_below_any_key_is_found(prefix: str, keys: tuple[str, ...]) -> None:
    content: dict[str, object] = {**under(prefix, BACKBONE | layer("fc", 3))}
    for key in reversed(keys):
        content = {"epoch": 3, key: content, "optimizer": {"state": {0: {"exp_avg": BACKBONE["conv1.weight"]}}}}
    found = find(content)
    assert found.tensors.keys() == {*BACKBONE, "fc.weight", "fc.bias"}
    assert (found.head, found.head_problem, found.notes) == (f"{prefix}fc", "", ())


@pytest.mark.parametrize(
    "head", ["fc", "fc.1", "classifier", "head.fc", "classifier.3", "head", "last_linear", "model.head.1"]
)
def test_one_linear_layer_of_any_name_is_the_classifier_also_beside_the_backbones_prefix(head: str) -> None:
    found = find({"state_dict": under("backbone.", BACKBONE) | layer(head, 3)})
    assert (found.head, found.head_problem) == (head, "")
    assert found.tensors["fc.weight"].shape == (3, 2048)


def test_parts_that_were_saved_apart_are_put_together() -> None:
    found = find({"backbone": BACKBONE, "head": {"weight": layer("x", 3)["x.weight"], "bias": layer("x", 3)["x.bias"]}})
    assert (found.head, found.tensors["fc.bias"].shape) == ("head", (3,))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("rename", "head"),
    [
        (dict, "fc"),
        (lambda body: under("0.", sequential(body)), "9"),
        (sequential, "10"),
        (lambda body: under("feature_extractor.", sequential(body)), "classifier"),
        (transformers, "classifier.1"),
    ],
)
def test_each_backbone_is_recognised_and_names_of_other_libraries_become_torchvisions(
    rename: Callable[[Tensors], Tensors], head: str, backbone: str
) -> None:
    found = find(rename(WHOLE[backbone]) | layer(head, 5))
    assert found.backbone == backbone
    assert all(found.tensors[name] is tensor for name, tensor in WHOLE[backbone].items())
    assert (found.head, found.head_problem) == (head, "")


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ({}, "it holds no classifier"),
        (
            layer("fc.0", 512) | layer("fc.3", 2, 512),
            r"an MLP, not one linear layer: fc\.0\.weight \(512, 2048\), fc\.3",
        ),
        (layer("fc.0", 2048) | layer("fc.2", 2), r"an MLP, not one linear layer: fc\.0\.weight \(2048, 2048\), fc\.2"),
        (layer("fc", 2) | layer("aux", 2), "it holds 2 classifiers"),
        ({"fc.weight": layer("fc", 2)["fc.weight"]}, r"lacks a tensor: fc\.bias is missing"),
        (layer("fc", 2, 4096), r"fc\.weight \(2, 4096\) is not a linear layer of 2048 inputs"),
        (layer("fc", 2) | {"fc.bias": torch.empty(3)}, r"fc\.bias has shape \(3,\)"),
        (layer("fc.1", 2) | {"fc.0.weight": torch.empty(2048)}, r"what fc\.0\.weight does is not known"),
        ({"fc.weight_v": torch.empty(2, 2048), "fc.weight_g": torch.empty(2, 1)}, r"kept in parts \(fc\.weight_v, fc"),
        ({"fc.weight_orig": torch.empty(2, 2048), "fc.weight_mask": torch.empty(2, 2048)}, "kept in parts"),
    ],
)
def test_a_classifier_that_is_not_understood_is_told_and_not_taken(head: Tensors, problem: str) -> None:
    found = find(BACKBONE | head)
    assert found.tensors.keys() == BACKBONE.keys()
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(found.head_problem)


def test_what_takes_no_part_in_the_answer_is_left_aside_and_named() -> None:
    beside = {
        "criterion.weight": torch.empty(3),
        "val_acc.tp": torch.empty(3, dtype=torch.int64),
        "mean": torch.empty(3),
    }
    found = find(BACKBONE | layer("fc", 3) | beside)
    assert found.head == "fc"
    assert found.notes == ("file.pth: not taken, being no part of a ResNet152: criterion.weight, val_acc.tp, mean",)


def test_of_a_network_and_its_average_the_network_is_taken_unless_a_key_names_the_other() -> None:
    network, average = BACKBONE | layer("fc", 3), BACKBONE | layer("fc", 4)
    content = {"state_dict": network, "state_dict_ema": average}
    assert len(find(content).tensors["fc.bias"]) == 3
    assert "--weights-key takes state_dict_ema" in find(content).notes[0]
    assert len(find(content, "state_dict_ema").tensors["fc.bias"]) == 4
    flat = under("student.net.", network) | under("teacher.net.", average)
    assert len(find(flat).tensors["fc.bias"]) == 3
    assert len(find(flat, "teacher").tensors["fc.bias"]) == 4
    with pytest.raises(UsageError, match=r"--weights-key other: .* there are: state_dict, state_dict_ema"):
        find(content, "other")
    with pytest.raises(ArtifactError, match="holds 2 networks: say which by --weights-key; there are: first, second"):
        find({"first": network, "second": average})


def of_blocks(*blocks: int, bottlenecks: bool = True) -> Tensors:
    """Names and shapes of a ResNet with so many blocks in its stages, of three convolutions each or of two."""
    backbone = next((name for name, whole in BACKBONES.items() if whole == blocks), "resnet152")
    network = Architecture(2, blocks, backbone=backbone)  # type: ignore[arg-type]  # four numbers each time
    convs = [conv for _, conv in convolutions(network) if conv.name != "fc"]
    return {
        name: torch.empty(shape, device="meta")
        for conv in convs
        if bottlenecks or "conv3" not in conv.name
        for name, shape in tensor_shapes(conv).items()
    }


def with_layer1(shapes: tuple[tuple[int, ...], tuple[int, ...]], backbone: str = "resnet152") -> Tensors:
    first, second = (torch.empty(shape, device="meta") for shape in shapes)
    return WHOLE[backbone] | {"layer1.0.conv1.weight": first, "layer1.0.conv2.weight": second}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            of_blocks(2, 2, 2, 2, bottlenecks=False),
            "this is a ResNet18, of 2-2-2-2 blocks, not a ResNet50, ResNet101 or",
        ),
        (of_blocks(3, 4, 6, 3, bottlenecks=False), "this is a ResNet34, of 3-4-6-3 blocks"),
        (of_blocks(2, 2, 2, 2), "this is a ResNet26"),
        (of_blocks(3, 24, 36, 3), "this is a ResNet200"),
        (of_blocks(1, 1, 1, 1), "this is a ResNet that was reduced to 5 blocks"),
        (with_layer1(((128, 64, 1, 1), (128, 128, 3, 3)), "resnet50"), "this is a Wide ResNet50"),
        (with_layer1(((128, 64, 1, 1), (128, 128, 3, 3))), "this is a Wide ResNet152"),
        (with_layer1(((128, 64, 1, 1), (128, 4, 3, 3)), "resnet50"), "this is a ResNeXt50 of 32 groups"),
        (with_layer1(((256, 64, 1, 1), (256, 8, 3, 3))), "this is a ResNeXt152 of 32 groups"),
        (WHOLE["resnet50"] | {"layer1.0.se.fc1.weight": torch.empty(1)}, "this is an SE-ResNet50"),
        (BACKBONE | {"layer1.0.se.fc1.weight": torch.empty(1)}, "this is an SE-ResNet152"),
        (WHOLE["resnet101"] | {"conv1.0.weight": torch.empty(1)}, "a ResNet101 with a deep stem .timm's resnet101d"),
        (BACKBONE | {"conv1.0.weight": torch.empty(1)}, "this is a ResNet152 with a deep stem"),
        (of_blocks(3, 4, 5, 3), r"not a ResNet50 with torchvision's names: layer3\.5\.conv1\.weight is missing"),
        (of_blocks(3, 4, 22, 3), r"not a ResNet101 with torchvision's names: layer3\.22\.conv1\.weight is missing"),
        (of_blocks(1, 1, 1, 1) | {"members.0.fc.weight": torch.empty(1)}, "this is an ensemble of rrr train"),
        (of_blocks(3, 8, 35, 3), r"layer3\.35\.conv1\.weight is missing.*and \d+ more"),
        (BACKBONE | {"conv1.weight": torch.empty(64, 1, 7, 7)}, r"conv1\.weight has shape \(64, 1, 7, 7\), expected"),
        (BACKBONE | {"layer1.0.conv1.bias": torch.empty(64)}, r"layer1\.0\.conv1\.bias is no part of it"),
        (BACKBONE | {"layer1.0.conv1.zero_point": torch.empty(1)}, "is quantised"),
        ({"blocks.0.attn.qkv.weight": torch.empty(1)}, "it seems to be a transformer"),
        ({"features.0.0.weight": torch.empty(1)}, "it seems to be a VGG, MobileNet or EfficientNet"),
        ({}, "holds no tensors of a network"),
    ],
)
def test_another_network_is_named(tensors: Tensors, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        find({"model": tensors | layer("fc", 3)} if tensors else {"epoch": 1})
