"""Checkpoint to a verified engine: export, compile, verify, measure, seal."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from rrrbuild import candidates, lazy, machine
from rrrbuild.calibration import Calibration, calibration_images
from rrrbuild.engine import incompatibility
from rrrbuild.heldout import HeldOut, held_out_images
from rrrbuild.job import BuildOrder, Report
from rrrbuild.manifest import EMBEDDING, INPUT, MANIFEST, OUTPUT, BatchRange, Manifest, read_engine, write_manifest
from rrrbuild.plans import AUTO, check_embed, check_plan, plans_to_build
from rrrbuild.targets import Plan, Target, build_obstacle, run_obstacle, target_named
from rrrbuild.trust import DEFAULT_TRUST, Trust, with_confidence
from rrrnet import __version__, sealed
from rrrnet.checkpoint import DOCUMENT, SPLIT, read_checkpoint
from rrrnet.data.dataset import REMEMBERED
from rrrnet.data.remembered import recorded_data
from rrrnet.errors import IncompatibleError, RRRError, UsageError
from rrrnet.hub.reference import named
from rrrnet.network.architecture import embedding_dim

if TYPE_CHECKING:
    from rrrbuild.quantize import Quantiser

ENGINES = Path("artifacts/engines")
DEFAULT_BATCH = BatchRange(1, 8, 32)
DEFAULT_MAX_DROP = 0.5
DEFAULT_IMAGES = 256
DEFAULT_CALIBRATION_IMAGES = 128


class BuildOptions(TypedDict):
    """What builds of several targets, or the trials of all, share; see `build_engine`."""

    plan: str
    batch: BatchRange
    max_drop: float
    out: Path | None
    data: Path | None
    images: int
    calibration_images: int
    trust: Trust
    embed: bool


def build_engine(
    checkpoint_path: Path,
    target_name: str,
    *,
    plan: str = "auto",
    batch: BatchRange = DEFAULT_BATCH,
    max_drop: float = DEFAULT_MAX_DROP,
    out: Path | None = None,
    data: Path | None = None,
    images: int = DEFAULT_IMAGES,
    calibration_images: int = DEFAULT_CALIBRATION_IMAGES,
    trust: Trust = DEFAULT_TRUST,
    embed: bool = False,
    report: Report = lambda _: None,
) -> Manifest:
    """Build, verify and measure one engine; nothing is left at `out` if any step fails.

    Args:
        checkpoint_path: what to build.
        target_name: a name of the table of targets.
        plan: how members are executed, or `auto`: the fastest for each batch size.
        batch: sizes to compile for; latency is measured at each.
        max_drop: percentage points of accuracy that the engine may lose on the held-out images.
        out: the engine folder; by default `artifacts/engines/NAME/TARGET`.
        data: images to verify on instead of those that the checkpoint remembers.
        images: the most images to verify on.
        calibration_images: the most images of the training split to take INT8 ranges from.
        trust: whether a cascade and temperatures are wanted, and on which images they are chosen.
        embed: whether the engine gives an image's embedding too; then there is no cascade.
        report: is told each step in words.

    Raises:
        UsageError: an unknown target, a plan that does not go with it or the network, or no images to verify on.
        ArtifactError: the checkpoint is damaged.
        IncompatibleError: the target cannot be built here; says what is missing.
        CheckFailedError: the engine is not the network that was trained.
    """
    target = target_named(target_name)
    check_plan(plan, target)
    check_limits(images, calibration_images, max_drop)
    trust.check(plan)
    if embed:
        check_embed(plan, target, cascade=trust.cascade)
    checkpoint = read_checkpoint(checkpoint_path)
    plans = plans_to_build(plan, target, checkpoint.architecture, embed=embed)
    if obstacle := build_obstacle(target):
        raise IncompatibleError(f"{target.name} cannot be built here: {obstacle}")
    machine.require("onnx", extra="build")
    out = out if out is not None else ENGINES / checkpoint.name / target.name
    if checkpoint.training.get("complete") is False:
        report(f"the training of {checkpoint.name} is not complete")
    order = BuildOrder(checkpoint, target, batch, out, max_drop, report, embed)
    calibration, held_out = _read_images(order, data, images, calibration_images)
    quantiser = lazy.quantiser(order, calibration, held_out) if calibration and held_out else None
    given: list[tuple[str, object, object]] = [
        ("--max-drop", max_drop, DEFAULT_MAX_DROP),
        ("--images", images, DEFAULT_IMAGES),
        ("--data", data, None),
        ("--calibration-images", calibration_images if quantiser else None, None),
        *trust.options(),
    ]
    options = [word for name, value, usual in given if value != usual for word in (name, str(value))]
    options += [*trust.flags(), *(["--embed"] if embed else [])]

    with sealed.staged(out, document=MANIFEST) as folder:
        manifest = _fill(folder, order, plans, held_out, quantiser)
        if manifest.verified is not False and held_out is not None:
            manifest = with_confidence(order, manifest, held_out, quantiser, trust, data, wanted_plan=plan)
        candidates.keep(folder, manifest.kept_plans)
        if SPLIT in checkpoint.files:
            shutil.copyfile(checkpoint.path / SPLIT, folder / SPLIT)
        write_manifest(replace(manifest, command=_command(checkpoint_path, order, manifest, options)), folder)
    return read_engine(out)


def check_limits(images: int, calibration_images: int, max_drop: float) -> None:
    """Check the numbers that a build is given.

    Raises:
        UsageError: one is too small.
    """
    if min(images, calibration_images) < 1 or max_drop < 0:
        raise UsageError(
            f"--images is {images}, --calibration-images {calibration_images} and --max-drop {max_drop}: "
            "at least 1 image of each and 0 points are needed"
        )


def _read_images(
    order: BuildOrder, data: Path | None, most: int, most_to_calibrate: int
) -> tuple[Calibration | None, HeldOut | None]:
    """Images to calibrate INT8 on, and others to verify on; none for an engine that cannot run here."""
    calibration = None
    if order.target.precision == "int8":
        order.report("reading images to calibrate on")
        calibration = calibration_images(order.checkpoint, data, limit=most_to_calibrate)
    elif run_obstacle(order.target):
        return None, None
    machine.require("torch", extra="train")
    order.report("reading images to verify on")
    used = frozenset(calibration.files) if calibration else frozenset()
    return calibration, held_out_images(order.checkpoint, data, limit=most, without=used)


def _fill(
    folder: Path, order: BuildOrder, plans: Sequence[Plan], held_out: HeldOut | None, quantiser: "Quantiser | None"
) -> Manifest:
    """Compile the plans into `folder` and keep the fastest; returns the manifest without its command."""
    first, *others = plans
    target, report = order.target, order.report
    quantise = None if quantiser is None else quantiser.quantise
    compiled = {first.name: candidates.compile_plan(order, first, folder, quantise)}
    manifest = replace(describe(order, folder), plan=first.name)
    reason = incompatibility(target, manifest.versions[target.family], compiled[first.name].built_for)
    if held_out is None or reason:
        if others:
            report(f"taking plan {first.name}, for plans cannot be measured here")
        report(f"not verified: {reason}")
        untried = f"it cannot be run here: {reason}"
        manifest = replace(manifest, unverified_reason=str(reason), cascade_reason=untried, confidence_reason=untried)
    else:
        left_out: dict[str, RRRError] = {}
        for other in others:
            with candidates.leaving_out(f"plan {other.name}", left_out, report):
                compiled[other.name] = candidates.compile_plan(order, other, folder, quantise)
        manifest = candidates.prove(order, manifest, list(compiled), held_out)
    return replace(
        manifest,
        device={**machine.describe(), **compiled[manifest.plan].device},
        features=next((found for plan in manifest.kept_plans if (found := compiled[plan].features)), None),
        quantisation=None if quantiser is None else quantiser.record(),
    )


def describe(order: BuildOrder, folder: Path) -> Manifest:
    """The manifest as far as it is known before anything is compiled."""
    checkpoint, target = order.checkpoint, order.target
    size, architecture = checkpoint.preprocess.size, checkpoint.architecture
    recorded = recorded_data(checkpoint)
    outputs = [{"name": OUTPUT, "dtype": "float32", "shape": [-1, architecture.members, architecture.num_classes]}]
    if order.embed:
        outputs.append({"name": EMBEDDING, "dtype": "float32", "shape": [-1, embedding_dim(architecture)]})
    return Manifest(
        path=folder,
        name=checkpoint.name,
        target=target.name,
        family=target.family,
        precision=target.precision,
        plan="",
        architecture=architecture,
        labels=checkpoint.labels,
        preprocess=checkpoint.preprocess,
        batch=order.batch,
        inputs=[{"name": INPUT, "dtype": "uint8", "shape": [-1, size, size, 3]}],
        outputs=outputs,
        versions=_versions(target),
        device={},
        verified=False,
        unverified_reason="",
        latency_ms={},
        checkpoint={
            "name": checkpoint.name,
            "method": checkpoint.method,
            "sha256": sealed.sha256_of(checkpoint.path / DOCUMENT),
        },
        data={key: recorded.get(key) for key in REMEMBERED} if recorded else None,
        command="",
        files={},
    )


def _versions(target: Target) -> dict[str, str]:
    packages = ("numpy", "onnx", "torch", target.family)
    found = {package: machine.package_version(package) for package in packages}
    return {
        "rrrnet-serving": __version__,
        "python": sys.version.split()[0],
        **{package: version for package, version in found.items() if version},
    }


def _command(checkpoint_path: Path, order: BuildOrder, manifest: Manifest, options: list[str]) -> str:
    """The command line that builds it again."""
    plan = AUTO if manifest.plan_by_batch or manifest.cascade else manifest.plan
    sizes = f"{order.batch.min},{order.batch.opt},{order.batch.max}"
    words = ["rrr", "build", named(checkpoint_path), "--target", order.target.name, "--plan", plan, "--batch", sizes]
    return shlex.join([*words, *options, "--out", str(order.out)])
