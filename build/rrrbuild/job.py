"""What a compiler is given; every `compile_FAMILY.compile_engine` takes one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rrrbuild.manifest import BatchRange
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
        timing_cache: TensorRT's measurements from an earlier build of this engine, empty if there are none.
    """

    model: bytes
    folder: Path
    target: Target
    batch: BatchRange
    timing_cache: bytes = b""
