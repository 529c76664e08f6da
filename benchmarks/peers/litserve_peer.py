"""LitServe in front of a classifier in its worker, after LitServe's guide for images: base64 in JSON, batching on.

PEER_CLASSIFIER=OnnxClassifier PEER_ENGINE=FOLDER python litserve_peer.py PORT

One worker process, since an inference takes all cores. A batch is what waits when the last one is done, and what
comes within a millisecond: every request pays `batch_timeout`, and 0 makes LitServe spin.
"""

import base64
import os
import sys
from typing import Any

import litserve
from fastapi import Request

from rrrbench.classifiers import classifier_of


class Classifier(litserve.LitAPI):  # type: ignore[misc]  # litserve has no types for mypy
    """What the environment names."""

    def setup(self, device: str) -> None:  # noqa: ARG002  the name is LitServe's
        """Called once in the worker process."""
        self.classifier = classifier_of(os.environ)

    def decode_request(self, request: Request) -> Any:
        """Pixels of one image. `Request` makes LitServe parse the body, whatever its type says, and pass the result."""
        return self.classifier.decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[Any]) -> list[Any]:
        """The images as they are: `predict` stacks them."""
        return inputs

    def predict(self, inputs: list[Any]) -> list[Any]:
        """Probabilities of each image of the batch."""
        return self.classifier.infer(inputs)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """They are apart already."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The five likeliest labels."""
        return self.classifier.answer(output)


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(max_batch_size=8, batch_timeout=0.001), accelerator="cpu", workers_per_device=1
    )
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning")
