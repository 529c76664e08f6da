"""Classifiers in the peers' own process: JPEG bytes in, the likeliest labels out."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from rrrbuild.engine import load_engine
from rrrnet.images.preprocess import image_to_array

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


class Classifier(Protocol):
    """What the peers serve; `infer` is for one caller at a time."""

    def decode(self, data: bytes) -> Pixels:
        """Pixels (S, S, 3) of an encoded image."""

    def infer(self, images: Sequence[Pixels]) -> list[Probabilities]:
        """What the network says of each image."""

    def answer(self, probabilities: Probabilities) -> dict[str, Any]:
        """That of one image, JSON-ready."""


class OnnxClassifier:
    """The ONNX file of an engine folder, opened by ONNX Runtime alone.

    The session has its defaults, which are one thread for each core: one inference after another on all cores is
    faster than several at a time on one core each.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime as ort

        manifest = json.loads((folder / "manifest.json").read_text())
        self.labels: list[str] = manifest["labels"]
        self.size: int = manifest["preprocess"]["size"]
        self.session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        self.input_name = self.session.get_inputs()[0].name

    def decode(self, data: bytes) -> Pixels:
        """Pixels (S, S, 3) of an encoded image."""
        return decode(data, self.size)

    def infer(self, images: Sequence[Pixels]) -> list[Probabilities]:
        """Class probabilities of each image, averaged over the members."""
        (probabilities,) = self.session.run(None, {self.input_name: np.stack(images)})
        return list(probabilities.mean(1))

    def answer(self, probabilities: Probabilities) -> dict[str, Any]:
        """The five likeliest labels."""
        return top_labels(probabilities, self.labels)


class EngineClassifier:
    """The engine that `rrr serve` serves, loaded, prepared for and asked by the same code, without Triton between."""

    def __init__(self, folder: Path) -> None:
        self._engine = load_engine(folder)
        self._preprocess, self._labels = self._engine.manifest.preprocess, self._engine.manifest.labels

    def decode(self, data: bytes) -> Pixels:
        """Pixels (S, S, 3) of an encoded image."""
        return image_to_array(data, self._preprocess)

    def infer(self, images: Sequence[Pixels]) -> list[Probabilities]:
        """Class probabilities of each image by each member, (M, C)."""
        return list(self._engine(np.stack(images)))

    def answer(self, probabilities: Probabilities) -> dict[str, Any]:
        """The five likeliest labels, and how sure the members are: what our service's answer tells."""
        mean = probabilities.mean(axis=0, dtype=np.float64)
        entropies = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
        entropy = float(-(mean * np.log(np.maximum(mean, 1e-12))).sum())
        agreement = float((probabilities.argmax(axis=1) == mean.argmax()).mean())
        return {
            **top_labels(mean, self._labels),
            "uncertainty": {
                "entropy": entropy,
                "mutual_information": entropy - float(entropies.mean()),
                "agreement": agreement,
            },
            "members": len(probabilities),
        }


def classifier_of(environ: Mapping[str, str]) -> Classifier:
    """The classifier that a peer is told to serve: PEER_CLASSIFIER is a class's name, PEER_ENGINE an engine folder."""
    kinds = {kind.__name__: kind for kind in (OnnxClassifier, EngineClassifier)}
    return kinds[environ["PEER_CLASSIFIER"]](Path(environ["PEER_ENGINE"]))


def decode(data: bytes, size: int) -> Pixels:
    """Pixels (size, size, 3) of an encoded image."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def top_labels(probabilities: npt.NDArray[np.floating[Any]], labels: Sequence[str]) -> dict[str, Any]:
    """The five likeliest labels with their probabilities, JSON-ready."""
    best = np.argsort(-probabilities)[:5]
    return {"predictions": [{"label": labels[index], "probability": float(probabilities[index])} for index in best]}
