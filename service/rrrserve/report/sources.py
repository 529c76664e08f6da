"""Which artifacts a report is about: given by path, or found by the model's name where rrr puts them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rrrbuild.manifest import MANIFEST, Manifest, read_engine
from rrrbuild.repository_document import DOCUMENT as REPOSITORY
from rrrbuild.repository_document import Repository, ServedModel, read_repository
from rrrnet.checkpoint import DOCUMENT as CHECKPOINT
from rrrnet.checkpoint import Checkpoint, read_checkpoint
from rrrnet.errors import ArtifactError, UsageError

ARTIFACTS = Path("artifacts")


@dataclass
class Sources:
    """The artifacts of one model.

    Attributes:
        name: the model's.
        checkpoint: where it was found.
        engines: undamaged ones, in the order of their targets.
        repository: that serves the model.
        served: the model in it.
        damaged: what was found by name but cannot be used, and why.
    """

    name: str
    checkpoint: Checkpoint | None = None
    engines: list[Manifest] = field(default_factory=list)
    repository: Repository | None = None
    served: ServedModel | None = None
    damaged: list[str] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """What verdicts and bench results may call it."""
        return {self.name, *([self.served.name] if self.served else [])}


def find_sources(
    model: str, *, repository: Path | None = None, checkpoint: Path | None = None, engines: Sequence[Path] = ()
) -> Sources:
    """Collect the artifacts of a model.

    Args:
        model: a checkpoint, an engine, a repository, or a name; the rest is looked for beside it, or in `artifacts`.
        repository: a repository to use instead of the one that is found.
        checkpoint: a checkpoint instead of the one that is found.
        engines: engines instead of those that are found.

    Raises:
        ArtifactError: nothing is known about the model, or what was given is damaged or of another network.
        UsageError: a repository of several models is given without a name.
    """
    root = ARTIFACTS
    path = Path(model)
    name = model
    if (path / CHECKPOINT).is_file():
        checkpoint, root = checkpoint or path, _root(path, "models", 1)
        name = read_checkpoint(path).name
    elif (path / MANIFEST).is_file():
        engines, root = [*engines, path], _root(path, "engines", 2)
        name = read_engine(path).name
    elif (path / REPOSITORY).is_file():
        repository, root = path, path.absolute().parent
        name = _only_model(path)
    elif len(path.parts) > 1:
        state = f"holds no {CHECKPOINT}, {MANIFEST} or {REPOSITORY}" if path.is_dir() else "does not exist"
        raise ArtifactError(f"{path} {state}: give a checkpoint, an engine, a repository or a model's name")
    found = Sources(name)
    _find_repository(found, repository, root)
    _find_engines(found, engines, root)
    _find_checkpoint(found, checkpoint, root)
    _check(found, root)
    return found


def _root(path: Path, folder: str, depth: int) -> Path:
    """The folder of all artifacts that `path` lies in, if it lies where rrr puts it."""
    parents = path.absolute().parents
    return parents[depth] if len(parents) > depth and parents[depth - 1].name == folder else ARTIFACTS


def _only_model(path: Path) -> str:
    models = read_repository(path).models
    if len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise UsageError(f"{path} holds {names}: say which, like rrr report {models[0].name} --repository {path}")
    return models[0].name


def _find_repository(found: Sources, given: Path | None, root: Path) -> None:
    path = given or root / "repository"
    if given is None and not (path / REPOSITORY).is_file():
        return
    try:
        repository = read_repository(path)
    except ArtifactError as error:
        if given is not None:
            raise
        found.damaged.append(str(error))
        return
    for model in repository.models:
        if found.name in (model.name, _made_from(repository, model).name):
            found.repository, found.served = repository, model
            found.name = _made_from(repository, model).name
            return
    if given is not None:
        names = ", ".join(model.name for model in repository.models)
        raise ArtifactError(f"{path} does not serve {found.name}: it holds {names}")


def _made_from(repository: Repository, model: ServedModel) -> Manifest:
    return read_engine(repository.path / model.name / model.version)


def _find_engines(found: Sources, given: Sequence[Path], root: Path) -> None:
    folders = list(given) or sorted(path.parent for path in root.glob(f"engines/{_literal(found.name)}/*/{MANIFEST}"))
    for folder in folders:
        try:
            found.engines.append(read_engine(folder))
        except ArtifactError as error:
            if given:
                raise
            found.damaged.append(str(error))
    if found.repository is not None and found.served is not None and not given:
        digests = {_digests(engine) for engine in found.engines}
        served = _made_from(found.repository, found.served)
        if served.files and _digests(served) not in digests:
            found.engines.append(served)
    found.engines.sort(key=lambda engine: engine.target)


def _literal(name: str) -> str:
    """A name in a glob pattern: hostile names match nothing but themselves."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _digests(engine: Manifest) -> frozenset[str]:
    return frozenset(entry["sha256"] for entry in engine.files.values())


def _find_checkpoint(found: Sources, given: Path | None, root: Path) -> None:
    path = given or root / "models" / found.name
    if given is None and not (path / CHECKPOINT).is_file():
        return
    try:
        found.checkpoint = read_checkpoint(path)
    except ArtifactError as error:
        if given is not None:
            raise
        found.damaged.append(str(error))


def _check(found: Sources, root: Path) -> None:
    """Refuse what is about nothing, or about several networks."""
    if found.checkpoint is None and not found.engines and found.served is None:
        if found.damaged:
            raise ArtifactError("; ".join(found.damaged))
        raise ArtifactError(
            f"nothing is known about {found.name!r}: there is no {root}/models/{found.name}, no engine in "
            f"{root}/engines/{found.name}, and no model of that name in {root}/repository; give a path, or "
            "--checkpoint, --engine or --repository"
        )
    shapes = {str(path): architecture for path, architecture in _shapes(found)}
    first, *others = shapes
    for other in others:
        if shapes[other] != shapes[first]:
            raise ArtifactError(f"{other} is another network than {first}: a report is about one")


def _shapes(found: Sources) -> Iterator[tuple[Path, object]]:
    if found.checkpoint is not None:
        yield found.checkpoint.path, (found.checkpoint.architecture, found.checkpoint.labels)
    for engine in found.engines:
        yield engine.path, (engine.architecture, engine.labels)
