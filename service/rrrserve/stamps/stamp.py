"""A claim travels with its artifact: `claims.json` beside a served model and beside the engine it was made from.

It holds, for each claim that names the model: the latest verdict, when and where it was reached, and the SHA-256 of the
files it is about, those of the model compared with included. The file carries a seal of its own and lies outside of the
folder's: a missing, edited or broken one takes its claims with it and nothing else. A seal finds accidents; it is no
signature.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rrrbuild.manifest import MANIFEST, read_engine
from rrrbuild.repository_document import Repository, ServedModel, read_repository
from rrrbuild.samples import is_sample
from rrrnet import sealed
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.files import check_writable
from rrrserve.stamps.verdict_document import Artifact, Entry, Stamp, Verdicts, WrittenVerdict

STAMP = sealed.APART
MAX_BYTES = 4 * 2**20
REMEDY = "write it again with rrr verify --stamp"
_TUNING = "tuning.json"  # rrr tune's notes; what it changes is config.pbtxt


def check_stampable(repository: Repository, names: Collection[str]) -> None:
    """Make sure, before long work, that claims about the models of these names can be stamped.

    Raises:
        UsageError: none of them is in the repository, or a folder cannot be written.
    """
    for model in _named_models(repository, names):
        for folder in _folders(repository, model):
            check_writable(folder / STAMP, option="--stamp")


def write_stamps(document: Mapping[str, Any], repository_path: Path) -> list[Path]:
    """Write the verdicts of a run beside the models they name, and beside the engines those were made from.

    Claims of earlier runs stay, each with its own time and environment; of two with the same name the later one does.

    Args:
        document: what `rrr verify --json` prints.
        repository_path: the repository that was measured.

    Returns:
        The files written. An engine folder that is gone, or holds another engine by now, gets none.

    Raises:
        ArtifactError: the repository is damaged.
        UsageError: no verdict names a model of the repository, or a folder cannot be written.
    """
    run = Verdicts.model_validate(document)
    repository = read_repository(repository_path)
    models = _named_models(repository, {name for verdict in run.verdicts for name in verdict.models})
    artifacts = {
        model.name: Artifact(
            target=model.target, engine_sha256=model.engine_sha256, files=files_compared(repository, model)
        )
        for model in models
    }
    written = []
    for model in models:
        entries = {item.name: entry_of(item, run, artifacts) for item in run.verdicts if model.name in item.models}
        for folder in _folders(repository, model):
            try:
                _merge(folder / STAMP, model.name, entries)
            except PermissionError as error:
                raise UsageError(f"--stamp: {folder} cannot be written: {error.strerror}") from error
            written.append(folder / STAMP)
    return written


def files_compared(repository: Repository, model: ServedModel) -> dict[str, str]:
    """SHA-256 of what Triton loads for a model, by path in the repository."""
    found = repository.files_of(model)
    return {path: sha256 for path, sha256 in found.items() if not path.endswith(f"/{_TUNING}") and not is_sample(path)}


def read_stamp(path: Path) -> Stamp:
    """The stamp at `path`.

    Raises:
        ArtifactError: it is no regular file, too large, changed, or of another shape. The message names no folder, so
            that it can be shown to clients.
    """
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ArtifactError(f"{STAMP} is no regular file of at most {MAX_BYTES} bytes")
    try:
        return Stamp.model_validate(sealed.read_alone(path, remedy=REMEDY))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{STAMP} is not of the format that this rrr reads: {place}: {first['msg']}") from error
    except (ArtifactError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{STAMP} was changed after it was written") from error
    except OSError as error:
        raise ArtifactError(f"{STAMP} cannot be read: {error.strerror}") from error


def entry_of(verdict: WrittenVerdict, run: Verdicts, artifacts: Mapping[str, Artifact]) -> Entry:
    """A verdict with what a stamp keeps of its run, and those of `artifacts` that it names."""
    return Entry(
        verdict=verdict,
        verified_at=run.started,
        confidence=run.confidence,
        source=run.source,
        claims=run.claims,
        environment=run.environment,
        artifacts={name: artifacts[name] for name in verdict.models if name in artifacts},
    )


def _named_models(repository: Repository, names: Collection[str]) -> list[ServedModel]:
    """The models of a repository that claims name.

    Raises:
        UsageError: none.
    """
    models = [model for model in repository.models if model.name in names]
    if not models:
        held = ", ".join(model.name for model in repository.models)
        raise UsageError(
            f"no claim names a model of {repository.path}: they are about {', '.join(sorted(names)) or 'none'}, "
            f"and it holds {held}; the claims must name models as the repository does"
        )
    return models


def _folders(repository: Repository, model: ServedModel) -> list[Path]:
    """Where a model's stamp is written."""
    return [repository.path / model.name, *_engine_folder(model)]


def _engine_folder(model: ServedModel) -> list[Path]:
    """The engine folder that a model came from, if it is there and still holds that engine, undamaged."""
    if model.engine is None:
        return []
    folder = Path(model.engine)
    try:
        read_engine(folder)
    except ArtifactError:
        return []
    return [folder] if sealed.sha256_of(folder / MANIFEST) == model.engine_sha256 else []


def _merge(path: Path, model: str, entries: Mapping[str, Entry]) -> None:
    """Add claims to a stamp; an unreadable one is replaced."""
    try:
        kept = read_stamp(path).claims
    except ArtifactError:
        kept = {}
    newer = {
        name: entry
        for name, entry in entries.items()
        if name not in kept or entry.verified_at >= kept[name].verified_at
    }
    sealed.seal_alone(path, Stamp(model=model, claims={**kept, **newer}).model_dump(mode="json"))
