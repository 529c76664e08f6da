"""Questions about the models of a repository."""

from rrrbuild.repository_document import Repository, ServedModel
from rrrnet.errors import UsageError
from rrrserve.config.routes import DEFAULT
from rrrserve.config.service_config import ServiceConfig


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


def asked_by_default(repository: Repository, config: ServiceConfig) -> ServedModel:
    """The default model of a service, once every model is there that its settings name.

    Raises:
        UsageError: one is not, or a route has the name of a model.
    """
    default = default_model(repository, config.default_model)
    for route in config.routes:
        for name in route.weights:
            default_model(repository, name, called=f"a model of --route {route.name}")
        if route.name in {model.name for model in repository.models}:
            raise UsageError(f"--route {route.name} has the name of a model of {repository.path}: name it otherwise")
    if config.shadow is not None:
        default_model(repository, config.shadow, called="--shadow (RRR_SHADOW)")
        if answering(config, default) == {config.shadow}:
            raise UsageError(f"--shadow (RRR_SHADOW) is {config.shadow!r}, which /v1/predict asks anyway: name another")
    return default


def answering(config: ServiceConfig, default: ServedModel) -> set[str]:
    """The models that answer requests which name none of them."""
    routed = {name for route in config.routes for name in route.weights}
    return routed | (set() if any(route.name == DEFAULT for route in config.routes) else {default.name})


def backends_of(repository: Repository) -> frozenset[str]:
    """The Triton backends its models run on; an ensemble's last step is one of the Python backend."""
    names = {model.backend for model in repository.models}
    return frozenset(names | {"python" for model in repository.models if model.steps})
