"""What is handed from step to step of a build."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrrbuild.manifest import MODEL, BatchRange
from rrrbuild.targets import Target
from rrrnet.checkpoint import Checkpoint

# Is told each step of a build in words.
Report = Callable[[str], None]


@dataclass(frozen=True)
class BuildOrder:
    """One engine to build, after everything that can be checked before was checked.

    Attributes:
        checkpoint: what to build.
        target: the row of the table.
        batch: sizes to compile for; latency is measured at each.
        out: the engine folder; an engine that stands there is replaced.
        max_drop: percentage points of accuracy that the engine may lose.
        report: is told each step.
        embed: whether the engine gives an image's embedding too.
    """

    checkpoint: Checkpoint
    target: Target
    batch: BatchRange
    out: Path
    max_drop: float
    report: Report
    embed: bool = False


@dataclass(frozen=True)
class CompileJob:
    """One compilation; every `compile_FAMILY.compile_engine` takes one.

    Attributes:
        model: the ONNX model's bytes, its batch free.
        folder: where the engine files go; exists and is empty.
        target: the row of the table; its `files` are to be written.
        batch: sizes to compile for.
        part: what `model` is: `model`, or a part of plan `split`; the files are named by it.
        aux_streams: TensorRT's auxiliary streams beside the main one; None leaves them to TensorRT.
        timing_cache: TensorRT's measurements from an earlier build of this engine, empty if there are none.
    """

    model: bytes
    folder: Path
    target: Target
    batch: BatchRange
    part: str = MODEL
    aux_streams: int | None = None
    timing_cache: bytes = b""

    @property
    def path(self) -> Path:
        """The file that the runtime will open."""
        return self.folder / self.target.files[0].replace(MODEL, self.part, 1)


@dataclass(frozen=True)
class Compiled:
    """What a compiler tells of what it wrote.

    Attributes:
        built_for: "CPU", or compute capabilities of GPUs, like "8.9".
        aux_streams: where auxiliary streams were asked for, what became of them: how many were `asked`, how many were
            `got` (None where no GPU could open the engine) and what the builder said about them (`log`).
        features: name, dtype and shape of the tensor between stem and members in plan `split`.
    """

    built_for: list[str]
    aux_streams: dict[str, Any] | None = None
    features: dict[str, Any] | None = None

    @property
    def device(self) -> dict[str, Any]:
        """What the manifest's `device` keeps of it."""
        streams = {} if self.aux_streams is None else {"aux_streams": self.aux_streams}
        return {"built_for": self.built_for, **streams}
