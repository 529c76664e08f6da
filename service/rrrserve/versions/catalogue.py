"""Questions about the models of a repository."""

from rrrbuild.repository_document import Repository, ServedModel
from rrrnet.errors import UsageError


def default_model(repository: Repository, name: str | None, *, called: str = "the default model") -> ServedModel:
    """The model of that name, or the repository's first; `called` is what an error calls it.

    Raises:
        UsageError: the repository holds no such model.
    """
    for model in repository.models:
        if name in (None, model.name):
            return model
    known = ", ".join(model.name for model in repository.models)
    raise UsageError(f"{called} is {name!r}: {repository.path} holds {known}")


def backends_of(repository: Repository) -> frozenset[str]:
    """The Triton backends its models run on; an ensemble's last step is one of the Python backend."""
    names = {model.backend for model in repository.models}
    return frozenset(names | {"python" for model in repository.models if model.steps})
