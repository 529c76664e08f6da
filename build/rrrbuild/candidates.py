"""Plans side by side: each is compiled, verified and measured in a folder of its own, and one is kept.

The folders lie inside the staged engine, so nothing is left of them if the build fails.
"""

import importlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rrrbuild.engine import Runner, load_runner
from rrrbuild.heldout import HeldOut
from rrrbuild.job import CompileJob, Report
from rrrbuild.manifest import MANIFEST, BatchRange, read_engine
from rrrbuild.measure import measure_latency
from rrrbuild.plans import fastest
from rrrbuild.targets import Plan, Target
from rrrbuild.verify import compare, run_all
from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint
from rrrnet.errors import ArtifactError, CheckFailedError

# An exported FP32 model and its plan's name -> the model in INT8
Quantise = Callable[[bytes, str], bytes]


def compile_plan(
    checkpoint: Checkpoint,
    target: Target,
    plan: Plan,
    *,
    batch: BatchRange,
    folder: Path,
    previous: Path,
    quantise: Quantise | None,
    report: Report,
) -> dict[str, Any]:
    """Export and compile one plan into a folder of its own below `folder`; returns what the compiler tells.

    An INT8 target's exported model goes through `quantise` first.
    """
    export = importlib.import_module("rrrbuild.export")
    compiler = importlib.import_module(f"rrrbuild.{target.compile_module}")
    report(f"exporting {checkpoint.name} to ONNX, plan {plan.name}")
    model = export.export_onnx(checkpoint, plan=plan.name, half=target.precision == "fp16", align=plan.align)
    if quantise is not None:
        model = quantise(model, plan.name)
    report(f"compiling for {target.name}")
    (folder / plan.name).mkdir()
    job = CompileJob(model, folder / plan.name, target, batch, timing_cache=_timing_cache(previous, target))
    compiled: dict[str, Any] = compiler.compile_engine(job)
    return compiled


@contextmanager
def leaving_out(plan: str, left_out: dict[str, CheckFailedError], report: Report) -> Iterator[None]:
    """A plan that fails here is noted in `left_out` and told; the build goes on with the others."""
    try:
        yield
    except CheckFailedError as error:
        left_out[plan] = error
        report(f"plan {plan} is left out: {error}")


def prove(
    checkpoint: Checkpoint,
    target: Target,
    document: dict[str, Any],
    folder: Path,
    plans: Sequence[str],
    held_out: HeldOut,
    *,
    max_drop: float,
    report: Report,
) -> dict[str, Any]:
    """Verify and measure what lies in `folder`, a folder for each plan.

    Returns:
        The fastest `plan`, what was `verified` of it, and `latency_ms` of all.
    """
    inference = importlib.import_module("rrrnet.inference")  # imports torch
    report(f"verifying against PyTorch on {len(held_out.images)} images ({held_out.source})")
    reference = inference.member_probabilities(checkpoint, held_out.images)
    if sealed.sha256_of(checkpoint.path / DOCUMENT) != document["checkpoint"]["sha256"]:
        raise ArtifactError(f"{checkpoint.path} was rewritten meanwhile: let rrr train finish, then build again")
    batch = BatchRange(**document["batch"])
    runners: dict[str, Runner] = {}
    verified: dict[str, dict[str, Any]] = {}
    left_out: dict[str, CheckFailedError] = {}
    for plan in plans:
        runner = load_runner(folder / plan, target, document, threads=None)
        found = run_all(runner, held_out.images, batch)
        with leaving_out(plan, left_out, report):
            verified[plan] = compare(found, reference, held_out, target, max_drop=max_drop)
            runners[plan] = runner
    if not runners:
        raise left_out[plans[0]]
    report(f"measuring latency at batch {', '.join(map(str, batch.sizes()))}")
    latency_ms = measure_latency(runners, checkpoint.preprocess, batch.sizes())
    winner = fastest(latency_ms)
    if len(runners) > 1:
        report(f"plan {winner} is the fastest of {', '.join(runners)}")
    return {"plan": winner, "verified": verified[winner], "latency_ms": latency_ms}


def keep(folder: Path, plan: str) -> None:
    """Move the files of one plan up into `folder` and remove all plans' folders."""
    for path in (folder / plan).iterdir():
        path.rename(folder / path.name)
    for path in [path for path in folder.iterdir() if path.is_dir()]:
        shutil.rmtree(path)


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
