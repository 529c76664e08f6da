"""Load an engine folder and call it: checked first, refused with advice where it cannot run, then deserialised."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rrrbuild import cascade_runner, lazy, machine, plan_runner
from rrrbuild.answers import Answers, answers_of
from rrrbuild.cascade_runner import AUTO, EFFORTS, FULL
from rrrbuild.manifest import Manifest, how_to_embed, read_engine, to_document
from rrrbuild.targets import EXACT_INT8, TARGETS, Target, int8_kernels, run_obstacle
from rrrnet import processor
from rrrnet.data.given import ImageLike, as_input, several
from rrrnet.errors import ArtifactError, IncompatibleError, UsageError
from rrrnet.images.preprocess import Uint8Array

Float32Array = plan_runner.Probabilities
Runner = plan_runner.Run
_NO_IMAGES = "no images are given: give one at least"


@dataclass(frozen=True)
class Engine:
    """A loaded engine, for one caller at a time."""

    manifest: Manifest
    runner: Runner

    @property
    def efforts(self) -> tuple[str, ...]:
        """The efforts that ask different members; `full` alone without a cascade."""
        return EFFORTS if self.manifest.cascade else (FULL,)

    def __call__(self, images: Uint8Array, *, effort: str = AUTO) -> Float32Array:
        """Probabilities of each member.

        Args:
            images: shape (N, S, S, 3), uint8 RGB of the manifest's size; any N, run in batches of at most `batch.max`.
            effort: one of `cascade_runner.EFFORTS`; without a cascade each asks all members.

        Returns:
            Shape (N, M, C), float32; each (n, m) row sums to 1, or is NaN for a member that was not asked.

        Raises:
            UsageError: another shape or dtype, or an unknown effort.
        """
        check_effort(effort)
        size, largest = self.manifest.preprocess.size, self.manifest.batch.max
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3) or len(images) == 0:
            raise UsageError(
                f"images have shape {images.shape} and dtype {images.dtype}: "
                f"{self.manifest.name} takes (N, {size}, {size}, 3) uint8 with N at least 1"
            )
        images = np.ascontiguousarray(images)
        batches = [images[start : start + largest] for start in range(0, len(images), largest)]
        if self.manifest.cascade is None:
            return np.concatenate([self.runner(batch) for batch in batches])
        return np.concatenate([plan_runner.ask(self.runner, batch, [effort] * len(batch)) for batch in batches])

    def embed(self, images: ImageLike | Iterable[ImageLike]) -> Float32Array:
        """Embeddings of images, which are decoded and resized as the service does it, a batch at a time.

        Args:
            images: as of `predict`.

        Returns:
            Shape (N, D), float32; each row has length 1, so that a product of two is their cosine.

        Raises:
            UsageError: the engine gives none, no image, or something that is none.
            ImageError: one that cannot be read; says which.
        """
        manifest = self.manifest
        if manifest.embedding_dim is None:
            raise UsageError(f"{manifest.path} gives no embeddings: {how_to_embed(manifest.target)}")
        left, found = iter(several(images)), []
        while batch := [as_input(image, manifest.preprocess) for image in islice(left, manifest.batch.max)]:
            found.append(plan_runner.embed(self.runner, np.stack(batch)))
        if not found:
            raise UsageError(_NO_IMAGES)
        return np.concatenate(found)

    def predict(self, images: ImageLike | Iterable[ImageLike], *, effort: str = AUTO) -> Answers:
        """What is on images, which are decoded and resized as the service does it, a batch at a time.

        Args:
            images: one or several: paths, encoded bytes, uint8 arrays (H, W, 3) of RGB or (H, W) of grey, PIL images.
            effort: of a cascade, which members are asked: "fast", "auto" or "full".

        Raises:
            UsageError: no image, something that is none, or an unknown effort.
            ImageError: one that cannot be read; says which.
        """
        manifest = self.manifest
        found = []
        left = iter(several(images))
        while batch := [as_input(image, manifest.preprocess) for image in islice(left, manifest.batch.max)]:
            found.append(self(np.stack(batch), effort=effort))
        if not found:
            raise UsageError(_NO_IMAGES)
        answering = effort if effort in self.efforts else FULL
        return answers_of(np.concatenate(found), manifest.labels, manifest.confidence, answering)


def check_effort(effort: str) -> None:
    """Check an effort's name.

    Raises:
        UsageError: it is none; lists them.
    """
    if effort not in EFFORTS:
        raise UsageError(f"--effort is {effort!r}: allowed are {', '.join(EFFORTS)}")


def load_engine(path: Path, *, threads: int | None = None) -> Engine:
    """Check the engine folder at `path` and load it.

    Args:
        path: the folder.
        threads: CPU threads for one inference; None leaves the choice to the runtime.

    Raises:
        ArtifactError: damaged, or of an unknown target.
        IncompatibleError: it cannot run on this machine; says what it was built for and how to rebuild it.
    """
    manifest = read_engine(path)
    target = TARGETS.get(manifest.target)
    if target is None:
        raise ArtifactError(f"{path} is for the target {manifest.target!r}: this rrr knows {', '.join(TARGETS)}")
    if obstacle := unfitness(manifest, target):
        raise IncompatibleError(f"{path} cannot run here: {obstacle}. It was built with: {manifest.command}")
    return Engine(manifest, load_runner(manifest.path, target, to_document(manifest), threads=threads))


def load_runner(folder: Path, target: Target, document: Mapping[str, Any], *, threads: int | None) -> Runner:
    """Deserialise the files in `folder`, which must have been checked. `document` is the manifest as JSON holds it.

    Raises:
        IncompatibleError: the runtime refuses undamaged files; carries its words.
    """
    runtime = lazy.runtime(target)
    try:
        return plan_runner.load(runtime, cascade_runner, folder, document, processor.threads(threads))
    except Exception as error:  # each runtime raises its own types
        raise IncompatibleError(f"{target.family} cannot load {folder}: {error}") from error


def unfitness(manifest: Manifest, target: Target) -> str | None:
    """Why this machine must not run an engine, judged by its manifest; None if it may."""
    built_with = manifest.versions.get(target.family, "unknown")
    return incompatibility(target, built_with, manifest.device["built_for"]) or distrust(manifest, target)


def distrust(manifest: Manifest, target: Target) -> str | None:
    """Why what was verified of an INT8 engine does not hold for this CPU; None if it does, or for other engines.

    It holds where 8-bit products are summed exactly, and where the same kind of kernels runs as there.
    """
    here = int8_kernels(machine.cpu_features())
    if target.precision != "int8" or target.on_gpu or here == "exact":
        return None
    lacking = f"this CPU ({machine.cpu_model()}) has none of {', '.join(EXACT_INT8)}, so that INT8 may overflow"
    if manifest.verified is False:
        return f"{lacking}, and the engine is not verified; build it on such a CPU, which verifies it"
    features = manifest.verified.get("cpu_features", manifest.device.get("cpu_features", []))
    if int8_kernels(features) == here:
        return None
    names = " ".join(features) or "unknown features"
    return f"{lacking}, and the engine was verified on a CPU with {names}; build it here, which verifies it here"


def incompatibility(target: Target, built_with: str, built_for: Sequence[str]) -> str | None:
    """Why this machine cannot run an engine, judged without opening it; None if it can.

    Args:
        target: the engine's.
        built_with: version of the runtime's package that built it.
        built_for: compute capabilities of the GPUs it was built for.
    """
    if obstacle := run_obstacle(target):
        return obstacle
    here = machine.package_version(target.family) or "none"
    # TensorRT's plans are tied to the exact version; the others keep their formats within a minor version.
    parts = 4 if target.family == "tensorrt" else 2
    if built_with.split(".")[:parts] != here.split(".")[:parts]:
        return f"built for {target.family} {built_with}, have {here}; rebuild it with rrr build"
    gpu = machine.gpu()
    if target.on_gpu and gpu is not None and gpu.compute_capability not in built_for:
        capabilities = ", ".join(built_for)
        return f"built for GPUs of compute capability {capabilities}, have {gpu.name} ({gpu.compute_capability})"
    return None
