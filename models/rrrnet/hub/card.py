"""What makes a checkpoint's folder a repository of the hub: its page (`README.md`) and `config.json`.

Both hold only what the checkpoint knows: what was measured, how it was trained, how images become inputs. Readers of
the hub know the keys: the page has the hub's front matter, `config.json` labels as transformers, images as timm.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rrrnet.images.preprocess import Preprocess
from rrrnet.names import is_text, text_of
from rrrnet.network.architecture import REDUCED_BLOCKS

if TYPE_CHECKING:
    from rrrnet.checkpoint import Checkpoint

LIBRARY = "rrrnet-serving"
_TASK = "image-classification"
_FIGURES = {"accuracy": "accuracy", "nll": "NLL (nats)", "ece": "ECE", "brier": "Brier score"}
_MOST_LABELS = 50  # 1 000 would be the whole page; config.json has all


def hub_config(checkpoint: "Checkpoint") -> dict[str, Any]:
    """What `config.json` holds."""
    preprocess, labels = checkpoint.preprocess, checkpoint.labels
    return {
        "architecture": "rrrnet",
        "num_classes": len(labels),
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "label_names": list(labels),
        "pretrained_cfg": {
            "input_size": [3, preprocess.size, preprocess.size],
            "interpolation": preprocess.resize,
            "crop_pct": crop_share(preprocess),
            "crop_mode": "center" if preprocess.mode == "crop" else "squash",
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": len(labels),
        },
        "rrrnet": {**checkpoint.architecture.to_json(), "preprocess": preprocess.to_json()},
    }


def crop_share(preprocess: Preprocess) -> float:
    """The `crop_pct` from which timm computes the shorter side as floor(size / crop_pct)."""
    size, edge = preprocess.size, preprocess.resize_size
    if edge is None:
        return 1.0
    # The quotient may come out a hair below the whole number that it was.
    return next(share for share in (size / edge, size / (edge + 0.5)) if math.floor(size / share) == edge)


def model_card(checkpoint: "Checkpoint") -> str:
    """The text of `README.md`."""
    front = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in _front_matter(checkpoint).items()]
    return "\n".join(["---", *front, "---", "", *_page(checkpoint), ""])


def _front_matter(checkpoint: "Checkpoint") -> dict[str, Any]:
    """The hub's metadata; each value is written as JSON, which is YAML too."""
    training, scores = checkpoint.training, _scores(checkpoint)
    repository = training.get("weights", {}).get("repository")
    metadata: dict[str, Any] = {"license": training.get("license"), "library_name": LIBRARY, "pipeline_tag": _TASK}
    metadata |= {"tags": [_TASK, "resnet", "rrr-net"], "base_model": repository}
    if scores:
        values = [{"type": key, "value": scores[key], "name": name} for key, name in _FIGURES.items() if key in scores]
        data = _data_name(checkpoint)
        result = {
            "task": {"type": _TASK},
            "dataset": {"name": data, "type": data, "split": "test"},
            "metrics": values,
        }
        metadata |= {"metrics": ["accuracy"], "model-index": [{"name": checkpoint.name, "results": [result]}]}
    return {key: value for key, value in metadata.items() if value is not None}


def _page(checkpoint: "Checkpoint") -> Iterator[str]:
    architecture, training, scores = checkpoint.architecture, checkpoint.training, _scores(checkpoint)
    whole = architecture.blocks != REDUCED_BLOCKS
    network = "a whole ResNet" if whole else "a ResNet reduced to the first block of each stage"
    if architecture.members > 1:
        network += f", the last two recycled as {architecture.members} members in parallel"
    yield from (f"# {checkpoint.name}", "")
    yield f"Images to {len(checkpoint.labels)} classes by {network} ([RRR-Net](https://arxiv.org/abs/2310.01157))."
    yield from ("", "## Use", "", "```", f"pip install '{LIBRARY}[build,serve]'")
    yield from ("rrr build hf://OWNER/NAME        # compiled for your machine, and verified", "```", "")
    yield from ("## Images", "", f"{checkpoint.preprocess.describe()}.", "", "## Scores", "")
    if scores:
        yield from (f"On {scores['images']} test images of {_data_name(checkpoint)}, {_unseen(training)}:", "")
        yield from ("| | " + " | ".join(_FIGURES.values()) + " |", "|---" * (1 + len(_FIGURES)) + "|")
        rows = [("network" if architecture.members == 1 else "ensemble", scores)]
        if architecture.members > 1:
            rows += [(f"member {number}", row) for number, row in enumerate(scores.get("members", ()))]
        for name, row in rows:
            yield f"| {name} | " + " | ".join(_figure(row.get(key)) for key in _FIGURES) + " |"
    else:
        yield "None: nothing was measured."
    yield from ("", "## Training", "")
    if training.get("complete") is False:
        yield from ("It was stopped before its end.", "")
    if origin := training.get("weights", {}).get("origin"):
        yield from (f"Weights at its start: {_plain(origin)}.", "")
    yield from ("```", _plain(checkpoint.command), "```", "", "## Labels", "")
    more = len(checkpoint.labels) - _MOST_LABELS
    shown = ", ".join(f"`{_plain(label)}`" for label in checkpoint.labels[:_MOST_LABELS])
    yield shown + (f" and {more} more, in `config.json`" if more > 0 else "")


def _unseen(training: Mapping[str, Any]) -> str:
    """Who has not seen the test images, as far as that is known; of the weights of an import it is not."""
    teacher = training.get("teacher")
    seen = teacher["trained_on_test_images"] if teacher else 0
    if training.get("epochs") and seen == 0:
        return "which training never saw"
    if seen == 0:
        return "which this training did not use"
    count = "an unknown number" if seen is None else seen
    return f"which this training did not use (its teacher was trained on {count} of them)"


def _scores(checkpoint: "Checkpoint") -> dict[str, Any]:
    return dict(checkpoint.training.get("metrics", {}).get("test") or {})


def _data_name(checkpoint: "Checkpoint") -> str:
    return _plain(str((checkpoint.training.get("data") or {}).get("name") or "images"))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _plain(text: str) -> str:
    """Text that ends neither a line nor a fence."""
    return (text if is_text(text) else text_of(text)).replace("`", "'")
