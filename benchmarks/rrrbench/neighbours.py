"""How often the nearest other image is of the same class: what an embedding is worth to a search, by one number."""

import numpy as np
import numpy.typing as npt


def nearest_alike(vectors: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Share of images whose nearest other one, by cosine, has their class (precision at 1, leave one out).

    Args:
        vectors: shape (N, D), of any length.
        labels: shape (N,).
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return float((labels[cosines.argmax(axis=1)] == labels).mean())


def pixels_of(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Images (N, S, S, 3) as vectors (N, 3 S S), each without its mean: the cosine of two is their correlation."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    centred: npt.NDArray[np.float32] = flat - flat.mean(axis=1, keepdims=True)
    return centred
