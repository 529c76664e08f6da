"""`rrr adapt`: a trained network at other image sizes."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from rrrnet import output, tables
from rrrnet.stopping import stop_requested
from rrrnet.training.recipes import ADAPT_EPOCHS, ADAPT_LR
from rrrnet.training.threads import configure_threads

if TYPE_CHECKING:
    from rrrnet.training.adapt import Adapted

_STOPPING = "stopping after this step: the size that is being tuned is not written"


def adapt(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder; it stays as it is.")],
    size: Annotated[list[int], typer.Option(help="Pixels of the network's input; may be given repeatedly.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write; with several sizes OUT-SIZE for each.")],
    data: Annotated[Path | None, typer.Option(help="Data folder; default: the one it was trained on.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images for each size.")] = ADAPT_EPOCHS,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = ADAPT_LR,
    seed: Annotated[int, typer.Option(help="Decides the order of the images.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the checkpoints that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tune classifiers and last BNs at other image sizes (FixRes), and show accuracy against cost.

    The best is chosen on the validation images of the training; accuracy is told on its test images.
    """
    configure_threads()
    from rrrnet.training import adapt as adapting
    from rrrnet.training.bar import training_bar

    command = shlex.join(["rrr", *sys.argv[1:]])
    options = adapting.AdaptOptions(checkpoint, out, tuple(size), data, epochs, lr, seed, device, overwrite, command)
    with stop_requested(_STOPPING) as requested, training_bar(requested, reads_images=True) as (started, report):
        found = adapting.adapt(options, report=report, stop=lambda: requested.stop, say=output.say, started=started)
    _finish(found, options.outs(), checkpoint, as_json=as_json)


def _finish(found: Sequence["Adapted"], outs: dict[int, Path], source: Path, *, as_json: bool) -> None:
    """Print what was written; exit with 130 if it was stopped before all sizes were."""
    judged = [one for one in found if one.taken["val"] is not None]
    best = max(judged, key=lambda one: (one.taken["val"] or 0.0, -one.macs), default=None)
    if as_json:
        written = [one.to_json() for one in found]
        output.print_json({"from": str(source), "sizes": written, "best": best and str(best.checkpoint.path)})
    elif found:
        tables.print_table(_table(found, best, source))
    if len(found) < len(outs):
        missing = ", ".join(str(size) for size in list(outs)[len(found) :])
        output.say(f"stopped: nothing was written for {missing} pixels; ask for these again")
        raise typer.Exit(130)
    if not as_json:
        if best is not None and len(found) > 1:
            output.print_line("best: the highest accuracy on the validation images, the cheaper where two are alike")
        output.next_step("rrr", "build", outs[(best or found[-1]).checkpoint.preprocess.size])


def _table(found: Sequence["Adapted"], best: "Adapted | None", source: Path) -> Table:
    columns = ("pixels", "MACs (M)", "PyTorch (ms)", "validation", "test", "weights", "")
    table = Table(*columns, title=escape(f"{source.name}: accuracy at this size, as it was -> tuned"))
    for one in found:
        table.add_row(
            str(one.checkpoint.preprocess.size),
            f"{one.macs / 1e6:.1f}",
            f"{one.milliseconds:.1f}",
            *(" -> ".join(_shown(row[part]) for row in (one.before, one.after)) for part in ("val", "test")),
            "tuned" if one.tuned else "as they were",
            "best" if one is best and len(found) > 1 else "",
        )
    return table


def _shown(accuracy: float | None) -> str:
    return "none" if accuracy is None else f"{accuracy:.3f}"
