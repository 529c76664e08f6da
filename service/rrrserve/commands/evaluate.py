"""`rrr evaluate`: accuracy, NLL and calibration of a checkpoint or an engine, each member and the ensemble."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.table import Table

from rrrbuild.manifest import MANIFEST
from rrrnet.checkpoint import DOCUMENT, SPLIT, read_checkpoint
from rrrnet.dataset import load_arrays, read_dataset, read_split, select
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.metrics import score
from rrrnet.preprocess import Preprocess, Uint8Array
from rrrserve import output

BATCH_SIZE = 32


@dataclass(frozen=True)
class _Subject:
    """What is evaluated: a checkpoint through PyTorch or an engine through its runtime."""

    name: str
    target: str
    path: Path
    labels: tuple[str, ...]
    preprocess: Preprocess
    data_path: str | None
    data_sha256: str | None
    split_recorded: bool
    predict: Callable[[Uint8Array], npt.NDArray[np.float32]]


def register(app: typer.Typer) -> None:
    """Add `evaluate` to the application."""
    app.command()(evaluate)


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="CHECKPOINT|ENGINE", help="A checkpoint or an engine folder.")],
    data: Annotated[Path | None, typer.Option(help="Data folder; default: the one it was trained on.")] = None,
    split: Annotated[str, typer.Option(help="test, train or all.")] = "test",
    predictions: Annotated[
        Path | None, typer.Option(help="Also write every image's member probabilities to this .npz file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a checkpoint or an engine on real images."""
    if split not in ("test", "train", "all"):
        raise UsageError(f"--split {split}: allowed are test, train, all")
    subject = _open(model)
    if predictions is not None and not predictions.parent.is_dir():
        raise UsageError(f"--predictions {predictions}: there is no folder {predictions.parent}")
    root = data if data is not None else Path(subject.data_path) if subject.data_path else None
    if root is None or (data is None and not root.is_dir()):
        raise UsageError(f"the images of {model} are no longer at {root}: give the folder with --data DIR")
    images = read_dataset(root)
    if images.classes != subject.labels:
        unknown = sorted(set(images.classes) - set(subject.labels))
        if unknown:
            message = f"{root} has classes that {model} does not know: {', '.join(unknown[:5])}"
            raise ArtifactError(f"{message}; it knows {', '.join(subject.labels[:5])} ...")
    if split != "all" and not subject.split_recorded:
        raise ArtifactError(f"{model} has no recorded split: score all images with --split all")
    chosen = images if split == "all" else select(images, read_split(subject.path / SPLIT), split)  # type: ignore[arg-type]  # checked above
    data_matches = subject.data_sha256 in (None, images.sha256)
    if not data_matches:
        output.messages.print(f"note: the images in {root} are not, or not all, those {subject.name} was trained on")
    arrays, indices = load_arrays(chosen, subject.preprocess)
    position = {label: index for index, label in enumerate(subject.labels)}
    labels = np.array([position[images.classes[index]] for index in indices], dtype=np.int64)
    results: list[npt.NDArray[np.float32]] = []
    with output.progress_bar() as bar:
        task = bar.add_task(f"{subject.name} ({subject.target})", total=len(arrays), text="")
        for start in range(0, len(arrays), BATCH_SIZE):
            results.append(subject.predict(arrays[start : start + BATCH_SIZE]))
            bar.advance(task, len(results[-1]))
    probabilities = np.concatenate(results)
    scores = score(probabilities, labels)
    if predictions is not None:
        with predictions.open("wb") as file:  # given a name, savez would append .npz to it
            np.savez(file, files=np.array(chosen.files), labels=labels, probabilities=probabilities)
    document = {
        "name": subject.name,
        "target": subject.target,
        "data": str(root),
        "split": split,
        "data_matches": data_matches,
        **scores,
    }
    if as_json:
        output.print_json(document)
    else:
        output.console.print(_table(document))


def _open(path: Path) -> _Subject:
    """The checkpoint or engine at `path`, ready to predict.

    Raises:
        ArtifactError: it is neither, or damaged.
    """
    if (path / DOCUMENT).exists():
        from rrrnet.inference import Predictor

        checkpoint = read_checkpoint(path)
        where = checkpoint.training["data"]["path"]
        predictor = Predictor(checkpoint)
        return _Subject(
            checkpoint.name,
            "pytorch",
            path,
            checkpoint.labels,
            checkpoint.preprocess,
            where,
            checkpoint.training["data"]["sha256"],
            SPLIT in checkpoint.files,
            predictor.predict,
        )
    if (path / MANIFEST).exists():
        from rrrbuild.engine import load_engine

        engine = load_engine(path)
        manifest = engine.manifest
        data = manifest.data or {}
        return _Subject(
            manifest.name,
            manifest.target,
            path,
            manifest.labels,
            manifest.preprocess,
            data.get("path"),
            data.get("sha256"),
            SPLIT in manifest.files,
            engine,
        )
    message = f"{path} is neither a checkpoint (no {DOCUMENT}) nor an engine (no {MANIFEST})"
    raise ArtifactError(f"{message}; make one with rrr train or rrr build")


def _table(document: dict[str, Any]) -> Table:
    title = f"{document['name']} ({document['target']}): {document['images']} {document['split']} images"
    table = Table("", "accuracy", "NLL", "ECE", title=title)
    members = document["members"]
    rows = [("ensemble" if len(members) > 1 else "network", document)]
    rows += [(f"member {index}", row) for index, row in enumerate(members)] if len(members) > 1 else []
    for name, row in rows:
        table.add_row(name, f"{row['accuracy']:.3f}", f"{row['nll']:.3f}", f"{row['ece']:.3f}")
    return table
