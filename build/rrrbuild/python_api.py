"""What `rrrbuild` exports for Python (docs/python.md): the functions of its commands, for other programs.

Imported when one of its names is first used; torch, compilers and runtimes when something is built or loaded.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from rrrbuild import build, evaluation
from rrrbuild.answers import Answers as Answers
from rrrbuild.cascade import DEFAULT_MAX_DROP as DEFAULT_CASCADE_MAX_DROP
from rrrbuild.cascade_runner import AUTO
from rrrbuild.choice import build_best
from rrrbuild.engine import Engine, load_engine
from rrrbuild.evaluation import Evaluation
from rrrbuild.manifest import BatchRange, Manifest
from rrrbuild.trust import Trust
from rrrnet import output
from rrrnet.checkpoint import local_checkpoint
from rrrnet.python_api import needing

AnyPath: TypeAlias = str | os.PathLike[str]


@needing("build")
def build_engine(
    checkpoint: AnyPath,
    target: str | None = None,
    *,
    plan: str = "auto",
    batch: tuple[int, int, int] = (1, 8, 32),
    max_drop: float = build.DEFAULT_MAX_DROP,
    out: AnyPath | None = None,
    data: AnyPath | None = None,
    images: int = build.DEFAULT_IMAGES,
    calibration_images: int = build.DEFAULT_CALIBRATION_IMAGES,
    cascade: bool | None = None,
    cascade_max_drop: float = DEFAULT_CASCADE_MAX_DROP,
    calibrate: bool = True,
    calibration_data: AnyPath | None = None,
    embed: bool = False,
    say: Callable[[str], None] = output.say,
) -> Manifest:
    """Export, compile, verify on real images and measure, as `rrr build` does.

    Args:
        checkpoint: the folder that `rrrnet.train` or `rrr train` wrote, or "hf://OWNER/NAME".
        target: such as "openvino-fp32"; None tries all and takes the fastest that runs here and passes its gate.
        plan: "auto" is the fastest for each batch size.
        batch: smallest, usual and largest.
        max_drop: percentage points of accuracy that the engine may lose.
        out: the engine's folder; None is `artifacts/engines/NAME/TARGET`.
        data: images to calibrate and verify on; None is those that the checkpoint remembers.
        images: the most to verify on.
        calibration_images: the most to calibrate INT8 on.
        cascade: True takes one even where it does not pay, False none, None where it pays.
        cascade_max_drop: percentage points of accuracy that it may lose against all members.
        calibrate: whether temperatures are fitted.
        calibration_data: labelled images to choose cascade and temperatures on; None is the validation images.
        embed: whether the engine gives embeddings too (`Engine.embed`); then there is no cascade.
        say: is told each step in a line; by default it is written to standard error.

    Returns:
        The engine's manifest; `path` is its folder.

    Raises:
        UsageError: a value that is not allowed, or no images to verify on.
        ArtifactError: the checkpoint is damaged.
        IncompatibleError: the target cannot be built here; says what is missing.
        CheckFailedError: the engine is not the network that was trained.
    """
    options: build.BuildOptions = {
        "plan": plan,
        "batch": BatchRange(*batch),
        "max_drop": max_drop,
        "out": _path(out),
        "data": _path(data),
        "images": images,
        "calibration_images": calibration_images,
        "trust": Trust(cascade, cascade_max_drop, calibrate, _path(calibration_data)),
        "embed": embed,
    }
    folder = local_checkpoint(Path(checkpoint), say)
    if target is None:
        return build_best(folder, **options, report=say)[0]
    return build.build_engine(folder, target, **options, report=say)


@needing("train")
def evaluate(model: AnyPath, data: AnyPath | None = None, *, split: str = "test", effort: str = AUTO) -> Evaluation:
    """Score a checkpoint or an engine on real images, as `rrr evaluate` does.

    Args:
        model: the folder of either, or "hf://OWNER/NAME" of a checkpoint.
        data: labelled images; None is the data set that the model was trained on.
        split: "test", "val", "train" or "all".
        effort: of a cascade, which members are asked: "fast", "auto" or "full".

    Raises:
        UsageError: the images are gone, or there is no such split or effort.
        ArtifactError: the model is damaged, the data set has other classes, or the split is not recorded.
        IncompatibleError: the engine cannot run on this machine.
    """
    return evaluation.evaluate(local_checkpoint(Path(model), output.say), _path(data), split, effort)


def open_engine(engine: AnyPath, *, threads: int | None = None) -> Engine:
    """Check an engine folder and load it, for one caller at a time; `Engine.predict` takes images.

    Args:
        engine: the folder that `build_engine` or `rrr build` wrote.
        threads: CPU threads for one inference; None leaves the choice to the runtime.

    Raises:
        ArtifactError: damaged, or of an unknown target.
        IncompatibleError: it cannot run on this machine; says what it was built for and how to rebuild it.
    """
    return load_engine(Path(engine), threads=threads)


def _path(given: AnyPath | None) -> Path | None:
    return None if given is None else Path(given)
