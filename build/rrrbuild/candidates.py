"""Plans side by side: each is compiled, verified and measured in a folder of its own, and the fastest are kept.

The folders lie inside the staged engine, so nothing is left of them if the build fails.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rrrbuild import lazy, machine
from rrrbuild.engine import Runner, load_runner
from rrrbuild.heldout import HeldOut
from rrrbuild.job import BuildOrder, Compiled, CompileJob, Report
from rrrbuild.manifest import MANIFEST, MODEL, TIMING_CACHE, Manifest, read_engine, to_document
from rrrbuild.measure import measure_latency
from rrrbuild.plan_runner import SPLIT, Embeddings, Probabilities
from rrrbuild.plans import winners
from rrrbuild.targets import Plan, Target
from rrrbuild.verify import compare, compare_embeddings, run_all, run_all_embedding
from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT
from rrrnet.errors import FULL_DISK, ArtifactError, CheckFailedError, IncompatibleError, RRRError

# An exported FP32 model, its plan's name and the order of its members -> the model in INT8
Quantise = Callable[[bytes, str, Sequence[int] | None], bytes]


def compile_plan(order: BuildOrder, plan: Plan, folder: Path, quantise: Quantise | None) -> Compiled:
    """Export and compile one plan into a folder of its own below `folder`.

    An INT8 target's exported model goes through `quantise` first.
    """
    checkpoint, target = order.checkpoint, order.target
    order.report(f"exporting {checkpoint.name} to ONNX, plan {plan.name}")
    model = lazy.export_onnx(checkpoint, target, plan, embed=order.embed)
    if quantise is not None:
        model = quantise(model, plan.name, None)
    parts, features = lazy.cut(model) if plan.name == SPLIT else ({MODEL: model}, None)
    order.report(f"compiling for {target.name}")
    (folder / plan.name).mkdir()
    # `sequential` is meant; left to itself TensorRT may take streams for it too.
    aux_streams = {"sequential": 0, "streams": checkpoint.architecture.members - 1}.get(plan.name)
    cache = _timing_cache(order.out, target, plan)
    for part, onnx_model in parts.items():
        job = CompileJob(onnx_model, folder / plan.name, target, order.batch, part, aux_streams, timing_cache=cache)
        compiled = lazy.compiler(target)(job)
    if streams := compiled.aux_streams:
        said = "; ".join(streams["log"]) or "the builder says nothing about them"
        order.report(f"{streams['asked']} auxiliary streams were asked for: {said}")
    return replace(compiled, features=features)


@contextmanager
def leaving_out(name: str, left_out: dict[str, RRRError], report: Report) -> Iterator[None]:
    """A plan or target that fails here is noted in `left_out` and told; the build goes on with the others."""
    try:
        yield
    except (CheckFailedError, IncompatibleError) as error:
        left_out[name] = error
    except RRRError:
        raise
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        left_out[name] = CheckFailedError(f"it cannot be built or run: {error}")
    except Exception as error:  # each runtime raises its own types, for want of memory for example
        left_out[name] = CheckFailedError(f"it cannot be built or run: {type(error).__name__}: {error}")
        left_out[name].__cause__ = error
    if name in left_out:
        report(f"{name} is left out: {left_out[name]}")


def check(
    order: BuildOrder,
    manifest: Manifest,
    plan: str,
    held_out: HeldOut,
    reference: Probabilities,
    embeddings: Embeddings | None,
) -> tuple[Runner, dict[str, Any]]:
    """Load what lies in the plan's folder and compare it with PyTorch's answers, `reference`, and its `embeddings`.

    Raises:
        CheckFailedError: it is not the network that was trained.
        IncompatibleError: it cannot be loaded.
    """
    document = to_document(replace(manifest, plan=plan))
    runner = load_runner(manifest.path / plan, order.target, document, threads=None)
    if embeddings is None:
        found = run_all(runner, held_out.images, order.batch)
        return runner, compare(found, reference, held_out, order.target, max_drop=order.max_drop)
    found, vectors = run_all_embedding(runner, held_out.images, order.batch)
    verified = compare(found, reference, held_out, order.target, max_drop=order.max_drop)
    return runner, {**verified, "embedding": compare_embeddings(vectors, embeddings, order.target)}


def prove(order: BuildOrder, manifest: Manifest, plans: Sequence[str], held_out: HeldOut) -> Manifest:
    """Verify and measure what lies in the folder of `manifest`, a folder for each plan.

    Returns:
        The manifest with the fastest `plan`, `plan_by_batch` where others are kept beside it, what was `verified`, and
        `latency_ms` of all.
    """
    report, checkpoint, batch = order.report, order.checkpoint, order.batch
    report(f"verifying against PyTorch on {len(held_out.images)} images ({held_out.source})")
    reference = lazy.predictor(checkpoint)(held_out.images)
    embeddings = lazy.embedder(checkpoint)(held_out.images) if order.embed else None
    if sealed.sha256_of(checkpoint.path / DOCUMENT) != manifest.checkpoint["sha256"]:
        raise ArtifactError(f"{checkpoint.path} was rewritten meanwhile: let rrr train finish, then build again")
    runners: dict[str, Runner] = {}
    verified = {}
    left_out: dict[str, RRRError] = {}
    for plan in plans:
        with leaving_out(f"plan {plan}", left_out, report):
            runners[plan], verified[plan] = check(order, manifest, plan, held_out, reference, embeddings)
    if not runners:
        raise _refusal(order.target, left_out[f"plan {plans[0]}"])
    report(f"measuring latency at batch {', '.join(map(str, batch.sizes()))}")
    latency_ms = measure_latency(runners, checkpoint.preprocess, batch.sizes())
    winner, by_batch = winners(latency_ms)
    if len(runners) > 1:
        report(f"plan {winner} is the fastest of {', '.join(runners)}")
    for size, plan in by_batch.items():
        if plan != winner:
            ratio = latency_ms[winner][size]["median"] / latency_ms[plan][size]["median"]
            report(f"plan {plan} is kept for batch {size}, where it is {ratio:.2f} times as fast")
    proof = {**verified[winner], "cpu": machine.cpu_model(), "cpu_features": sorted(machine.cpu_features())}
    if by_batch:
        errors = {plan: verified[plan]["max_abs_error"] for plan in by_batch.values()}
        proof = {**proof, "max_abs_error_by_plan": errors}
    return replace(manifest, plan=winner, plan_by_batch=by_batch, verified=proof, latency_ms=latency_ms)


def _refusal(target: Target, error: RRRError) -> RRRError:
    """The error of the first plan; for INT8 on a CPU with the way on, for its kernels are another on each CPU."""
    if target.precision != "int8" or target.on_gpu or not isinstance(error, CheckFailedError):
        return error
    return CheckFailedError(
        f"{error}. So computed by the INT8 kernels of this CPU ({machine.cpu_model()}): leave --target out, which "
        f"builds the fastest target that passes here, or take {target.family}-fp32"
    )


def keep(folder: Path, plans: Sequence[str]) -> None:
    """Remove the folders of all plans but these; the files of a single one move up into `folder`."""
    for path in [path for path in folder.iterdir() if path.is_dir() and path.name not in plans]:
        shutil.rmtree(path)
    if len(plans) == 1:
        for path in (folder / plans[0]).iterdir():
            path.rename(folder / path.name)
        (folder / plans[0]).rmdir()


def _timing_cache(previous: Path, target: Target, plan: Plan) -> bytes:
    """TensorRT's measurements in the engine that is about to be replaced, if that is undamaged."""
    if target.family != "tensorrt" or not (previous / MANIFEST).is_file():
        return b""
    try:
        engine = read_engine(previous)
    except ArtifactError:
        return b""
    places = (f"{plan.name}/{TIMING_CACHE}", TIMING_CACHE)
    return next(((engine.path / place).read_bytes() for place in places if place in engine.files), b"")
