"""Checkpoint to verified engines to a Triton model repository.

Importing this package imports nothing else: what it exports (docs/python.md) is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrrbuild.answers import Answers
    from rrrbuild.engine import Engine
    from rrrbuild.evaluation import Evaluation
    from rrrbuild.manifest import Manifest
    from rrrbuild.python_api import build_engine, evaluate, open_engine

__all__ = ["Answers", "Engine", "Evaluation", "Manifest", "build_engine", "evaluate", "open_engine"]

if not TYPE_CHECKING:  # else a checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name in __all__:
            return getattr(import_module("rrrbuild.python_api"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
