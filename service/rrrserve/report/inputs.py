"""The result files that a report takes: bench results, verdicts and predictions, checked before anything is drawn."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from rrrbuild.cascade_runner import EFFORTS, FULL
from rrrnet.errors import ArtifactError, UsageError
from rrrserve.bench.result_file import BenchResult, read_result
from rrrserve.stamps.verdict_document import Verdicts

_MAX_BYTES = 2**28


def read_bench(path: Path) -> BenchResult:
    """A bench result.

    Raises:
        UsageError: there is no such file.
        ArtifactError: it is none.
    """
    _check_file(path)
    return read_result(path)


def read_verdicts(path: Path) -> Verdicts:
    """The verdicts of a run.

    Raises:
        UsageError: there is no such file.
        ArtifactError: they are none.
    """
    _check_file(path)
    try:
        return Verdicts.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first: Any = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        seen = f", found {first['input']!r:.60}" if place else ""
        message = f"{path} is not verdicts: rrr verify --json prints them; {place or 'JSON'}: {first['msg']}{seen}"
        raise ArtifactError(message) from error


def _check_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path} is not a file: give one that a command of rrr wrote")
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.stat().st_size > _MAX_BYTES:
        raise ArtifactError(f"{path} has {path.stat().st_size} bytes: allowed are {_MAX_BYTES}")


def files_of_predictions(path: Path, images: int) -> list[Path] | None:
    """The images that predictions are of, as `rrr evaluate --predictions` noted them; None if it did not."""
    with np.load(path, allow_pickle=False) as arrays:
        if "paths" not in arrays or len(arrays["paths"]) != images:
            return None
        return [Path(str(path)) for path in arrays["paths"]]


def words_of_predictions(path: Path) -> tuple[str, str]:
    """Effort and target that predictions were made by, as `rrr evaluate --predictions` noted them; else full and ''."""
    with np.load(path, allow_pickle=False) as arrays:
        if not {"effort", "target"} <= set(arrays.files):
            return FULL, ""
        effort, target = str(arrays["effort"]), str(arrays["target"])
    return (effort if effort in EFFORTS else FULL), target


def read_predictions(
    path: Path, *, members: int, classes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """What `rrr evaluate --predictions` wrote: probabilities (N, M, C), NaN where not asked, and labels (N,).

    Raises:
        UsageError: there is no such file.
        ArtifactError: it is none, or of a network of another shape.
    """
    _check_file(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            probabilities, labels = arrays["probabilities"], arrays["labels"]
    except (ValueError, KeyError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{path} holds no predictions ({error}): rrr evaluate CHECKPOINT|ENGINE --predictions FILE.npz writes them"
        ) from error
    if (
        probabilities.ndim != 3
        or probabilities.shape[1:] != (members, classes)
        or labels.shape != probabilities.shape[:1]
    ):
        raise ArtifactError(
            f"{path} holds probabilities {probabilities.shape} and labels {labels.shape}: this network needs "
            f"(N, {members}, {classes}) and (N,)"
        )
    whole = np.issubdtype(labels.dtype, np.integer) and len(labels) > 0
    if (
        not whole
        or not np.issubdtype(probabilities.dtype, np.floating)
        or not ((labels >= 0) & (labels < classes)).all()
    ):
        raise ArtifactError(f"{path} holds labels that are no classes: allowed are 0 to {classes - 1}, at least one")
    return probabilities.astype(np.float32), labels.astype(np.int64)
