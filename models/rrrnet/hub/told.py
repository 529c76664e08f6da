"""What a repository's files say of its network: labels, how images become its inputs, and what no tensor shows.

timm keeps all in `config.json` (`pretrained_cfg`, `label_names`); transformers has labels there (`id2label`) and images
in `preprocessor_config.json`. Pure functions on these two documents. What is not understood is told, and left to the
options of `rrr train`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rrrnet.errors import ArtifactError
from rrrnet.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from rrrnet.names import text_of

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
DOCUMENTS = (CONFIG, PREPROCESSOR)

# What transformers numbers filters by (those of Pillow), and what ours are called.
_RESAMPLE = {2: "bilinear", 3: "bicubic"}
_CONVNEXT_SQUASHED = 384  # from this size on transformers' ConvNextImageProcessor squashes
_TIMM_RESNETS = re.compile(r"(\w+_)?resnet(50|101|152)")
_PLACEHOLDER = re.compile(r"LABEL_\d+")
# Of transformers' ResNetConfig: what our networks do, and what another value would mean.
_TRANSFORMERS = {
    "model_type": ("resnet", "it is another network"),
    "layer_type": ("bottleneck", "its blocks are others"),
    "hidden_act": ("relu", "its activation is another"),
    "downsample_in_bottleneck": (False, "it strides in the first 1 x 1 of a block, as Caffe's networks do"),
    "downsample_in_first_stage": (False, "its first stage strides"),
}


@dataclass(frozen=True)
class Told:
    """What a repository says.

    Attributes:
        labels: in the order of the outputs; empty where it names none.
        preprocess: how images become inputs; None where it does not say, or says what we cannot do.
        notes: what is said to people.
    """

    labels: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    notes: tuple[str, ...] = ()


def read_documents(folder: Path) -> dict[str, dict[str, Any]]:
    """The two documents in a folder, those that are there and are JSON objects."""
    found = {}
    for name in DOCUMENTS:
        try:
            document = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(document, dict):
            found[name] = document
    return found


def check_network(documents: Mapping[str, Mapping[str, Any]], source: str) -> None:
    """Refuse what has the tensors of our networks, and computes otherwise.

    Raises:
        ArtifactError: names the entry of `config.json`.
    """
    config = documents.get(CONFIG, {})
    wrong = ""
    if "pretrained_cfg" in config:
        architecture, pool = config.get("architecture"), config.get("global_pool", "avg")
        if not _TIMM_RESNETS.fullmatch(str(architecture)):
            wrong = (
                f"architecture is {architecture}: taken are resnet50, resnet101 and resnet152, and not their relatives"
            )
        elif pool not in ("avg", "fast"):
            wrong = f"global_pool is {pool}: our networks take the mean (avg)"
    elif "model_type" in config:
        for key, (ours, meaning) in _TRANSFORMERS.items():
            if (found := config.get(key, ours)) != ours:
                wrong = f"{key} is {found}, so {meaning}: taken are networks of {json.dumps(ours)}"
                break
    if wrong:
        raise ArtifactError(f"{source}: in its {CONFIG}, {wrong}")


def understand(documents: Mapping[str, Mapping[str, Any]], source: str) -> Told:
    """What the documents say.

    Args:
        documents: as `read_documents` gives them.
        source: their repository, for what is told.
    """
    config, processor = documents.get(CONFIG, {}), documents.get(PREPROCESSOR)
    notes: list[str] = []

    def attempt(what: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ArtifactError) as error:
            notes.append(f"note: {source}: its {what} are not taken: {error}")
            return None

    labels = attempt("labels", lambda: _labels(config)) or ()
    timm = config.get("pretrained_cfg", config if "input_size" in config else None)
    if timm is not None:
        preprocess = attempt("mean, std and sizes", lambda: _of_timm(timm))
    else:
        preprocess = None if processor is None else attempt("mean, std and sizes", lambda: _of_transformers(processor))
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:  # ImageNet has two cranes
        notes.append(f"note: {source} has {len(twice)} labels twice ({', '.join(twice[:3])}): their numbers are added")
        labels = tuple(f"{label} ({number})" if label in twice else label for number, label in enumerate(labels))
    return Told(tuple(labels), preprocess, tuple(notes))


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels by `id2label` or timm's `label_names`; none where they are numbered placeholders."""
    named = config.get("label_names") or config.get("id2label") or ()
    if isinstance(named, Mapping):
        by_number = {int(number): label for number, label in named.items()}
        if sorted(by_number) != list(range(len(by_number))):
            raise ValueError(f"their numbers are not 0 to {len(by_number) - 1}")
        named = [by_number[number] for number in range(len(by_number))]
    if not all(isinstance(label, str) and text_of(label) for label in named):
        raise ValueError("not all are text")
    return () if all(_PLACEHOLDER.fullmatch(label) for label in named) else tuple(map(text_of, named))


def _of_timm(config: Mapping[str, Any]) -> Preprocess:
    """As timm's `create_transform` of the same entries (its defaults where one is missing)."""
    _, height, width = config["input_size"]
    mode, share = config.get("crop_mode") or "center", float(config.get("crop_pct") or 0.875)
    if height != width:
        raise ValueError(f"input_size is {height} x {width}, and not a square")
    if mode == "squash" and share == 1:
        edge = None
    elif mode == "center":
        edge = math.floor(height / share)
    else:
        raise ValueError(f"crop_mode is {mode} with crop_pct {share:g}, and neither center nor a whole squash")
    mean, std = config.get("mean") or IMAGENET_MEAN, config.get("std") or IMAGENET_STD
    return _rule(height, edge, config.get("interpolation") or "bicubic", mean, std)


def _of_transformers(config: Mapping[str, Any]) -> Preprocess:
    """As transformers' image processors of the same entries."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    given: Any = config["size"]
    edge = side = given  # a number is the shorter side to those that crop, and both to those that squash
    if isinstance(given, Mapping):
        edge, side = given.get("shortest_edge"), given.get("height")
        side = side if side == given.get("width") else None
    size: Any = side
    if "ConvNext" in kind or "crop_pct" in config:
        size = edge or side
        squashed = size >= _CONVNEXT_SQUASHED
        edge = None if squashed else int(size / (config.get("crop_pct") or 224 / 256))
    elif config.get("do_center_crop"):
        crop = config["crop_size"]
        size, width = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop, crop)
        if size != width:
            raise ValueError(f"crop_size is {size} x {width}, and not a square")
        if edge is None:  # a squash to height and width, as DeiT's, then a crop
            raise ValueError(f"size is {given}, and a crop is taken here from an image of a shortest_edge")
    else:
        edge = None
    if not size:
        raise ValueError(f"size is {given}, and no square comes of it")
    mean, std = config.get("image_mean") or IMAGENET_MEAN, config.get("image_std") or IMAGENET_STD
    if config.get("do_normalize") is False:
        mean, std = (0, 0, 0), (1, 1, 1)
    if not math.isclose(float(config.get("rescale_factor", 1 / 255)), 1 / 255, rel_tol=1e-3):
        raise ValueError(f"rescale_factor is {config['rescale_factor']}, and not 1/255")
    return _rule(size, edge, _RESAMPLE.get(config.get("resample", 2), "another of Pillow's"), mean, std)


def _rule(size: int, edge: int | None, resize: str, mean: Any, std: Any) -> Preprocess:
    """The rule with a shorter side of `edge` before the crop; None squashes."""
    rule = Preprocess(int(size), resize, _triple(mean), _triple(std))
    return rule if edge is None else replace(rule, jpeg_oversize=0, mode="crop", resize_size=edge)


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
