"""What a model takes for what, from predictions: each class, the confusion matrix, the surest wrong answers.

Letters: N images, M members, C classes.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rrrnet.data.dataset import MAX_PIXELS
from rrrnet.errors import ImageError
from rrrnet.files import shown as shown_path
from rrrnet.images.preprocess import decode
from rrrnet.training.metrics import by_class, confusion_matrix, mean_of_members
from rrrserve.report.calibration import Floats, Labels

MOST_CLASSES = 30  # of the matrix; of more classes those that are missed most
_MOST_CONFUSIONS, _MOST_IMAGES = 10, 12
_THUMBNAIL = 96


def mistakes(
    probabilities: Floats,
    labels: Labels,
    names: Sequence[str],
    files: Sequence[Path] | None,
    answered: Floats | None = None,
) -> dict[str, Any]:
    """Everything that the report shows of wrong answers.

    Args:
        probabilities: shape (N, M, C), NaN for members that were not asked.
        labels: shape (N,), indices of `names`.
        names: C class names.
        files: the N images; None if they are not known.
        answered: the calibrated mean, shape (N, C); None where the mean is answered as it is.

    Returns:
        `per_class`, `balanced_accuracy` and the first `confusions` of `metrics.by_class`; `matrix` (`labels` of its
        rows and columns, `counts`); `images`, the wrong answers of the highest probability: file (None if it is not
        known), label, predicted, probability.
    """
    found = by_class(probabilities, labels, names)
    counts = confusion_matrix(probabilities, labels)
    missed = counts.sum(axis=1) - counts.diagonal() + counts.sum(axis=0) - counts.diagonal()
    shown = np.sort(np.argsort(-missed, kind="stable")[:MOST_CLASSES])
    mean = mean_of_members(probabilities)
    answers, sure = mean.argmax(axis=1), (mean if answered is None else answered).max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:_MOST_IMAGES]
    return {
        **found,
        "confusions": found["confusions"][:_MOST_CONFUSIONS],
        "matrix": {"labels": [names[index] for index in shown], "counts": counts[np.ix_(shown, shown)].tolist()},
        "images": [
            {
                "file": None if files is None else shown_path(files[index]),
                "label": names[labels[index]],
                "predicted": names[answers[index]],
                "probability": float(sure[index]),
            }
            for index in worst
        ],
    }


def thumbnails(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The `images` of `mistakes` that can still be read, each with `source`, a small JPEG as a data: URL."""
    shown = []
    for row in found["images"]:
        try:
            picture = decode(Path(row["file"] or "").read_bytes(), max_pixels=MAX_PIXELS)
        except (OSError, ValueError, ImageError):
            continue
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        shown.append({**row, "source": source, "width": picture.width, "height": picture.height})
    return shown
