"""Engines to a Triton model repository: one folder for each model, sealed as a whole.

REPO/repository.json
REPO/NAME/config.pbtxt
REPO/NAME/1/     the engine folder's files, its manifest; for the Python backend model.py and runtime.py
"""

import importlib.resources
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from rrrbuild.manifest import MANIFEST, Manifest, read_engine
from rrrbuild.repository_document import DOCUMENT, Repository, ServedModel, read_repository, write_document
from rrrbuild.targets import Target, target_named
from rrrbuild.triton_config import CONFIG, PYTHON_BACKEND, model_config, write_config
from rrrnet import sealed
from rrrnet.architecture import cost
from rrrnet.errors import IncompatibleError, UsageError

VERSION = "1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def write_repository(
    engines: Sequence[Path],
    out: Path,
    *,
    backends: frozenset[str],
    names: Sequence[str] = (),
    threads: int | None = None,
) -> Repository:
    """Write a model repository; nothing is left at `out` if any step fails.

    Args:
        engines: engine folders; the first is the default model.
        out: the repository's folder.
        backends: what the Triton that will serve it has; a native one is used where it fits, else `python`.
        names: the models' names, one for each engine; by default the engines' own.
        threads: CPU threads for one inference; None leaves the choice to the runtime.

    Raises:
        UsageError: two models of one name, a name that Triton or a URL could not hold, or no engines.
        ArtifactError: an engine is damaged.
        IncompatibleError: no backend fits an engine.
    """
    if not engines:
        raise UsageError("no engines are given: name at least one folder that rrr build wrote")
    if names and len(names) != len(engines):
        raise UsageError(f"{len(names)} names are given for {len(engines)} engines: give one for each, or none")
    manifests = [read_engine(path) for path in engines]
    chosen = list(names) or [manifest.name for manifest in manifests]
    _check_names(chosen, engines)
    with sealed.staged(out, document=DOCUMENT) as folder:
        models = tuple(
            _write_model(name, manifest, folder / name, backends=backends, threads=threads)
            for name, manifest in zip(chosen, manifests, strict=True)
        )
        write_document(folder, models)
        for model in models:
            if model.backend == PYTHON_BACKEND:
                # Triton's embedded Python ignores PYTHONDONTWRITEBYTECODE. A file where its folder would be keeps it
                # from leaving bytecode that no digest covers; not sealed itself, since tools drop it when copying.
                (folder / model.name / VERSION / "__pycache__").touch()
    return read_repository(out)


def _check_names(names: Sequence[str], engines: Sequence[Path]) -> None:
    for index, name in enumerate(names):
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be a model's name: letters, digits, '.', '_' and '-' are allowed, at most 64; "
                "choose another with --name"
            )
        if name in names[:index]:
            raise UsageError(
                f"{engines[names.index(name)]} and {engines[index]} are both named {name}: a repository holds one "
                "model of each name; leave one out, or give each engine a name with --name"
            )


def _write_model(
    name: str, manifest: Manifest, folder: Path, *, backends: frozenset[str], threads: int | None
) -> ServedModel:
    target = target_named(manifest.target)
    backend = choose_backend(target, backends)
    version = folder / VERSION
    version.mkdir(parents=True)
    for file in [MANIFEST, *manifest.files]:
        shutil.copyfile(manifest.path / file, version / file)
    if backend == PYTHON_BACKEND:
        source = importlib.resources.files("rrrbuild")
        for module, file in (("triton_model", "model.py"), (target.runtime_module, "runtime.py")):
            (version / file).write_bytes(source.joinpath(f"{module}.py").read_bytes())
    write_config(model_config(name, manifest, target, backend=backend, threads=threads), folder / CONFIG)
    totals = cost(manifest.architecture, manifest.preprocess.size)["total"]
    return ServedModel(
        name=name,
        version=VERSION,
        target=target.name,
        backend=backend,
        members=manifest.architecture.members,
        max_batch_size=manifest.batch.max,
        labels=manifest.labels,
        preprocess=manifest.preprocess,
        image_size=manifest.preprocess.size,
        parameters=totals["parameters"],
        macs=totals["macs"],
        outputs=tuple(output["name"] for output in manifest.outputs),
    )


def choose_backend(target: Target, backends: frozenset[str]) -> str:
    """The target's native backend where the server has it, else the Python backend with our `model.py`.

    Raises:
        IncompatibleError: the server has neither.
    """
    if target.backend in backends:
        return str(target.backend)
    if PYTHON_BACKEND in backends:
        return PYTHON_BACKEND
    wanted = " or ".join(name for name in (target.backend, PYTHON_BACKEND) if name)
    found = ", ".join(sorted(backends)) or "none"
    raise IncompatibleError(f"{target.name} needs Triton's backend {wanted}, but this tritonserver has {found}")
