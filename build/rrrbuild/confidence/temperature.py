"""One number that makes probabilities mean what they say (arXiv 1706.04599, on the mean's log-probabilities)."""

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
_FLOOR = 1e-12  # a softmax in FP32 underflows to 0, which has no logarithm
_RANGE = (0.02, 50.0)
_STEPS = 80
_GOLDEN = (5**0.5 - 1) / 2


def tempered(probabilities: FloatArray, temperature: float) -> npt.NDArray[np.float64]:
    """softmax(log p / T) over the last axis: below 1 surer, above 1 less sure; the order of the classes stays.

    Args:
        probabilities: shape (..., C); a row of NaN stays one.
        temperature: T, above 0; 1 changes nothing.
    """
    found = np.asarray(probabilities, np.float64)
    if temperature == 1.0:
        return found
    logits = np.log(np.maximum(found, _FLOOR)) / temperature
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def fit_temperature(probabilities: FloatArray, labels: npt.NDArray[np.integer[Any]]) -> float:
    """The temperature of least negative log-likelihood, by golden section on its logarithm.

    Half an image's worth of belief in T = 1 is added: without it, labels that are all right would make every answer
    certain.

    Args:
        probabilities: shape (N, C), N at least 1.
        labels: shape (N,), class indices.
    """
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _FLOOR))
    truth = logits[np.arange(len(labels)), labels]
    top = logits.max(axis=1)

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        total = np.log(np.exp((logits - top[:, None]) * scale).sum(axis=1)) + top * scale
        return float((total - truth * scale).sum() + log_temperature**2 / 2)

    low, high = np.log(_RANGE)
    for _ in range(_STEPS):
        one, two = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, two) if loss(one) < loss(two) else (one, high)
    return round(float(np.exp((low + high) / 2)), 4)
