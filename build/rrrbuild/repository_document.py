"""`repository.json`: what a Triton model repository serves, sealed over every file in it. Needs no compiler."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rrrbuild.confidence.record import Confidence
from rrrbuild.manifest import MANIFEST
from rrrnet import sealed
from rrrnet.errors import ArtifactError
from rrrnet.images.preprocess import Preprocess

DOCUMENT = "repository.json"
DEFAULT_REPOSITORY = Path("artifacts/repository")
FORMAT_VERSION = 1
PYTHON_BACKEND = "python"
# Output of a model whose members run side by side in one process: durations, (N, M) float32, a row for each image.
MEMBER_SECONDS = "member_seconds"
# Of a model that may leave members out: how many of them answered, (N, 1) int32, and what became of each, (N, M) uint8
# (see `cascade_runner`).
MEMBERS_USED = "members_used"
MEMBER_STATUS = "member_status"
REMEDY = "write it again with rrr repository"


@dataclass(frozen=True)
class ServedModel:
    """One model of a repository.

    Attributes:
        name: its name in Triton and in URLs.
        version: its version in Triton.
        target: the engine's target.
        backend: Triton's backend that runs it: `PYTHON_BACKEND`, or a native one.
        members: M of the output (N, M, C).
        max_batch_size: the largest N.
        labels: C class names, in the order of the outputs.
        preprocess: how images become inputs.
        image_size: S of the input (N, S, S, 3).
        parameters: weights and biases of the network, as trained.
        macs: multiply-accumulates for one image.
        outputs: names of the output tensors.
        steps: the Triton models behind it where it is a Triton ensemble; clients have no use for them.
        engine: the engine folder it was made from, by its absolute path then; None where that is not known.
        engine_sha256: of that folder's manifest, which holds the digests of the engine's files.
        cascade: `k`, `tau` and `order` where the first k members may answer alone; None where all are always asked.
        confidence: temperatures, scores of sets and references of drift; None where none were fitted.
        embedding_dim: D of the output `embedding` (N, D); None where the engine was built without --embed.
    """

    name: str
    version: str
    target: str
    backend: str
    members: int
    max_batch_size: int
    labels: tuple[str, ...]
    preprocess: Preprocess
    image_size: int
    parameters: int
    macs: int
    outputs: tuple[str, ...]
    steps: tuple[str, ...] = ()
    engine: str | None = None
    engine_sha256: str | None = None
    cascade: Mapping[str, Any] | None = None
    confidence: Confidence | None = None
    embedding_dim: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_json` reads back."""
        document = {**asdict(self), "labels": list(self.labels), "outputs": list(self.outputs)}
        confidence = None if self.confidence is None else self.confidence.to_json()
        return {**document, "steps": list(self.steps), "confidence": confidence}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ServedModel":
        """Read what `to_json` wrote; keys of a later version are let pass."""
        known = {key: value for key, value in values.items() if key in cls.__dataclass_fields__}
        changed = {
            "labels": tuple(values["labels"]),
            "preprocess": Preprocess.from_json(values["preprocess"]),
            "outputs": tuple(values["outputs"]),
            "steps": tuple(values.get("steps", ())),
            "confidence": Confidence.from_json(values.get("confidence")),
        }
        return cls(**{**known, **changed})


@dataclass(frozen=True)
class Repository:
    """A Triton model repository.

    Attributes:
        path: its folder.
        models: the first is the default one.
        files: SHA-256 of each sealed file, by its path within the repository.
        digest: the seal over all its files: two repositories with the same one are the same.
    """

    path: Path
    models: tuple[ServedModel, ...]
    files: Mapping[str, str]
    digest: str

    @property
    def short_digest(self) -> str:
        """What answers and metrics call it by."""
        return self.digest[:12]

    def engine_folders(self, model: ServedModel) -> list[Path]:
        """Where the engine files of a model lie, each folder with a manifest: its own, and those of its steps."""
        folders = [self.path / name / model.version for name in (model.name, *model.steps)]
        return [path for path in folders if (path / MANIFEST).is_file()]

    def files_of(self, model: ServedModel) -> dict[str, str]:
        """SHA-256 of the files that a model runs on, those of its steps included."""
        folders = {model.name, *model.steps}
        return {path: sha256 for path, sha256 in self.files.items() if path.partition("/")[0] in folders}


def write_document(folder: Path, models: tuple[ServedModel, ...]) -> None:
    """Write `repository.json` into `folder` (see `sealed.staged`) and seal it with all that lies there."""
    document = {"format_version": FORMAT_VERSION, "models": [model.to_json() for model in models]}
    sealed.seal(folder, DOCUMENT, document)


def read_repository(path: Path) -> Repository:
    """Check every digest of the repository at `path`, then read what it serves.

    Raises:
        ArtifactError: not a repository, damaged, or of a format this version does not know.
    """
    document = sealed.read_sealed(path, DOCUMENT, remedy=REMEDY)
    repository = _understood(path, document)
    strangers = sealed.unlisted(path, DOCUMENT, document)
    if strangers:  # Triton loads every model and version it finds
        raise ArtifactError(f"{path} holds {', '.join(strangers[:3])}, which its seal does not list: {REMEDY}")
    return repository


def read_models(path: Path) -> Repository:
    """What the repository at `path` serves; its files must have been checked.

    Raises:
        ArtifactError: `repository.json` is missing, damaged, or of a format this version does not know.
    """
    return _understood(path, sealed.read_document(path, DOCUMENT, remedy=REMEDY))


def _understood(path: Path, document: dict[str, Any]) -> Repository:
    sealed.check_format(path / DOCUMENT, document, version=FORMAT_VERSION, command=_command(path, document))
    with sealed.describing(path / DOCUMENT, remedy=REMEDY):
        models = tuple(ServedModel.from_json(model) for model in document["models"])
    if not models:
        raise ArtifactError(f"{path / DOCUMENT} lists no model: {REMEDY}")
    files = {name: entry["sha256"] for name, entry in document["files"].items()}
    return Repository(path.absolute(), models, files, document["seal"])


def _command(path: Path, document: dict[str, Any]) -> str:
    """What writes the repository anew, as far as a document of any format tells."""
    models = document.get("models")
    engines = [model.get("engine") for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    known = [engine for engine in engines if isinstance(engine, str)]
    return shlex.join(["rrr", "repository", *(known or ["ENGINE..."]), "--out", str(path)])
