"""Eager PyTorch inference of a checkpoint: the reference that every engine is verified against."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from rrrnet.checkpoint import REMEDY, Checkpoint, read_weights
from rrrnet.errors import ArtifactError
from rrrnet.images.preprocess import Preprocess, Uint8Array
from rrrnet.network.architecture import embedding_dim
from rrrnet.network.ensemble import RRRNet, channels_last, normalise


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


def probabilities(
    model: RRRNet, preprocess: Preprocess, images: Uint8Array, batch_size: int = 32
) -> npt.NDArray[np.float32]:
    """Softmax of each member, `batch_size` images at a time, computed where the network is; it must be in eval mode.

    Shape: (N, S, S, 3) uint8, as `preprocess.image_to_array` makes them, to (N, M, C) float32.
    """
    shape = model.architecture.members, model.architecture.num_classes
    return _in_batches(model, lambda batch: model(normalise(batch, preprocess)).softmax(2), images, batch_size, shape)


def embeddings(
    model: RRRNet, preprocess: Preprocess, images: Uint8Array, batch_size: int = 32
) -> npt.NDArray[np.float32]:
    """Embedding of each image, (N, D), see `RRRNet.embed`; images and network as of `probabilities`."""
    shape = (embedding_dim(model.architecture),)
    return _in_batches(model, lambda batch: model.embed(normalise(batch, preprocess)), images, batch_size, shape)


def _in_batches(
    model: RRRNet,
    ask: Callable[[torch.Tensor], torch.Tensor],
    images: Uint8Array,
    batch_size: int,
    shape: tuple[int, ...],
) -> npt.NDArray[np.float32]:
    """What `ask` makes of the images where the network is, (N, *shape)."""
    device = next(model.parameters()).device
    found = np.empty((len(images), *shape), np.float32)
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            found[rows] = ask(torch.from_numpy(np.ascontiguousarray(images[rows])).to(device)).cpu().numpy()
    return found


def predictor(checkpoint: Checkpoint) -> Callable[[Uint8Array], npt.NDArray[np.float32]]:
    """The checkpoint's network, loaded once, as a function of images; see `probabilities`."""
    return partial(probabilities, load_model(checkpoint), checkpoint.preprocess)


def embedder(checkpoint: Checkpoint) -> Callable[[Uint8Array], npt.NDArray[np.float32]]:
    """The same for embeddings; see `embeddings`."""
    return partial(embeddings, load_model(checkpoint), checkpoint.preprocess)
