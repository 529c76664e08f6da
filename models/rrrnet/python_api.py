"""What `rrrnet` exports for Python (docs/python.md): the functions of its commands, for other programs.

Imported when one of its names is first used; torch when something is trained.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

from rrrnet import output
from rrrnet.checkpoint import Checkpoint
from rrrnet.data.dataset import ImageSet
from rrrnet.data.given import ImageLike as ImageLike
from rrrnet.errors import ArtifactError as ArtifactError
from rrrnet.errors import CheckFailedError as CheckFailedError
from rrrnet.errors import ImageError as ImageError
from rrrnet.errors import IncompatibleError, UsageError
from rrrnet.errors import NoSpaceError as NoSpaceError
from rrrnet.errors import RRRError as RRRError
from rrrnet.glyphs.options import GlyphOptions
from rrrnet.installing import missing
from rrrnet.training.command_line import command_line
from rrrnet.training.recipes import Method
from rrrnet.training.threads import configure_threads

if TYPE_CHECKING:
    from rrrnet.training.options import Options

AnyPath: TypeAlias = str | os.PathLike[str]
_PATHS: Mapping[str, Callable[[Any], Any]] = {
    "weights": os.fspath,
    **dict.fromkeys(("labels", "test_data", "teacher", "unlabelled"), Path),
}


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """For a function, as a decorator, whose imports come with an extra.

    Raises:
        IncompatibleError: one is not installed; says what installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (told := missing(error, extra)) is None:
            raise
        raise IncompatibleError(told) from error


class TrainingOptions(TypedDict, total=False):
    """The flags of `rrr train`, whose help tells the meaning and default of each."""

    method: Method
    members: int
    weights: AnyPath
    weights_key: str
    backbone: str
    labels: AnyPath
    recipe: str
    epochs: int
    size: int
    minutes: float
    balance: str
    early_stopping: bool
    teacher: AnyPath
    teacher_temperature: float
    teacher_weight: float
    unlabelled: AnyPath
    preprocess: str
    resize: int
    crop: int
    interpolation: str
    mean: str
    std: str
    bgr: bool
    max_pixels: int
    seed: int
    batch_size: int
    lr: float
    augmentation: str
    aligned: bool
    slices: str
    precision: str
    device: str
    resume: bool
    strict: bool
    test_fraction: float
    test_data: AnyPath
    groups: str
    min_per_class: int
    overwrite: bool
    license: str


@needing("train")
def train(
    data: AnyPath | None, out: AnyPath, *, say: Callable[[str], None] = output.say, **options: Unpack[TrainingOptions]
) -> Checkpoint:
    """Train a network, as `rrr train` does: reuse, reduce and recycle a backbone, or train from scratch.

    Ctrl-C leaves what was last saved, at most two minutes old; the same call with `resume=True` goes on with it.

    Args:
        data: one folder per class, or another layout of docs/training.md; None imports a network as it is, with
            `labels`.
        out: the checkpoint's folder; its name becomes the model's.
        say: is told each stage in a line; by default it is written to standard error, below a progress bar.
        options: see `TrainingOptions`.

    Returns:
        The checkpoint; `training["metrics"]["test"]` has its scores on the test images.

    Raises:
        UsageError, ArtifactError, IncompatibleError, NoSpaceError, CheckFailedError: see the message.
    """
    configure_threads()
    from rrrnet.training.bar import training_bar
    from rrrnet.training.fit import fit

    if unknown := options.keys() - TrainingOptions.__annotations__.keys():
        raise UsageError(f"{', '.join(sorted(unknown))}: no such option; rrr train --help tells which there are")
    asked = options_of(data, out, options)
    with training_bar(reads_images=data is not None) as (started, report):
        return fit(asked, report=report, stop=lambda: False, say=say, started=started).checkpoint


def options_of(data: AnyPath | None, out: AnyPath, flags: Mapping[str, Any]) -> "Options":
    """What a training is asked for by flags of `rrr train`; its `command` is the line with them.

    Args:
        data: as of `train`.
        out: likewise.
        flags: by their names in `TrainingOptions`.

    Raises:
        UsageError: a value that is not allowed.
    """
    from rrrnet.data.training_data import DataOptions
    from rrrnet.images.preprocess_options import PreprocessOptions
    from rrrnet.training.options import Options

    given = {name: _PATHS[name](value) if name in _PATHS else value for name, value in flags.items()}

    def of(kind: Any, *, without: str = "") -> dict[str, Any]:
        return {entry.name: given[entry.name] for entry in fields(kind) if entry.name in given.keys() - {without}}

    return Options(
        data=None if data is None else Path(data),
        out=Path(out),
        preprocess=PreprocessOptions(**of(PreprocessOptions)),
        data_options=DataOptions(**of(DataOptions)),
        weights_given="weights" in given,
        command=command_line(data, out, given),
        **of(Options, without="preprocess"),
    )


def draw_glyphs(out: AnyPath, options: GlyphOptions | None = None) -> ImageSet:
    """Draw a data set of distorted printed letters, as `rrr data glyphs` does.

    Args:
        out: the folder; an earlier generated data set there is replaced.
        options: how many of what.

    Raises:
        UsageError: `out` holds something else.
        IncompatibleError: matplotlib (its fonts) is missing.
        NoSpaceError: the disk is full; `out` is as it was.
    """
    from rrrnet.glyphs.generate import generate_glyphs

    return generate_glyphs(Path(out), options or GlyphOptions())
