"""Checkpoint to a verified engine: export, compile, verify, measure, seal."""

import importlib
import shlex
import shutil
import sys
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrrbuild import candidates, machine
from rrrbuild.engine import incompatibility
from rrrbuild.heldout import HeldOut, held_out_images
from rrrbuild.job import Report
from rrrbuild.manifest import INPUT, MANIFEST, OUTPUT, BatchRange, Manifest, read_engine, write_manifest
from rrrbuild.plans import AUTO, check_plan, plans_to_build
from rrrbuild.targets import Target, build_obstacle, run_obstacle, target_named
from rrrnet import __version__, sealed
from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint
from rrrnet.errors import IncompatibleError, RRRError, UsageError

if TYPE_CHECKING:  # it imports onnx and onnxruntime
    from rrrbuild.quantize import Quantiser

ENGINES = Path("artifacts/engines")
DEFAULT_BATCH = BatchRange(1, 8, 32)
DEFAULT_MAX_DROP = 0.5
DEFAULT_IMAGES = 256
DEFAULT_CALIBRATION_IMAGES = 128


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
        report: is told each step in words.

    Raises:
        UsageError: an unknown target, a plan that does not go with it or the network, or no images to verify on.
        ArtifactError: the checkpoint is damaged.
        IncompatibleError: the target cannot be built here; says what is missing.
        CheckFailedError: the engine is not the network that was trained.
    """
    target = target_named(target_name)
    check_plan(plan, target)
    if min(images, calibration_images) < 1 or max_drop < 0:
        raise UsageError(
            f"--images is {images}, --calibration-images {calibration_images} and --max-drop {max_drop}: "
            "at least 1 image of each and 0 points are needed"
        )
    checkpoint = read_checkpoint(checkpoint_path)
    first, *others = plans_to_build(plan, target, checkpoint.architecture)
    if obstacle := build_obstacle(target):
        raise IncompatibleError(f"{target.name} cannot be built here: {obstacle}")
    machine.require("onnx", extra="train")
    out = out if out is not None else ENGINES / checkpoint.name / target.name
    runtime_obstacle = run_obstacle(target)
    if checkpoint.training.get("complete") is False:
        report(f"the training of {checkpoint.name} is not complete")
    quantiser: Quantiser | None = None
    held_out: HeldOut | None = None
    if target.precision == "int8":
        quantiser, held_out = _quantiser(
            checkpoint, target, data, images, calibration_images, max_drop=max_drop, report=report
        )
    elif not runtime_obstacle:
        held_out = _held_out(checkpoint, data, images, report)

    with sealed.staged(out, document=MANIFEST) as folder:
        document = _describe(checkpoint, target, batch)
        compile_one = partial(
            candidates.compile_plan,
            checkpoint,
            target,
            batch=batch,
            folder=folder,
            previous=out,
            quantise=None if quantiser is None else quantiser.quantise,
            report=report,
        )
        compiled = {first.name: compile_one(first)}
        reason = incompatibility(target, document["versions"][target.family], compiled[first.name]["built_for"])
        if held_out is None or reason:
            if others:
                report(f"taking plan {first.name}, for plans cannot be measured here")
            report(f"not verified: {reason}")
            document |= {"plan": first.name, "unverified_reason": reason}
        else:
            left_out: dict[str, RRRError] = {}
            for other in others:
                with candidates.leaving_out(other.name, left_out, report):
                    compiled[other.name] = compile_one(other)
            document |= candidates.prove(
                checkpoint, target, document, folder, list(compiled), held_out, max_drop=max_drop, report=report
            )
        kept = list(dict.fromkeys([document["plan"], *document["plan_by_batch"].values()]))
        features = [compiled[plan].pop("features") for plan in kept if "features" in compiled[plan]]
        document |= {
            "features": features[0] if features else None,
            "device": {**machine.describe(), **compiled[document["plan"]]},
        }
        candidates.keep(folder, kept)
        document["quantisation"] = None if quantiser is None else quantiser.record()
        again = AUTO if document["plan_by_batch"] else document["plan"]
        given: list[tuple[str, object, object]] = [
            ("--max-drop", max_drop, DEFAULT_MAX_DROP),
            ("--images", images, DEFAULT_IMAGES),
            ("--data", data, None),
        ]
        options = [word for name, value, usual in given if value != usual for word in (name, str(value))]
        options += [] if quantiser is None else ["--calibration-images", str(calibration_images)]
        document["command"] = _command(checkpoint_path, target, again, batch, out, options)
        if SPLIT in checkpoint.files:
            shutil.copyfile(checkpoint.path / SPLIT, folder / SPLIT)
        write_manifest(
            Manifest(
                path=folder,
                architecture=checkpoint.architecture,
                labels=checkpoint.labels,
                preprocess=checkpoint.preprocess,
                files={},
                **{**document, "batch": batch},
            ),
            folder,
        )
    return read_engine(out)


def _held_out(
    checkpoint: Checkpoint, data: Path | None, images: int, report: Report, without: Collection[str] = ()
) -> HeldOut:
    machine.require("torch", extra="train")
    report("reading images to verify on")
    return held_out_images(checkpoint, data, limit=images, without=without)


def _quantiser(
    checkpoint: Checkpoint,
    target: Target,
    data: Path | None,
    images: int,
    calibration_images: int,
    *,
    max_drop: float,
    report: Report,
) -> tuple["Quantiser", HeldOut]:
    """What makes an exported model INT8, and the images that it is judged by."""
    calibration = importlib.import_module("rrrbuild.calibration")
    quantize = importlib.import_module("rrrbuild.quantize")  # imports onnx and onnxruntime
    report("reading images to calibrate on")
    chosen = calibration.calibration_images(checkpoint, data, limit=calibration_images)
    held_out = _held_out(checkpoint, data, images, report, without=frozenset(chosen.files))
    quantiser = quantize.Quantiser(target, chosen, held_out, max_drop=max_drop, report=report)
    return quantiser, held_out


def _describe(checkpoint: Checkpoint, target: Target, batch: BatchRange) -> dict[str, Any]:
    """The manifest's fields as far as they are known before anything is compiled."""
    size, architecture = checkpoint.preprocess.size, checkpoint.architecture
    recorded = checkpoint.training.get("data")
    return {
        "name": checkpoint.name,
        "target": target.name,
        "family": target.family,
        "precision": target.precision,
        "batch": asdict(batch),
        "inputs": [{"name": INPUT, "dtype": "uint8", "shape": [-1, size, size, 3]}],
        "outputs": [
            {"name": OUTPUT, "dtype": "float32", "shape": [-1, architecture.members, architecture.num_classes]}
        ],
        "versions": _versions(target),
        "verified": False,
        "unverified_reason": "",
        "latency_ms": {},
        "plan_by_batch": {},
        "checkpoint": {
            "name": checkpoint.name,
            "method": checkpoint.method,
            "sha256": sealed.sha256_of(checkpoint.path / DOCUMENT),
        },
        "data": None if recorded is None else {key: recorded.get(key) for key in ("name", "path", "sha256")},
    }


def _versions(target: Target) -> dict[str, str]:
    packages = ("numpy", "onnx", "torch", target.family)
    found = {package: machine.package_version(package) for package in packages}
    return {
        "rrrnet-serving": __version__,
        "python": sys.version.split()[0],
        **{package: version for package, version in found.items() if version},
    }


def _command(checkpoint_path: Path, target: Target, plan: str, batch: BatchRange, out: Path, options: list[str]) -> str:
    """The command line that builds it again."""
    sizes = f"{batch.min},{batch.opt},{batch.max}"
    words = ["rrr", "build", str(checkpoint_path), "--target", target.name, "--plan", plan, "--batch", sizes]
    return shlex.join([*words, *options, "--out", str(out)])
