"""`rrr build`: checkpoint to verified engines."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from rrrbuild.build import DEFAULT_CALIBRATION_IMAGES, DEFAULT_IMAGES, DEFAULT_MAX_DROP, ENGINES, build_engine
from rrrbuild.heldout import NO_ACCURACY
from rrrbuild.manifest import BatchRange, Manifest
from rrrbuild.plans import check_plan
from rrrbuild.targets import TARGETS, target_named
from rrrnet import output
from rrrnet.errors import UsageError


def build(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that rrr train wrote.")],
    target: Annotated[list[str], typer.Option(help=f"One of {', '.join(TARGETS)}; may be repeated.")],
    plan: Annotated[
        str,
        typer.Option(
            help="How members are executed: auto (the fastest for each batch size), sequential, merged, streams or "
            "split; rrr targets tells which a target has."
        ),
    ] = "auto",
    batch: Annotated[str, typer.Option(help="Smallest, usual and largest batch.")] = "1,8,32",
    max_drop: Annotated[
        float, typer.Option(help="Percentage points of accuracy that the engine may lose.")
    ] = DEFAULT_MAX_DROP,
    out: Annotated[Path | None, typer.Option(help="The engine folder.", show_default=f"{ENGINES}/NAME/TARGET")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Images to calibrate and verify on.", show_default="those that the checkpoint remembers"),
    ] = None,
    images: Annotated[int, typer.Option(help="The most images to verify on.")] = DEFAULT_IMAGES,
    calibration_images: Annotated[
        int, typer.Option(help="The most images of the training split to calibrate INT8 on.")
    ] = DEFAULT_CALIBRATION_IMAGES,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export, compile, verify on real images and measure: one engine for each target."""
    sizes = BatchRange.parse(batch)
    for name in target:  # a mistyped one is found before minutes are spent on the others
        check_plan(plan, target_named(name))
    if out is not None and len(target) > 1:
        raise UsageError(f"--out takes one engine, but {len(target)} targets are given: leave --out away")
    manifests = []
    for name in target:
        with output.Working(f"{name}: starting") as status:
            manifest = build_engine(
                checkpoint,
                name,
                plan=plan,
                batch=sizes,
                max_drop=max_drop,
                out=out,
                data=data,
                images=images,
                calibration_images=calibration_images,
                report=partial(_report, name, status),
            )
        manifests.append(manifest)
    if as_json:
        output.print_json({"engines": [_summary(manifest) for manifest in manifests]})
        return
    for manifest in manifests:
        output.console.print(_table(manifest))


def _report(target: str, status: output.Working, step: str) -> None:
    """A line for each step, which stays, and a sign of life for the one that runs."""
    line = escape(f"{target}: {step}")
    output.messages.print(line, highlight=False, soft_wrap=True)
    status.update(line)


def _summary(manifest: Manifest) -> dict[str, Any]:
    names = ("name", "target", "plan", "plan_by_batch", "verified", "unverified_reason", "latency_ms", "quantisation")
    told = {name: getattr(manifest, name) for name in (*names, "versions", "device")}
    return {"path": str(manifest.path), **told, "size_bytes": manifest.engine_bytes}


def _table(manifest: Manifest) -> Table:
    """What came out, one property in each row."""
    table = Table(title=escape(f"{manifest.name} for {manifest.target}"), show_header=False)
    proof = manifest.verified
    if proof is False:
        table.add_row("verified", escape(f"no: {manifest.unverified_reason}"))
    else:
        table.add_row("verified", escape(f"on {proof['images']} images ({proof['source']})"))
        table.add_row("largest error", f"{proof['max_abs_error']:.1e} of a probability")
        table.add_row("labels as PyTorch's", f"{proof['label_agreement']:.1%}")
        known = proof["accuracy"] is not None
        right = f"{proof['accuracy']:.1%} (PyTorch: {proof['reference_accuracy']:.1%})" if known else NO_ACCURACY
        table.add_row("accuracy", right)
    others = [f"{plan} for batch {size}" for size, plan in manifest.plan_by_batch.items() if plan != manifest.plan]
    table.add_row("plan", ", ".join([manifest.plan, *others]))
    for plan, latencies in manifest.latency_ms.items():
        for size, row in latencies.items():
            runs_it = len(manifest.latency_ms) > 1 and manifest.plan_by_batch.get(size, manifest.plan) == plan
            runs = " (runs this size)" if runs_it else ""
            table.add_row(f"batch {size}, {plan}", f"{row['median']:.2f} ms median, {row['p95']:.2f} ms p95{runs}")
    table.add_row("size", f"{manifest.engine_bytes / 1e6:.1f} MB")
    table.add_row("folder", escape(str(manifest.path)))
    return table
