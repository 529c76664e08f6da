"""BentoML in front of PyTorch eager: what one writes after BentoML's own guide for an image classifier.

The image is the request's body (a root input), as our service takes it, so no multipart form has to be read. Adaptive
batching is off: eager ResNet152 answers no more images a second in batches on a CPU, and BentoML would wait for them.
"""

import os
from pathlib import Path
from typing import Any

import bentoml
import torch
from PIL import Image

from rrrbench.eager import load_eager
from rrrnet.checkpoint import read_checkpoint
from rrrnet.images.preprocess import to_array
from rrrnet.network.ensemble import normalise


@bentoml.service(traffic={"timeout": 60})
class Classifier:
    """One checkpoint; PYTORCH_CHECKPOINT names its folder."""

    def __init__(self) -> None:
        checkpoint = read_checkpoint(Path(os.environ["PYTORCH_CHECKPOINT"]))
        self.labels, self.preprocess = checkpoint.labels, checkpoint.preprocess
        self.model = load_eager(checkpoint)

    @bentoml.api  # type: ignore[untyped-decorator]  # bentoml's types are skipped
    def predict(self, image: Image.Image, /) -> dict[str, Any]:
        """The five likeliest labels."""
        pixels = to_array(image.convert("RGB"), self.preprocess)
        with torch.inference_mode():
            inputs = normalise(torch.from_numpy(pixels[None].copy()), self.preprocess)
            mean = self.model(inputs.contiguous()).softmax(2).mean(1)[0]
            best = mean.topk(min(5, len(self.labels)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return {"predictions": [{"label": self.labels[index], "probability": value} for index, value in pairs]}
