"""Eager PyTorch inference of a checkpoint: the reference that every engine is verified against."""

import numpy as np
import numpy.typing as npt
import torch

from rrrnet.checkpoint import REMEDY, Checkpoint, read_weights
from rrrnet.ensemble import RRRNet, channels_last, normalise
from rrrnet.errors import ArtifactError
from rrrnet.preprocess import Uint8Array


def load_model(checkpoint: Checkpoint) -> RRRNet:
    """The checkpoint's network in eval mode on the CPU.

    Raises:
        ArtifactError: the tensors do not fit the architecture.
    """
    model = RRRNet(checkpoint.architecture)
    tensors = {name: torch.from_numpy(array) for name, array in read_weights(checkpoint).items()}
    expected = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    if expected != tensors.keys():
        names = sorted(expected ^ tensors.keys())
        raise ArtifactError(f"{checkpoint.path} does not fit its architecture: {', '.join(names[:3])} ...; {REMEDY}")
    try:
        model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ArtifactError(f"{checkpoint.path} does not fit its architecture: {error}; {REMEDY}") from error
    model.eval()
    return channels_last(model)


class Predictor:
    """A checkpoint's network, loaded once. `predict` takes uint8 images, as an engine does."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.preprocess = checkpoint.preprocess
        self.model = load_model(checkpoint)

    def predict(self, images: Uint8Array) -> npt.NDArray[np.float32]:
        """(N, S, S, 3) uint8 to softmax (N, M, C) float32."""
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images))
            probabilities: npt.NDArray[np.float32] = self.model(normalise(batch, self.preprocess)).softmax(2).numpy()
        return probabilities


def member_probabilities(checkpoint: Checkpoint, images: Uint8Array, batch_size: int = 32) -> npt.NDArray[np.float32]:
    """Softmax of each member, `batch_size` images at a time.

    Shape: (N, S, S, 3) uint8, as `preprocess.image_to_array` makes them, to (N, M, C) float32.
    """
    predictor = Predictor(checkpoint)
    batches = [predictor.predict(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
    members, classes = checkpoint.architecture.members, checkpoint.architecture.num_classes
    return np.concatenate(batches) if batches else np.empty((0, members, classes), np.float32)
