"""What a compiler is given; every `compile_FAMILY.compile_engine` takes one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rrrbuild.manifest import MODEL, BatchRange
from rrrbuild.targets import Target

# Is told each step of a build in words.
Report = Callable[[str], None]


@dataclass(frozen=True)
class CompileJob:
    """One compilation.

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
