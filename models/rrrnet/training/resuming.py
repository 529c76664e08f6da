"""Going on with a stopped training: what must be there, and what must be the same."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint, read_checkpoint
from rrrnet.data.dataset import ImageSet
from rrrnet.data.folder_tree import readable
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.names import check_model_name
from rrrnet.training import teacher
from rrrnet.training.budget import Choice
from rrrnet.training.train import Training
from rrrnet.training.training_state import RESUME, load_state, read_settings

if TYPE_CHECKING:
    from rrrnet.training.options import Options


def check_new(out: Path, *, overwrite: bool) -> None:
    """Refuse a name that no model can have, and to lose a trained network, before any work is done.

    Raises:
        UsageError: says what to give instead.
    """
    _check_readable(out)
    name = out.absolute().name
    check_model_name(name, remedy=lambda allowed: f"give --out {shlex.quote(str(out.parent / allowed))}")
    if (out / DOCUMENT).exists() and not overwrite:
        resumable = (out / RESUME).exists()
        advice = "go on with --resume, or replace it with --overwrite" if resumable else "replace it with --overwrite"
        raise UsageError(f"{out} already holds a checkpoint: {advice}, or choose another --out")
    _check_target(out)


def check_out(options: "Options") -> None:
    """What `check_new` refuses, and to resume a training that is not there.

    Raises:
        UsageError: says what to give instead.
    """
    if not options.resume:
        check_new(options.out, overwrite=options.overwrite)
        return
    _check_readable(options.out)
    if not (options.out / RESUME).exists():
        state = "is complete" if (options.out / DOCUMENT).exists() else "does not exist"
        raise UsageError(f"--resume: the checkpoint {options.out} {state}; only a stopped training can be resumed")
    _check_target(options.out)


def _check_readable(out: Path) -> None:
    place = str(out.absolute())
    if readable(place) != place:
        raise UsageError(f"--out {readable(place)} is a name that is not UTF-8: choose another")


def _check_target(out: Path) -> None:
    """Refuse to replace what rrr did not write."""
    if (out / DOCUMENT).exists() and sealed.page_changed(out, DOCUMENT):
        raise UsageError(
            f"{out / sealed.PAGE} was changed after rrr wrote it, and a new one would replace it: move it away"
        )
    sealed.check_target(out, document=DOCUMENT)


def restore(options: "Options", choice: Choice, images: ImageSet, training: Training) -> Checkpoint:
    """Load the stopped training's state into `training`; the settings, classes and images must be the same.

    Returns:
        The stopped training's checkpoint.

    Raises:
        UsageError: another setting or other images; names the difference.
        ArtifactError: its state cannot be trusted.
    """
    previous = read_checkpoint(options.out)
    if RESUME not in previous.files:
        message = f"{options.out / RESUME} is not one of the checkpoint's sealed files"
        raise ArtifactError(f"{message}: remove it, and train again with --overwrite")
    settings = {"slices": "first"} | read_settings(options.out)  # older ones do not tell
    wanted = options.settings() | teacher.settings(training.plan.teaching)
    # What was chosen may be given as well, as the repeating command does.
    chosen = {"size": choice.size, "epochs": choice.epochs}
    same = {key for key, found in chosen.items() if wanted[key] == found}
    if wanted["minutes"] is None and same == chosen.keys():
        same.add("minutes")
    changed = [key for key in {**wanted, **settings} if key not in same and settings.get(key) != wanted.get(key)]
    if changed:
        before = {key: chosen.get(key) if settings.get(key) is None else settings[key] for key in changed}
        differences = "; ".join(f"{key} was {before[key]}, now {wanted.get(key)}" for key in changed)
        raise UsageError(f"--resume: {differences}; give the options of the stopped training: {previous.command}")
    if previous.labels != images.classes:
        raise UsageError("--resume: the classes or their order are others; give the same --data and --labels")
    if previous.training["data"]["sha256"] != images.sha256:
        raise UsageError(f"--resume: the images in {options.data} are not those of the stopped training")
    training.progress, training.best = load_state(options.out, training.model, training.average, training.optimizer)
    return previous
