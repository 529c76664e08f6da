"""In which order the members are asked."""

from typing import Any

import numpy as np
import numpy.typing as npt


def greedy_order(probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]]) -> tuple[int, ...]:
    """Members so that the first j of them make a good ensemble, for each j: each next one lowers the NLL most.

    Greedy selection as in Caruana et al., ICML 2004, without replacement.

    Args:
        probabilities: shape (N, M, C).
        labels: shape (N,).
    """
    truth = probabilities[np.arange(len(labels)), :, labels].astype(np.float64)  # (N, M)
    order: list[int] = []
    total = np.zeros(len(labels))
    while len(order) < truth.shape[1]:
        left = [member for member in range(truth.shape[1]) if member not in order]
        means = (total[:, None] + truth[:, left]) / (len(order) + 1)
        best = left[int(np.log(np.maximum(means, 1e-12)).mean(axis=0).argmax())]
        order.append(best)
        total += truth[:, best]
    return tuple(order)
