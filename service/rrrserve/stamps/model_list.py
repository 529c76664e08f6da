"""The repository's models as GET /v1/models tells of them, each with the claims that are stamped on it now."""

from pathlib import Path
from typing import Any

from rrrbuild.repository_document import Repository, ServedModel
from rrrserve.stamps.stamp import STAMP
from rrrserve.stamps.travelling import served_claims

_TOLD = ("name", "version", "target", "backend", "members", "image_size", "max_batch_size", "parameters", "macs")


class ModelList:
    """Reads and judges the stamps again only where one of their files has changed.

    Args:
        repository: where the stamps are looked for.
        default: name of the model that /v1/predict asks.
    """

    def __init__(self, repository: Repository, default: str) -> None:
        self._repository = repository
        self._default = default
        self._seen: list[tuple[int, ...] | None] = []
        self._document: dict[str, Any] = {}

    def document(self) -> dict[str, Any]:
        """The whole answer. Reads files: not for the event loop, and for one thread at a time."""
        models = self._repository.models
        seen = [_identity(self._repository.path / model.name / STAMP) for model in models]
        if seen != self._seen:
            self._document = {
                "default": self._default,
                "repository": self._repository.short_digest,
                "models": [self._model(model) for model in models],
            }
            self._seen = seen  # as it was before the reading: what was written meanwhile is read next time
        return self._document

    def _model(self, model: ServedModel) -> dict[str, Any]:
        return {
            **{name: getattr(model, name) for name in _TOLD},
            "num_classes": len(model.labels),
            "labels": list(model.labels),
            "claims": [claim.to_json() for claim in served_claims(self._repository, model)],
        }


def _identity(path: Path) -> tuple[int, ...] | None:
    """Tells one state of a file from another; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
