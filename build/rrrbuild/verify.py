"""Is the engine the trained network? Its probabilities against those of PyTorch FP32 on the same images."""

from typing import Any

import numpy as np

from rrrbuild.heldout import HeldOut
from rrrbuild.manifest import BatchRange
from rrrbuild.plan_runner import Embeddings, Probabilities, Run
from rrrbuild.targets import Target
from rrrnet.errors import CheckFailedError
from rrrnet.images.preprocess import Uint8Array

# Where PyTorch itself prefers its label by no more than this, another label is a tie and not an error. An untrained
# baseline's answers are mostly ties; a trained network's hardly ever are.
_TIE_MARGIN = 0.01
# A relative error is formed only from probabilities of at least this; below, any rounding would look large.
_RELATIVE_FLOOR = 0.01
# Least cosine of an engine's and PyTorch's embedding of an image, by precision: embeddings are compared by angles, and
# the rounding of BF16 and INT8 moves single numbers. In FP32 each number is judged too.
_LEAST_COSINE = {"fp32": 0.9999, "bf16": 0.99, "int8": 0.95}
_MAX_EMBEDDING_ERROR = 1e-3
_LENGTH_TOLERANCE = 0.02  # BF16 rounds a length by up to 0.4 %


def run_all(runner: Run, images: Uint8Array, batch: BatchRange) -> Probabilities:
    """Probabilities (N, M, C) of all images, asked in batches of each size."""
    return np.concatenate([runner(part) for part in _batches(images, batch)])


def run_all_embedding(runner: Any, images: Uint8Array, batch: BatchRange) -> tuple[Probabilities, Embeddings]:
    """The same by a runner with the attribute `embedding`, and the embeddings (N, D) of the same calls."""
    both = [(runner(part), runner.embedding) for part in _batches(images, batch)]
    probabilities, embeddings = zip(*both, strict=True)
    return np.concatenate(probabilities), np.concatenate(embeddings)


def _batches(images: Uint8Array, batch: BatchRange) -> list[Uint8Array]:
    """Batches of `min`, `opt`, then `max`: in some runtimes each size takes a path of its own."""
    starts = [0, batch.min, batch.min + batch.opt]
    starts += range(starts[-1] + batch.max, len(images), batch.max)
    stops = [*starts[1:], len(images)]
    parts = [images[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return [part for part in parts if len(part)]


def compare(
    found: Probabilities, reference: Probabilities, held_out: HeldOut, target: Target, *, max_drop: float
) -> dict[str, Any]:
    """Judge an engine's probabilities.

    Args:
        found: the engine's, shape (N, M, C).
        reference: PyTorch's, the same shape.
        held_out: the images' labels and source.
        target: gives the tolerance.
        max_drop: percentage points of accuracy that the engine may lose.

    Returns:
        What the manifest keeps as `verified`.

    Raises:
        CheckFailedError: outside the tolerance.
    """
    if found.shape != reference.shape:
        raise CheckFailedError(f"{target.name}: the output has shape {found.shape}, PyTorch's has {reference.shape}")
    broken = int((~np.isfinite(found)).any(axis=(1, 2)).sum())
    if broken:
        raise CheckFailedError(f"{target.name}: the output holds NaN or infinity on {broken} of {len(found)} images")
    error = np.abs(found - reference)
    large = reference >= _RELATIVE_FLOOR
    mean = reference.mean(axis=1)
    labels, reference_labels = found.mean(axis=1).argmax(axis=1), mean.argmax(axis=1)
    rows = np.arange(len(labels))
    tied = (labels != reference_labels) & (mean[rows, reference_labels] - mean[rows, labels] <= _TIE_MARGIN)
    decided = np.where(tied, reference_labels, labels)
    result: dict[str, Any] = {
        "images": len(found),
        "source": held_out.source,
        "max_abs_error": float(error.max()),
        "mean_abs_error": float(error.max(axis=2).mean()),
        "max_relative_error": float((error[large] / reference[large]).max()),
        "label_agreement": float((labels == reference_labels).mean()),
        "ties": int(tied.sum()),
        "accuracy": None,
        "reference_accuracy": None,
        "tolerance": {**vars(target.tolerance), "max_drop_points": max_drop},
    }
    drop = 0.0
    if held_out.labels is not None:
        right, right_there, right_decided = (
            float((found == held_out.labels).mean()) for found in (labels, reference_labels, decided)
        )
        result |= {"accuracy": right, "reference_accuracy": right_there}
        drop = 100 * (right_there - right_decided)
    _judge(result, target, agreement=float((decided == reference_labels).mean()), drop=drop)
    return result


def compare_embeddings(found: Embeddings, reference: Embeddings, target: Target) -> dict[str, Any]:
    """Judge an engine's embeddings, (N, D), by PyTorch's.

    Returns:
        What the manifest keeps as `verified["embedding"]`.

    Raises:
        CheckFailedError: another shape, no numbers, a length that is not 1, or outside the tolerance.
    """
    if found.shape != reference.shape:
        raise CheckFailedError(f"{target.name}: embeddings have shape {found.shape}, PyTorch's have {reference.shape}")
    lengths = np.linalg.norm(found.astype(np.float64), axis=1)
    expected = np.linalg.norm(reference.astype(np.float64), axis=1)
    if not (np.abs(lengths - expected) <= _LENGTH_TOLERANCE).all():  # NaN fails this as well
        raise CheckFailedError(
            f"{target.name}: an embedding's length is {lengths[np.argmax(np.abs(lengths - 1))]:.3g}, not 1"
        )
    cosines = (found * reference).sum(axis=1, dtype=np.float64) / np.maximum(lengths * expected, 1e-12)
    # Two images without any feature have no angle, and are equal.
    cosine = float(np.where((lengths == 0) & (expected == 0), 1.0, cosines).min())
    error = float(np.abs(found - reference).max())
    tolerance = {"min_cosine": _LEAST_COSINE[target.precision]}
    if target.precision == "fp32":
        tolerance["max_abs_error"] = _MAX_EMBEDDING_ERROR
    result = {
        "dim": found.shape[1],
        "min_cosine": cosine,
        "max_abs_error": error,
        "tolerance": tolerance,
    }
    if error > tolerance.get("max_abs_error", error):
        raise CheckFailedError(
            f"{target.name}: a number of an embedding differs from PyTorch's by {error:.3g} on {len(found)} images; "
            f"allowed is {_MAX_EMBEDDING_ERROR:g}"
        )
    if cosine < _LEAST_COSINE[target.precision]:
        raise CheckFailedError(
            f"{target.name}: an embedding's cosine with PyTorch's is {cosine:.4f} on {len(found)} images; "
            f"at least {_LEAST_COSINE[target.precision]:g} is asked for"
        )
    return result


def _judge(result: dict[str, Any], target: Target, *, agreement: float, drop: float) -> None:
    """Raise the first limit that is passed, with both numbers. Agreement and drop (points) count ties as equal."""
    tolerance, images = target.tolerance, result["images"]
    if result["max_abs_error"] > tolerance.max_abs_error:
        raise CheckFailedError(
            f"{target.name}: a probability differs from PyTorch's by {result['max_abs_error']:.3g} "
            f"on {images} images; allowed is {tolerance.max_abs_error:g}"
        )
    if result["mean_abs_error"] > tolerance.mean_abs_error:
        raise CheckFailedError(
            f"{target.name}: probabilities differ from PyTorch's by {result['mean_abs_error']:.3g} on average "
            f"over {images} images; allowed is {tolerance.mean_abs_error:g}"
        )
    # One image of a small set may flip: no share finer than 1/N can be told.
    if agreement < min(tolerance.min_label_agreement, 1 - 1 / images):
        raise CheckFailedError(
            f"{target.name}: {agreement:.2%} of {images} labels agree with PyTorch's; "
            f"at least {tolerance.min_label_agreement:.2%} must"
        )
    allowed = max(result["tolerance"]["max_drop_points"], 100 / images)
    if drop > allowed + 1e-9:
        raise CheckFailedError(
            f"{target.name}: accuracy falls by {drop:.2f} percentage points on {images} images "
            f"({result['reference_accuracy']:.2%} to {result['accuracy']:.2%}); allowed is {allowed:.2f} "
            "(--max-drop, or one image where that is more)"
        )
