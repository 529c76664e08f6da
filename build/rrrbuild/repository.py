"""Engines to a Triton model repository: one folder for each model, sealed as a whole.

REPO/repository.json
REPO/NAME/config.pbtxt
REPO/NAME/1/     the engine folder's files, its manifest; for the Python backend model.py and what that loads
REPO/NAME@2/2/   likewise, of a model that is there in several versions. Each is a model of its own for Triton, which
                 has one config.pbtxt, with one shape of the output, for all versions in a folder
REPO/NAME/samples/   of the first model, where there are any (samples.py)

An engine of plan `split` may become several models (triton_ensemble.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rrrbuild.manifest import MANIFEST, Manifest, read_engine
from rrrbuild.plan_runner import CASCADE, SPLIT
from rrrbuild.repository_document import (
    DOCUMENT,
    MEMBER_SECONDS,
    MEMBER_STATUS,
    MEMBERS_USED,
    PYTHON_BACKEND,
    Repository,
    ServedModel,
    read_repository,
    write_document,
)
from rrrbuild.samples import write_samples
from rrrbuild.targets import Target, target_named
from rrrbuild.triton_config import CONFIG, model_config, write_config
from rrrbuild.triton_ensemble import step_names, write_ensemble
from rrrbuild.triton_folder import (
    copy_engine,
    copy_modules,
    copy_part,
    files_of_plan,
    keep_bytecode_out,
)
from rrrnet import sealed
from rrrnet.data.dataset import MAX_PIXELS
from rrrnet.errors import IncompatibleError, UsageError
from rrrnet.names import check_model_name, name_and_version
from rrrnet.network.architecture import cost

PROCESS, ENSEMBLE = "process", "ensemble"
# What the service needs to know of a cascade; the engine's manifest has the rest.
SERVED_OF_CASCADE = ("k", "tau", "order", "share_early", "cost_ms")
Report = Callable[[str], None]


def write_repository(
    engines: Sequence[Path],
    out: Path,
    *,
    backends: frozenset[str],
    names: Sequence[str] = (),
    threads: int | None = None,
    split_as: str | None = None,
    samples: Sequence[tuple[Path, str]] = (),
    report: Report = lambda _: None,
) -> Repository:
    """Write a model repository; nothing is left at `out` if any step fails.

    Args:
        engines: engine folders; the first is the default model.
        out: the repository's folder.
        backends: what the Triton that will serve it has; a native one is used where it fits, else `python`.
        names: the models' names, one for each engine, NAME or NAME@VERSION; by default the engines' own.
        threads: CPU threads for one inference; None leaves the choice to the runtime.
        split_as: engines of plan `split` as `process`, one Python process that runs the members side by side, or as
            `ensemble`, a Triton ensemble of a model for each member; None takes the ensemble where a native backend
            runs the engine.
        samples: files of images that decode, and their labels, to lie beside the first model.
        report: is told what of an engine is not used.

    Raises:
        UsageError: two models of one name, a name that Triton or a URL could not hold, no engines, or none of plan
            `split` though `split_as` is given.
        ArtifactError: an engine is damaged.
        IncompatibleError: no backend fits an engine.
    """
    if not engines:
        raise UsageError("no engines are given: name at least one folder that rrr build wrote")
    if names and len(names) != len(engines):
        raise UsageError(f"{len(names)} names are given for {len(engines)} engines: give one for each, or none")
    manifests = [read_engine(path) for path in engines]
    chosen = list(names) or [manifest.name for manifest in manifests]
    _check_names(chosen, engines, [manifest.architecture.members for manifest in manifests])
    if split_as is not None:
        _check_split_as(split_as, manifests)
    with sealed.staged(out, document=DOCUMENT) as folder:
        models = tuple(
            _write_model(name, manifest, folder, backends=backends, threads=threads, split_as=split_as, report=report)
            for name, manifest in zip(chosen, manifests, strict=True)
        )
        if samples:
            write_samples(samples, folder / chosen[0], max_pixels=MAX_PIXELS)
        write_document(folder, models)
        keep_bytecode_out(folder)
    return read_repository(out)


def _check_names(names: Sequence[str], engines: Sequence[Path], members: Sequence[int]) -> None:
    for index, name in enumerate(names):
        base, _ = name_and_version(name)
        check_model_name(base, remedy=lambda allowed: f"choose another with --name, e.g. --name {allowed}")
        if name in names[:index]:
            raise UsageError(
                f"{engines[names.index(name)]} and {engines[index]} are both named {name}: a repository holds one "
                "model of each name; leave one out, or give each engine a name with --name"
            )
        if taken := set(step_names(name, members[index])).intersection(names):
            raise UsageError(
                f"{', '.join(taken)} would be a step of {name} as an ensemble: choose another name with --name"
            )


def _check_split_as(split_as: str, manifests: Sequence[Manifest]) -> None:
    if split_as not in (PROCESS, ENSEMBLE):
        raise UsageError(f"--split-as is {split_as!r}: allowed are {PROCESS} and {ENSEMBLE}")
    if not any(manifest.plan == SPLIT for manifest in manifests):
        plans = ", ".join(f"{manifest.name} is {manifest.plan}" for manifest in manifests)
        raise UsageError(f"--split-as is for engines of plan split ({plans}): build one with rrr build --plan split")


def _write_model(
    name: str,
    manifest: Manifest,
    folder: Path,
    *,
    backends: frozenset[str],
    threads: int | None,
    split_as: str | None,
    report: Report,
) -> ServedModel:
    """One engine as one model of the repository `folder`, or as an ensemble of several."""
    target, (_, version) = target_named(manifest.target), name_and_version(name)
    split = manifest.plan == SPLIT
    one_file = manifest.plan != CASCADE and not (split and split_as == PROCESS)
    backend = choose_backend(target, backends, one_file=one_file)
    ensemble = split and (split_as or (PROCESS if backend == PYTHON_BACKEND else ENSEMBLE)) == ENSEMBLE
    if (ensemble or backend != PYTHON_BACKEND) and len(manifest.kept_plans) > 1:
        what = "an ensemble runs" if ensemble else f"the backend {backend} runs"
        report(f"{name}: {what} one plan for every batch size, so only {manifest.plan} is used")
    engine, engine_sha256 = str(manifest.path), sealed.sha256_of(manifest.path / MANIFEST)
    steps: tuple[str, ...] = ()
    if ensemble:
        if PYTHON_BACKEND not in backends:
            raise IncompatibleError(f"{name} as an ensemble needs Triton's backend python, which this server lacks")
        steps = write_ensemble(name, version, manifest, target, folder, backend=backend, threads=threads)
    else:
        manifest = _write_single(name, version, manifest, target, folder / name, backend=backend, threads=threads)
    totals = cost(manifest.architecture, manifest.preprocess.size)["total"]
    return ServedModel(
        name=name,
        version=version,
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
        steps=steps,
        engine=engine,
        engine_sha256=engine_sha256,
        cascade=manifest.cascade and {key: manifest.cascade[key] for key in SERVED_OF_CASCADE},
        confidence=manifest.confidence,
        embedding_dim=manifest.embedding_dim,
    )


def _write_single(
    name: str, number: str, manifest: Manifest, target: Target, folder: Path, *, backend: str, threads: int | None
) -> Manifest:
    """An engine as one model; returns what the model is, which has one more output where members are timed."""
    version = folder / number
    if backend == PYTHON_BACKEND:
        copy_engine(manifest, version)
        copy_modules(target, version)
        members = manifest.architecture.members
        outputs = []
        if SPLIT in manifest.kept_plans:
            outputs += [{"name": MEMBER_SECONDS, "dtype": "float32", "shape": [-1, members]}]
        if {SPLIT, CASCADE}.intersection(manifest.kept_plans):
            outputs += [
                {"name": MEMBERS_USED, "dtype": "int32", "shape": [-1, 1]},
                {"name": MEMBER_STATUS, "dtype": "uint8", "shape": [-1, members]},
            ]
        manifest = replace(manifest, outputs=[*manifest.outputs, *outputs])
    else:
        copy_part(replace(manifest, plan_by_batch={}), files_of_plan(manifest, manifest.plan), version)
    write_config(model_config(name, manifest, target, backend=backend, threads=threads), folder / CONFIG)
    return manifest


def choose_backend(target: Target, backends: frozenset[str], *, one_file: bool = True) -> str:
    """The target's native backend where the server has it, else the Python backend with our `model.py`.

    Args:
        target: the engine's.
        backends: the server's.
        one_file: whether a model is one engine file; a native backend opens no more.

    Raises:
        IncompatibleError: the server has neither.
    """
    native = target.backend if one_file else None
    if native in backends:
        return str(native)
    if PYTHON_BACKEND in backends:
        return PYTHON_BACKEND
    wanted = " or ".join(name for name in (native, PYTHON_BACKEND) if name)
    found = ", ".join(sorted(backends)) or "none"
    raise IncompatibleError(f"{target.name} needs Triton's backend {wanted}, but this tritonserver has {found}")
