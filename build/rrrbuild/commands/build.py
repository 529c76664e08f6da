"""`rrr build`: checkpoint to verified engines."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from rrrbuild.build import (
    DEFAULT_CALIBRATION_IMAGES,
    DEFAULT_IMAGES,
    DEFAULT_MAX_DROP,
    ENGINES,
    BuildOptions,
    build_engine,
)
from rrrbuild.cascade import DEFAULT_MAX_DROP as DEFAULT_CASCADE_MAX_DROP
from rrrbuild.choice import Choice, build_best
from rrrbuild.commands.first_step import to_repository
from rrrbuild.commands.trust_lines import trust_lines
from rrrbuild.heldout import NO_ACCURACY
from rrrbuild.manifest import BatchRange, Manifest
from rrrbuild.plans import check_embed, check_plan
from rrrbuild.targets import TARGETS, target_named
from rrrbuild.trust import Trust
from rrrnet import output, tables
from rrrnet.checkpoint import local_checkpoint
from rrrnet.errors import UsageError
from rrrnet.files import shown


def build(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that rrr train wrote, or hf://OWNER/NAME.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(TARGETS)}; may be repeated.",
            show_default="the fastest that runs here and passes its gate",
        ),
    ] = None,
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
    cascade: Annotated[
        bool | None,
        typer.Option(
            "--cascade/--no-cascade",
            help="Let some members answer alone where they agree; --cascade even where it does not pay.",
            show_default="where it pays",
        ),
    ] = None,
    cascade_max_drop: Annotated[
        float, typer.Option(help="Percentage points of accuracy that a cascade may lose against all members.")
    ] = DEFAULT_CASCADE_MAX_DROP,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate/--no-calibrate", help="Fit temperatures, so that probabilities mean what they say."),
    ] = True,
    calibration_data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images to choose cascade and temperatures on.",
            show_default="the validation images of the training",
        ),
    ] = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="Give an image's embedding too (/v1/embed); there is no cascade then.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export, compile, verify on real images and measure: one engine for each target, or the best for this machine."""
    sizes = BatchRange.parse(batch)
    for name in target or ():  # a mistyped one is found before minutes are spent on the others
        check_plan(plan, target_named(name))
        if embed:
            check_embed(plan, target_named(name), cascade=cascade)
    if out is not None and len(target or ()) > 1:
        raise UsageError(f"--out takes one engine, but {len(target or ())} targets are given: leave --out away")
    options: BuildOptions = {
        "plan": plan,
        "batch": sizes,
        "max_drop": max_drop,
        "out": out,
        "data": data,
        "images": images,
        "calibration_images": calibration_images,
        "trust": Trust(cascade, cascade_max_drop, calibrate, calibration_data),
        "embed": embed,
    }
    manifests, choice = [], None
    checkpoint = local_checkpoint(checkpoint, output.say)
    with output.Working("starting") as status:
        if not target:
            best, choice = build_best(checkpoint, **options, report=partial(_report, status, ""))
            manifests = [best]
        for name in target or ():
            report = partial(_report, status, f"{name}: ")
            manifests.append(build_engine(checkpoint, name, **options, report=report))
    if as_json:
        summaries = [_summary(manifest) for manifest in manifests]
        output.print_json({"engines": summaries, "choice": None if choice is None else choice.to_json()})
    else:
        if choice is not None:
            _show_choice(choice)
        for manifest in manifests:
            output.print_line(f"{manifest.name} for {manifest.target}")
            tables.print_pairs(_pairs(manifest))
        one = out is not None or len(target or ()) == 1
        output.next_step(*to_repository(shown(manifests[0].path if one else manifests[0].path.parent)))
    for manifest in manifests:  # after all else: whoever reads one line should read this
        if manifest.verified is False:
            line = f"{manifest.target} cannot run here, so it is not verified: {manifest.unverified_reason}"
            output.print_line(line, to=output.messages if as_json else output.console)


def _report(status: output.Working, prefix: str, step: str) -> None:
    """A line for each step, which stays, and a sign of life for the one that runs."""
    output.say(prefix + step)
    status.update(escape(prefix + step))


def _show_choice(choice: Choice) -> None:
    """What was tried, then in words why others are out and which is taken."""
    table = Table("target", "passes", "labels", "accuracy", title="targets of this machine")
    sizes = list(next(trial for trial in choice.trials if trial.target == choice.target).latency_ms)
    for size in sizes:
        table.add_column(f"batch {size}", justify="right")
    for trial in choice.trials:
        proof = trial.verified
        labels = f"{proof['label_agreement']:.1%}" if proof else ""
        accuracy = "" if not proof or proof["accuracy"] is None else f"{proof['accuracy']:.1%}"
        times = [f"{trial.latency_ms[size]['median']:.2f} ms" if trial.latency_ms else "" for size in sizes]
        table.add_row(trial.target, "no" if trial.out else "yes", labels, accuracy, *times)
    tables.print_table(table)
    for trial in choice.trials:
        if trial.out:
            output.print_line(f"{trial.target}: {trial.out}")
    output.print_line(choice.why)


def _summary(manifest: Manifest) -> dict[str, Any]:
    names = ("name", "target", "plan", "plan_by_batch", "verified", "unverified_reason", "latency_ms", "quantisation")
    told = {name: getattr(manifest, name) for name in (*names, "versions", "device", "cascade", "cascade_reason")}
    confidence = None if manifest.confidence is None else manifest.confidence.summary()
    about = {"confidence": confidence, "confidence_reason": manifest.confidence_reason}
    return {"path": str(manifest.path), **told, **about, "size_bytes": manifest.engine_bytes}


def _pairs(manifest: Manifest) -> list[tuple[str, str]]:
    """What came out, property by property."""
    proof = manifest.verified
    if proof is False:
        pairs = [("verified", f"no: {manifest.unverified_reason}")]
    else:
        known = proof["accuracy"] is not None
        right = f"{proof['accuracy']:.1%} (PyTorch: {proof['reference_accuracy']:.1%})" if known else NO_ACCURACY
        pairs = [
            ("verified", f"on {proof['images']} images ({proof['source']})"),
            ("largest error", f"{proof['max_abs_error']:.1e} of a probability"),
            ("labels as PyTorch's", f"{proof['label_agreement']:.1%}"),
            ("accuracy", right),
        ]
        if found := proof.get("embedding"):
            pairs.append(
                ("embedding", f"{found['dim']} numbers, cosine with PyTorch's at least {found['min_cosine']:.5f}")
            )
    others = [f"{plan} for batch {size}" for size, plan in manifest.plan_by_batch.items() if plan != manifest.plan]
    pairs.append(("plan", ", ".join([manifest.plan, *others])))
    for plan, latencies in manifest.latency_ms.items():
        for size, row in latencies.items():
            runs_it = len(manifest.latency_ms) > 1 and manifest.plan_by_batch.get(size, manifest.plan) == plan
            runs = " (runs this size)" if runs_it else ""
            pairs.append((f"batch {size}, {plan}", f"{row['median']:.2f} ms median, {row['p95']:.2f} ms p95{runs}"))
    pairs += trust_lines(manifest)
    return [*pairs, ("size", f"{manifest.engine_bytes / 1e6:.1f} MB"), ("folder", shown(manifest.path))]
