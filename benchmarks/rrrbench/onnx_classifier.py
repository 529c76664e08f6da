"""ONNX Runtime as the peers use it: one session on all cores, JPEG bytes in, the likeliest labels out."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image


class OnnxClassifier:
    """The ONNX file of an engine folder, opened by ONNX Runtime alone.

    The session has its defaults, which are one thread for each core: one inference after another on all cores is
    faster than several at a time on one core each.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.labels: list[str] = manifest["labels"]
        self.size: int = manifest["preprocess"]["size"]
        self.session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        self.input_name = self.session.get_inputs()[0].name

    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        """Pixels (S, S, 3) of an encoded image."""
        return decode(data, self.size)

    def infer(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        """Class probabilities of each image, averaged over the members."""
        (probabilities,) = self.session.run(None, {self.input_name: np.stack(images)})
        return list(probabilities.mean(1))

    def answer(self, probabilities: npt.NDArray[np.float32]) -> dict[str, Any]:
        """The five likeliest labels."""
        return top_labels(probabilities, self.labels)


def decode(data: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Pixels (size, size, 3) of an encoded image."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def top_labels(probabilities: npt.NDArray[np.float32], labels: Sequence[str]) -> dict[str, Any]:
    """The five likeliest labels with their probabilities, JSON-ready."""
    best = np.argsort(-probabilities)[:5]
    return {"predictions": [{"label": labels[index], "probability": float(probabilities[index])} for index in best]}
