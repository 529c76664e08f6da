"""One version of the repository as the HTTP workers find it: a private copy, and where its Triton is.

    FOLDER/versions/NUMBER/repository/     what was checked, and what Triton opens; see `copy_repository`
    FOLDER/versions/NUMBER/version.json    the rest

The copy keeps a running version whole: Triton that is started again, and a worker that is, read what they read before,
whatever has been put in the place of the user's folder since.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from rrrbuild.repository_document import DOCUMENT, REMEDY, Repository, ServedModel, read_models, read_repository
from rrrbuild.samples import is_sample
from rrrbuild.triton_folder import keep_bytecode_out
from rrrnet.errors import FULL_DISK, ArtifactError, NoSpaceError
from rrrserve.versions.catalogue import default_model

_DOCUMENT = "version.json"
_REPOSITORY = "repository"


@dataclass(frozen=True)
class Version:
    """What a worker answers from.

    Attributes:
        number: counted from 1; each reload makes a new one.
        repository: what is served: the private copy.
        source: the folder it was copied from, where claims may be stamped on it later.
        default: the model that /v1/predict asks.
        triton_url: target of its Triton's gRPC, or of several (see `rrrserve.net.targets`).
        triton_metrics_url: URL of that Triton's metrics, if it is known.
    """

    number: int
    repository: Repository
    source: Path
    default: ServedModel
    triton_url: str
    triton_metrics_url: str | None


def version_folder(service: Path, number: int) -> Path:
    """Where a version lies in the private folder of a service."""
    return service / "versions" / str(number)


def write_version(service: Path, version: Version) -> None:
    """Write what `read_version` reads; the copy of the repository is there already."""
    document = {
        "source": str(version.source),
        "default": version.default.name,
        "triton_url": version.triton_url,
        "triton_metrics_url": version.triton_metrics_url,
    }
    (version_folder(service, version.number) / _DOCUMENT).write_text(json.dumps(document), encoding="utf-8")


def read_version(service: Path, number: int) -> Version:
    """A version that the supervisor has written, and whose files it has checked."""
    folder = version_folder(service, number)
    document = json.loads((folder / _DOCUMENT).read_text(encoding="utf-8"))
    repository = read_models(folder / _REPOSITORY)
    default = default_model(repository, document["default"])
    return Version(
        number,
        repository,
        Path(document["source"]),
        default,
        document["triton_url"],
        document["triton_metrics_url"],
    )


def copy_repository(source: Repository, folder: Path, *, with_engines: bool) -> Repository:
    """Copy a repository into the private folder of a version, and check the copy: that one is served.

    Args:
        source: has been checked.
        folder: the version's.
        with_engines: false copies what workers need, samples too, for a Triton that is not ours.

    Raises:
        ArtifactError: the source was changed since it was checked.
        NoSpaceError: there is no room for the copy.
    """
    target = folder / _REPOSITORY
    try:
        target.mkdir(parents=True)
        for name in (DOCUMENT, *(name for name in source.files if with_engines or is_sample(name))):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, target / name)
        keep_bytecode_out(target)
        copy = read_repository(target) if with_engines else read_models(target)
    except ArtifactError as error:
        raise ArtifactError(f"{source.path} was changed while it was being copied ({error})") from error
    except OSError as error:
        if error.errno in FULL_DISK:
            raise NoSpaceError(
                f"no space left in {folder.parent.parent.parent} for a private copy of {source.path}: free some space, "
                "or let TMPDIR name a folder on a larger disk"
            ) from error
        if isinstance(error, FileNotFoundError):
            raise ArtifactError(f"{source.path} was changed while it was being copied: {error.filename}") from error
        raise
    if copy.digest != source.digest:
        raise ArtifactError(f"{source.path} was changed while it was being copied: {REMEDY}")
    return copy


def remove_version(service: Path, number: int) -> None:
    """Remove a version that is served no more."""
    shutil.rmtree(version_folder(service, number), ignore_errors=True)
