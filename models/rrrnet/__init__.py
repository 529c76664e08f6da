"""Images to a trained reduced ensemble (RRR-Net, arXiv 2310.01157).

Data flow: `dataset` (or `glyphs`) -> `preprocess` -> `resnet` (reuse) -> `reduce` -> `branches` (recycle)
-> `ensemble` -> `train` -> `checkpoint` -> `inference`. Importing this package imports nothing heavy: what it exports
(docs/python.md) is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrrnet.checkpoint import Checkpoint
    from rrrnet.data.given import ImageLike
    from rrrnet.errors import (
        ArtifactError,
        CheckFailedError,
        ImageError,
        IncompatibleError,
        NoSpaceError,
        RRRError,
        UsageError,
    )
    from rrrnet.glyphs.options import GlyphOptions
    from rrrnet.python_api import TrainingOptions, draw_glyphs, train

__version__ = "0.1.0"
__all__ = [
    "ArtifactError",
    "CheckFailedError",
    "Checkpoint",
    "GlyphOptions",
    "ImageError",
    "ImageLike",
    "IncompatibleError",
    "NoSpaceError",
    "RRRError",
    "TrainingOptions",
    "UsageError",
    "draw_glyphs",
    "train",
]

if not TYPE_CHECKING:  # else a checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name in __all__:
            return getattr(import_module("rrrnet.python_api"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
