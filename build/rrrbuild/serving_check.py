"""Whether this machine can run the engines of a repository, judged by their manifests before anything opens one."""

from pathlib import Path

from rrrbuild.engine import distrust, unfitness
from rrrbuild.manifest import MANIFEST, REMEDY, read_engine
from rrrbuild.repository_document import PYTHON_BACKEND, Repository
from rrrbuild.targets import TARGETS
from rrrnet.errors import ArtifactError, IncompatibleError


def check_engines(repository: Repository) -> None:
    """Check each engine's target, runtime version, CPU features and GPU against this machine's; see `obstacles`.

    Raises:
        ArtifactError: a manifest in it is not one, or of an unknown target.
        IncompatibleError: an engine cannot run here; says what it was built for, and with which command.
    """
    for name, obstacle in obstacles(repository).items():
        raise IncompatibleError(f"the model {name} cannot run here: {obstacle}; then run rrr repository again")


def obstacles(repository: Repository) -> dict[str, str]:
    """Why models cannot run here, by name; those that can are left out.

    Of engines that one of Triton's native backends runs, only that is judged for which CPU they were verified: the rest
    is left to it, for its runtime is not a Python package of ours.

    Args:
        repository: with all its digests checked.

    Raises:
        ArtifactError: a manifest in it is not one, or of an unknown target.
    """
    found: dict[str, str] = {}
    for model in repository.models:
        for path in repository.engine_folders(model):
            if obstacle := _obstacle(path, native=model.backend != PYTHON_BACKEND):
                found.setdefault(model.name, obstacle)
    return found


def _obstacle(path: Path, *, native: bool) -> str | None:
    manifest = read_engine(path)
    target = TARGETS.get(manifest.target)
    if target is None:
        raise ArtifactError(
            f"{path / MANIFEST} is for the target {manifest.target!r}: this rrr knows {', '.join(TARGETS)}; {REMEDY}"
        )
    obstacle = (distrust if native else unfitness)(manifest, target)
    return obstacle and f"{obstacle}. Its engine was built with: {manifest.command}"
