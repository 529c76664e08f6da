"""An engine of plan `split` as a Triton ensemble: Triton itself runs the members side by side, as models of their own.

NAME            ensemble: images -> probabilities
NAME-stem       images -> features
NAME-member-0.. features -> probabilities of one member, all at the same time
NAME-combine    Python backend: stacks them
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from rrrbuild.manifest import FEATURES, MODEL, OUTPUT, STEM, Manifest, member_part
from rrrbuild.plan_runner import SPLIT
from rrrbuild.repository_document import PYTHON_BACKEND
from rrrbuild.targets import Target
from rrrbuild.triton_config import CONFIG, described, model_config, write_config
from rrrbuild.triton_folder import copy_module, copy_modules, copy_part, files_of_plan
from rrrnet import processor
from rrrnet.errors import ArtifactError

Tensor = dict[str, Any]


def step_names(name: str, members: int) -> tuple[str, ...]:
    """The Triton models behind the ensemble `name`: stem, members, combine."""
    return (f"{name}-stem", *(f"{name}-member-{index}" for index in range(members)), f"{name}-combine")


def write_ensemble(
    name: str, version: str, manifest: Manifest, target: Target, folder: Path, *, backend: str, threads: int | None
) -> tuple[str, ...]:
    """Write the ensemble and its steps below `folder`, the repository.

    Args:
        name: the ensemble's.
        version: the ensemble's, and its steps'.
        manifest: of an engine that keeps plan `split`.
        target: the engine's.
        folder: the repository.
        backend: what runs stem and members.
        threads: CPU threads for one inference, which the members share; None leaves the stem's to the runtime.

    Returns:
        The steps' names.

    Raises:
        ArtifactError: the engine does not tell what its stem hands on.
    """
    if manifest.features is None:
        raise ArtifactError(f"{manifest.path} does not keep plan split: build it again with --plan split")
    members = manifest.architecture.members
    names = step_names(name, members)
    answer = {"name": OUTPUT, "dtype": "float32", "shape": manifest.outputs[0]["shape"][::2]}  # (N, M, C) to (N, C)
    share = processor.threads(threads).shared(members).count
    alone = replace(manifest, plan_by_batch={}, features=None)
    stem = replace(alone, plan=STEM, outputs=[manifest.features])
    _write_step(folder / names[0], version, stem, manifest, target, backend=backend, threads=threads)
    for index in range(members):
        member = replace(alone, plan=member_part(index), inputs=[manifest.features], outputs=[answer])
        _write_step(folder / names[1 + index], version, member, manifest, target, backend=backend, threads=share)
    answers = [{**answer, "name": member_part(index)} for index in range(members)]
    _write_combine(folder / names[-1], version, answers, manifest)
    copy_part(alone, {}, folder / name / version)  # Triton wants a version folder; the manifest is for people
    write_config(_ensemble(name, names, answers, manifest), folder / name / CONFIG)
    return names


def _write_step(
    folder: Path, number: str, step: Manifest, engine: Manifest, target: Target, *, backend: str, threads: int | None
) -> None:
    """A part of the engine as a model; its file gets the name that a whole engine's has."""
    version = folder / number
    files = files_of_plan(engine, SPLIT).items()
    own = {MODEL + file.removeprefix(step.plan): path for file, path in files if file.split(".")[0] == step.plan}
    copy_part(step, own, version)
    if backend == PYTHON_BACKEND:
        copy_modules(target, version)
    write_config(model_config(folder.name, step, target, backend=backend, threads=threads), folder / CONFIG)


def _write_combine(folder: Path, number: str, answers: list[Tensor], manifest: Manifest) -> None:
    version = folder / number
    version.mkdir(parents=True)
    copy_module("triton_combine", version / "model.py")
    config = pb.ModelConfig(
        name=folder.name,
        backend=PYTHON_BACKEND,
        max_batch_size=manifest.batch.max,
        default_model_filename="model.py",
        input=[pb.ModelInput(**described(answer)) for answer in answers],
        output=[pb.ModelOutput(**described(manifest.outputs[0]))],
        instance_group=[pb.ModelInstanceGroup(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)],
    )
    write_config(config, folder / CONFIG)


def _ensemble(name: str, names: tuple[str, ...], answers: list[Tensor], manifest: Manifest) -> Any:
    (images,), (probabilities,) = manifest.inputs, manifest.outputs
    stem, *members, combine = names
    handed = {answer["name"]: answer["name"] for answer in answers}
    steps = [(stem, {images["name"]: images["name"]}, {FEATURES: FEATURES})]
    steps += [(member, {FEATURES: FEATURES}, {OUTPUT: answer}) for member, answer in zip(members, handed, strict=True)]
    steps += [(combine, handed, {probabilities["name"]: probabilities["name"]})]
    return pb.ModelConfig(
        name=name,
        platform="ensemble",
        max_batch_size=manifest.batch.max,
        input=[pb.ModelInput(**described(images))],
        output=[pb.ModelOutput(**described(probabilities))],
        ensemble_scheduling=pb.ModelEnsembling(
            step=[
                pb.ModelEnsembling.Step(model_name=model, model_version=-1, input_map=inputs, output_map=outputs)
                for model, inputs, outputs in steps
            ]
        ),
    )
