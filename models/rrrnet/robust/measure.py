"""A checkpoint's robustness on its test images, section by section; what was measured when somebody stops stays."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rrrnet.checkpoint import SPLIT, Checkpoint
from rrrnet.data.dataset import TEST_DATA, ImageSet, evenly, load_arrays, read_split, select
from rrrnet.data.layout import list_columns
from rrrnet.data.remembered import known_images, recorded_data
from rrrnet.images.preprocess import Uint8Array
from rrrnet.inference import load_model, probabilities
from rrrnet.network.ensemble import RRRNet, normalise
from rrrnet.robust import attack, corruptions, factors, sensitivity
from rrrnet.robust.questions import SECTIONS, Questions
from rrrnet.training.metrics import mean_of_members

_SENSITIVITY_IMAGES = 64
_BATCH = 32
_CHUNK = 256  # images in memory where all test images are looked at

# Is told what runs now, and of how many pieces of work it is the next one.
Step = Callable[[str, int], None]


def images_of(checkpoint: Checkpoint, data: Path | None) -> ImageSet:
    """The test part of the checkpoint's split, or all of a data set that the split does not know.

    Raises:
        UsageError: the images are gone, or it never had any.
        ArtifactError: the data set has classes that the checkpoint does not know.
    """
    ask = "give labelled ones with --data DIR"
    images = known_images(checkpoint.path, recorded_data(checkpoint), checkpoint.labels, data, remedy=ask)
    parts = read_split(checkpoint.path / SPLIT) if SPLIT in checkpoint.files else {}
    return select(images, parts, "test") if parts.keys() & set(images.files) else images


def pieces(checkpoint: Checkpoint, questions: Questions) -> int:
    """How many pieces of work `measure` will tell of."""
    counts = {
        "factors": 1,
        "corruptions": 1 + len(corruptions.NAMES) * len(corruptions.SEVERITIES),
        "attack": len(questions.eps),
        "sensitivity": 3 + 3 * checkpoint.architecture.members,
    }
    return sum(counts[section] for section in questions.only)


def measure(
    checkpoint: Checkpoint, images: ImageSet, questions: Questions, *, step: Step, check: Callable[[], None]
) -> dict[str, Any]:
    """Answer the questions, one after the other.

    Args:
        checkpoint: what is measured.
        images: its test images.
        questions: which.
        step: told before each piece of work.
        check: called often; raises KeyboardInterrupt to stop.

    Returns:
        `complete`, `images` (of each section) and a key for each section that was begun; see docs/robust.md.
    """
    found: dict[str, Any] = {"complete": False, "test_images": len(images.files)}
    work = _Work(checkpoint, images, questions, step, check, found)
    try:
        for section in SECTIONS:
            if section in questions.only:
                getattr(work, section)()
        found["complete"] = True
    except KeyboardInterrupt:
        pass  # what was found is told
    return found


class _Work:
    """The sections; each writes what it finds into `found` as it finds it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        images: ImageSet,
        questions: Questions,
        step: Step,
        check: Callable[[], None],
        found: dict[str, Any],
    ) -> None:
        self._preprocess, self._questions, self._set, self._found = checkpoint.preprocess, questions, images, found
        self._tell, self._check, self._done = step, check, 0
        self._model: RRRNet = load_model(checkpoint).to(questions.device).requires_grad_(False)
        self._few: tuple[Uint8Array, npt.NDArray[np.int64]] | None = None

    def factors(self) -> None:
        """Accuracy by the columns of labels.csv, on all test images."""
        self._step("factors: all test images")
        columns = _columns(self._set)
        cells = {name: [column.get(file, "") for file in self._set.files] for name, column in columns.items()}
        right = []
        for start in range(0, len(self._set.files), _CHUNK):
            self._check()
            part = self._set.take(range(start, min(start + _CHUNK, len(self._set.files))))
            arrays, labels = self._load(part)
            right.append(mean_of_members(self._answers(arrays)).argmax(axis=1) == labels)
        told, left_out = factors.by_factor(cells, np.concatenate(right))
        overall = factors.accuracy(np.concatenate(right))
        self._found["factors"] = {**overall, "columns": told, "left_out": left_out}

    def corruptions(self) -> None:
        """Accuracy as it is and under each corruption."""
        arrays, labels = self._some()
        self._step("no corruption")
        rows = self._found["corruptions"] = [self._scored(arrays, labels, corruption="none", severity=0)]
        for name in corruptions.NAMES:
            for severity in corruptions.SEVERITIES:
                self._step(f"{name}, severity {severity}")
                corrupted = corruptions.corrupt(arrays, name, severity, self._questions.seed)
                rows.append(self._scored(corrupted, labels, corruption=name, severity=severity))

    def attack(self) -> None:
        """Accuracy under PGD of each radius; 0 is without."""
        arrays, labels = self._some()
        rows = self._found["attack"] = [self._scored(arrays, labels, eps=0.0)]
        for eps in self._questions.eps:
            self._step(f"attack of {eps:g}/255")
            parts = [self._answers(attacked.cpu().numpy()) for attacked in self._attacked(arrays, labels, eps)]
            rows.append({"eps": eps, **_scores(np.concatenate(parts), labels)})

    def sensitivity(self) -> None:
        """The rise of the loss under a worst-case change of each module's weights."""
        arrays, labels = self._load(evenly(evenly(self._set, self._questions.images), _SENSITIVITY_IMAGES))
        eps = self._questions.eps[0]  # large ones leave an undefended network nothing to lose
        attacked = torch.cat(list(self._attacked(arrays, labels, eps)))
        inputs = normalise(attacked, self._preprocess), normalise(self._tensor(arrays), self._preprocess)
        rows: list[dict[str, Any]] = []
        self._found["sensitivity"] = {"images": len(labels), "eps": eps, "radius": sensitivity.RADIUS, "modules": rows}
        for stage, member, module in sensitivity.modules_of(self._model):
            of = "the stem" if member is None else f"member {member}"
            self._step(f"sensitivity of {stage} of {of}")
            risen = sensitivity.rise(self._model, module, *inputs, self._tensor(labels))
            rows.append({"stage": stage, "member": member, "rise_attacked": risen[0], "rise_clean": risen[1]})

    def _step(self, text: str) -> None:
        self._check()
        self._tell(text, self._done)
        self._done += 1

    def _load(self, images: ImageSet) -> tuple[Uint8Array, npt.NDArray[np.int64]]:
        return load_arrays(images, self._preprocess)

    def _some(self) -> tuple[Uint8Array, npt.NDArray[np.int64]]:
        """At most so many images as asked for, and their labels."""
        if self._few is None:
            self._few = self._load(evenly(self._set, self._questions.images))
        return self._few

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._questions.device)

    def _attacked(self, arrays: Uint8Array, labels: npt.NDArray[np.int64], eps: float) -> Iterator[torch.Tensor]:
        """Attacked images, a batch at a time."""
        for start in range(0, len(arrays), _BATCH):
            self._check()
            rows = slice(start, start + _BATCH)
            images, right = self._tensor(arrays[rows]), self._tensor(labels[rows])
            seed, steps = self._questions.seed + start, self._questions.steps
            yield attack.attacked(self._model, self._preprocess, images, right, eps=eps, seed=seed, steps=steps)

    def _answers(self, arrays: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Probabilities (N, M, C), a batch at a time."""
        parts = []
        for start in range(0, len(arrays), _BATCH):
            self._check()
            parts.append(probabilities(self._model, self._preprocess, arrays[start : start + _BATCH], _BATCH))
        return np.concatenate(parts)

    def _scored(self, arrays: Uint8Array, labels: npt.NDArray[np.int64], **about: Any) -> dict[str, Any]:
        return {**about, **_scores(self._answers(arrays), labels)}


def _scores(found: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy of the ensemble with its interval, and of each member."""
    ensemble = factors.accuracy(mean_of_members(found).argmax(axis=1) == labels)
    return {**ensemble, "members": (found.argmax(axis=2) == labels[:, None]).mean(axis=0).tolist()}


def _columns(images: ImageSet) -> dict[str, dict[str, str]]:
    """Cells by column and file, of both folders where the test part has one of its own."""
    columns = list_columns(images.root)
    if images.test_root is not None:
        for name, cells in list_columns(images.test_root).items():
            columns.setdefault(name, {}).update({f"{TEST_DATA}{file}": cell for file, cell in cells.items()})
    return columns
