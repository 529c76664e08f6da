"""Request to Triton to answer and metrics; the `rrr` command. Never imports torch itself.

Importing this package imports nothing else: what it exports (docs/python.md) is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rrrbuild.repository_document import Repository
    from rrrserve.client.answers import (
        Answer,
        Embedding,
        Model,
        NoAnswerError,
        Prediction,
        ServiceError,
        Uncertainty,
        Vote,
    )
    from rrrserve.client.client import AsyncClient, Client
    from rrrserve.python_api import serve, write_repository

# Where each name is: a client needs less than a service.
_PLACES = {
    **dict.fromkeys(("AsyncClient", "Client"), "client.client"),
    **dict.fromkeys(("Answer", "Model", "NoAnswerError", "Prediction", "ServiceError"), "client.answers"),
    **dict.fromkeys(("Embedding", "Uncertainty", "Vote"), "client.answers"),
    **dict.fromkeys(("Repository", "serve", "write_repository"), "python_api"),
}
__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Embedding",
    "Model",
    "NoAnswerError",
    "Prediction",
    "Repository",
    "ServiceError",
    "Uncertainty",
    "Vote",
    "serve",
    "write_repository",
]

if not TYPE_CHECKING:  # else a checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name in _PLACES:
            return getattr(import_module(f"rrrserve.{_PLACES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
