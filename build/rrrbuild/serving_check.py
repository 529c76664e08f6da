"""Whether this machine can run the engines of a repository, judged by their manifests before anything opens one."""

from pathlib import Path

from rrrbuild.engine import incompatibility
from rrrbuild.manifest import MANIFEST, REMEDY, read_engine
from rrrbuild.repository_document import PYTHON_BACKEND, Repository
from rrrbuild.targets import TARGETS
from rrrnet.errors import ArtifactError, IncompatibleError


def check_engines(repository: Repository) -> None:
    """Check each engine's target, runtime version, CPU features and GPU against this machine's.

    Engines that one of Triton's native backends runs are left to it: its runtime is not a Python package of ours.

    Args:
        repository: with all its digests checked.

    Raises:
        ArtifactError: a manifest in it is not one, or of an unknown target.
        IncompatibleError: an engine cannot run here; says what it was built for, and with which command.
    """
    for model in repository.models:
        if model.backend == PYTHON_BACKEND:
            for path in repository.engine_folders(model):
                _check(model.name, path)


def _check(name: str, path: Path) -> None:
    manifest = read_engine(path)
    target = TARGETS.get(manifest.target)
    if target is None:
        raise ArtifactError(
            f"{path / MANIFEST} is for the target {manifest.target!r}: this rrr knows {', '.join(TARGETS)}; {REMEDY}"
        )
    built_with = manifest.versions.get(target.family, "unknown")
    if obstacle := incompatibility(target, built_with, manifest.device["built_for"]):
        raise IncompatibleError(
            f"the model {name} cannot run here: {obstacle}. Its engine was built with: {manifest.command}; "
            "then run rrr repository again"
        )
