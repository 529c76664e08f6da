"""Checkpoint to a verified engine: export, compile, verify, measure, seal."""

import importlib
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rrrbuild import machine
from rrrbuild.engine import incompatibility, load_runner
from rrrbuild.heldout import HeldOut, held_out_images
from rrrbuild.job import CompileJob
from rrrbuild.manifest import INPUT, MANIFEST, OUTPUT, BatchRange, Manifest, read_engine, write_manifest
from rrrbuild.measure import measure_latency
from rrrbuild.targets import Target, build_obstacle, run_obstacle, target_named
from rrrbuild.verify import compare, run_all
from rrrnet import __version__, sealed
from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint
from rrrnet.errors import ArtifactError, IncompatibleError, UsageError

ENGINES = Path("artifacts/engines")
DEFAULT_BATCH = BatchRange(1, 8, 32)
DEFAULT_MAX_DROP = 0.5
DEFAULT_IMAGES = 256

Report = Callable[[str], None]


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
    report: Report = lambda _: None,
) -> Manifest:
    """Build, verify and measure one engine; nothing is left at `out` if any step fails.

    Args:
        checkpoint_path: what to build.
        target_name: a name of the table of targets.
        plan: how members are executed, or `auto`.
        batch: sizes to compile for; latency is measured at each.
        max_drop: percentage points of accuracy that the engine may lose on the held-out images.
        out: the engine folder; by default `artifacts/engines/NAME/TARGET`.
        data: images to verify on instead of those that the checkpoint remembers.
        images: the most images to verify on.
        report: is told each step in words.

    Raises:
        UsageError: an unknown target or plan, or no images to verify on.
        ArtifactError: the checkpoint is damaged.
        IncompatibleError: the target cannot be built here; says what is missing.
        CheckFailedError: the engine is not the network that was trained.
    """
    target = target_named(target_name)
    plan = choose_plan(plan, target)
    if images < 1 or max_drop < 0:
        raise UsageError(f"--images is {images} and --max-drop {max_drop}: at least 1 image and 0 points are needed")
    checkpoint = read_checkpoint(checkpoint_path)
    if obstacle := build_obstacle(target):
        raise IncompatibleError(f"{target.name} cannot be built here: {obstacle}")
    machine.require("onnx", extra="train")
    out = out if out is not None else ENGINES / checkpoint.name / target.name
    runtime_obstacle = run_obstacle(target)
    held_out = None if runtime_obstacle else _held_out(checkpoint, data, images, report)

    with sealed.staged(out, document=MANIFEST) as folder:
        document = _compile(checkpoint, target, plan, batch, folder, previous=out, report=report)
        document["command"] = _command(checkpoint_path, target, plan, batch, out)
        reason = incompatibility(target, document["versions"][target.family], document["device"]["built_for"])
        if held_out is None or reason:
            report(f"not verified: {reason}")
            document["unverified_reason"] = reason
        else:
            document |= _prove(checkpoint, target, document, folder, held_out, max_drop=max_drop, report=report)
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


def choose_plan(plan: str, target: Target) -> str:
    """Resolve `auto`.

    Raises:
        UsageError: the target cannot express `plan`.
    """
    if plan == "auto":
        return target.plans[0]
    if plan not in target.plans:
        raise UsageError(f"plan {plan!r} is not one of {target.name}: allowed are auto, {', '.join(target.plans)}")
    return plan


def _held_out(checkpoint: Checkpoint, data: Path | None, images: int, report: Report) -> HeldOut:
    machine.require("torch", extra="train")
    report("reading images to verify on")
    return held_out_images(checkpoint, data, limit=images)


def _compile(
    checkpoint: Checkpoint,
    target: Target,
    plan: str,
    batch: BatchRange,
    folder: Path,
    *,
    previous: Path,
    report: Report,
) -> dict[str, Any]:
    """Export and compile into `folder`; returns the manifest's fields as far as they are known then."""
    export = importlib.import_module("rrrbuild.export")
    compiler = importlib.import_module(f"rrrbuild.{target.compile_module}")
    digest = sealed.sha256_of(checkpoint.path / DOCUMENT)
    if checkpoint.training.get("complete") is False:
        report(f"the training of {checkpoint.name} is not complete")
    report(f"exporting {checkpoint.name} to ONNX, plan {plan}")
    model = export.export_onnx(checkpoint, plan=plan, half=target.precision == "fp16")
    report(f"compiling for {target.name}")
    job = CompileJob(model, folder, target, batch, timing_cache=_timing_cache(previous, target))
    compiled = compiler.compile_engine(job)
    size, architecture = checkpoint.preprocess.size, checkpoint.architecture
    recorded = checkpoint.training.get("data")
    return {
        "name": checkpoint.name,
        "target": target.name,
        "family": target.family,
        "precision": target.precision,
        "plan": plan,
        "batch": asdict(batch),
        "inputs": [{"name": INPUT, "dtype": "uint8", "shape": [-1, size, size, 3]}],
        "outputs": [
            {"name": OUTPUT, "dtype": "float32", "shape": [-1, architecture.members, architecture.num_classes]}
        ],
        "versions": _versions(target),
        "device": {**machine.describe(), **compiled},
        "verified": False,
        "unverified_reason": "",
        "latency_ms": {},
        "checkpoint": {
            "name": checkpoint.name,
            "method": checkpoint.method,
            "sha256": digest,
        },
        "data": None if recorded is None else {key: recorded.get(key) for key in ("name", "path", "sha256")},
    }


def _prove(
    checkpoint: Checkpoint,
    target: Target,
    document: dict[str, Any],
    folder: Path,
    held_out: HeldOut,
    *,
    max_drop: float,
    report: Report,
) -> dict[str, Any]:
    """Verify and measure the files in `folder`; returns `verified` and `latency_ms`."""
    inference = importlib.import_module("rrrnet.inference")  # imports torch
    report(f"verifying against PyTorch on {len(held_out.images)} images ({held_out.source})")
    runner = load_runner(folder, target, document, threads=None)
    batch = BatchRange(**document["batch"])
    found = run_all(runner, held_out.images, batch)
    reference = inference.member_probabilities(checkpoint, held_out.images)
    if sealed.sha256_of(checkpoint.path / DOCUMENT) != document["checkpoint"]["sha256"]:
        raise ArtifactError(f"{checkpoint.path} was rewritten meanwhile: let rrr train finish, then build again")
    verified = compare(found, reference, held_out, target, max_drop=max_drop)
    report(f"measuring latency at batch {', '.join(map(str, batch.sizes()))}")
    latency_ms = measure_latency(runner, checkpoint.preprocess, batch.sizes())
    return {"verified": verified, "latency_ms": {document["plan"]: latency_ms}}


def _timing_cache(previous: Path, target: Target) -> bytes:
    """TensorRT's measurements in the engine that is about to be replaced, if that is undamaged."""
    if target.family != "tensorrt" or not (previous / MANIFEST).is_file():
        return b""
    compiler = importlib.import_module(f"rrrbuild.{target.compile_module}")
    try:
        engine = read_engine(previous)
    except ArtifactError:
        return b""
    return (engine.path / compiler.TIMING_CACHE).read_bytes() if compiler.TIMING_CACHE in engine.files else b""


def _versions(target: Target) -> dict[str, str]:
    packages = ("numpy", "onnx", "torch", target.family)
    found = {package: machine.package_version(package) for package in packages}
    return {
        "rrrnet-serving": __version__,
        "python": sys.version.split()[0],
        **{package: version for package, version in found.items() if version},
    }


def _command(checkpoint_path: Path, target: Target, plan: str, batch: BatchRange, out: Path) -> str:
    """The command line that builds it again."""
    sizes = f"{batch.min},{batch.opt},{batch.max}"
    words = ["rrr", "build", str(checkpoint_path), "--target", target.name, "--plan", plan, "--batch", sizes]
    return shlex.join([*words, "--out", str(out)])
