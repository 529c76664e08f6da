"""`rrr train`: images to a checkpoint."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rrrnet import output

if TYPE_CHECKING:
    from rrrnet.fit import Outcome
    from rrrnet.training_state import Progress


def train(
    data: Annotated[Path, typer.Option(help="Meta-Album folder (labels.csv, images/) or one folder per class.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write; its name becomes the model's name.")],
    method: Annotated[str, typer.Option(help="ensemble, reduced, full or head: [D], [C], [B], [A].")] = "ensemble",
    members: Annotated[int, typer.Option(help="Branches of the ensemble.")] = 8,
    weights: Annotated[
        str,
        typer.Option(help="imagenet, none, a ResNet152 (.safetensors, .pth), or a checkpoint of the same network."),
    ] = "imagenet",
    recipe: Annotated[str, typer.Option(help="paper (300 epochs) or quick (minutes on a CPU).")] = "quick",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images; default: the recipe's.")] = None,
    size: Annotated[int, typer.Option(help="Height and width of the network's input in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="Decides the split and every random choice of the training.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step; default: the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; default: the recipe's.")] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Widths in multiples of 8 (not the paper's).")] = False,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the stopped training in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the checkpoint in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network: reuse, reduce and recycle a ResNet152, or train it from scratch.

    Half of each class is kept for testing. Ctrl-C leaves a checkpoint that --resume goes on with.
    """
    from rrrnet.fit import Options, fit

    options = Options(
        data=data,
        out=out,
        method=method,  # type: ignore[arg-type]  # Options itself checks the word and lists what is allowed
        members=members,
        aligned=aligned,
        weights=weights,
        recipe=recipe,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        size=size,
        seed=seed,
        precision=precision,
        device=device,
        resume=resume,
        overwrite=overwrite,
        command=shlex.join(["rrr", *sys.argv[1:]]),
    )
    with _stop_requested() as requested, output.progress_bar() as bar:
        task = bar.add_task("training", total=None, text="")

        def started(epochs: int, steps: int) -> None:
            bar.update(task, total=epochs * steps)

        def report(progress: "Progress", steps: int) -> None:
            requested.running = True
            text = f"epoch {progress.epoch + 1}  loss {progress.loss:.3f}  accuracy {progress.accuracy:.3f}"
            bar.update(task, completed=progress.epoch * steps + progress.step, text=text)

        outcome = fit(options, report=report, stop=lambda: requested.stop, say=output.messages.print, started=started)
    _finish(outcome, options.out, as_json=as_json)


@dataclass
class _Requested:
    """Whether steps run, so that a signal has something to wait for, and whether one has come."""

    running: bool = False
    stop: bool = False


@contextmanager
def _stop_requested() -> Iterator[_Requested]:
    """While steps run, the first signal asks to stop after one; any other signal interrupts at once."""
    requested = _Requested()

    def on_signal(_number: int, _frame: Any) -> None:
        if requested.stop or not requested.running:
            raise KeyboardInterrupt
        requested.stop = True
        output.messages.print("stopping after this step (again: stop now and lose the work since the last save)")

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _finish(outcome: "Outcome", out: Path, *, as_json: bool) -> None:
    """Print what was trained; exit with 130 if it was stopped."""
    checkpoint = outcome.checkpoint
    metrics = checkpoint.training["metrics"].get("test")
    if as_json:
        keys = {"name": checkpoint.name, "path": str(checkpoint.path), "method": checkpoint.method}
        output.print_json({**keys, "architecture": checkpoint.architecture.to_json(), **checkpoint.training})
    if not outcome.complete:
        output.messages.print(f"stopped: {out} can be used as it is; go on by the same command with --resume")
        raise typer.Exit(130)
    if not as_json and metrics:
        table = Table("", "accuracy", "NLL", "ECE", title=f"{checkpoint.name} on {metrics['images']} test images")
        rows = [("ensemble", metrics), *((f"member {index}", row) for index, row in enumerate(metrics["members"]))]
        for name, row in rows if len(metrics["members"]) > 1 else rows[:1]:
            label = name if len(metrics["members"]) > 1 else "network"
            table.add_row(label, f"{row['accuracy']:.3f}", f"{row['nll']:.3f}", f"{row['ece']:.3f}")
        output.console.print(table)
    if not as_json:
        output.console.print(f"checkpoint: {out}\nnext: rrr build {out}", highlight=False)
