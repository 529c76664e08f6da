"""`rrr advise`: whether a smaller network would do for one's own, and how much faster it is."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrrbuild.advise.plan import DEFAULT_MEMBERS, OWN, parse_members
from rrrbuild.advise.recommend import Advice, recommend
from rrrbuild.advise.table import document, lines_of, table_of
from rrrnet import output, tables
from rrrnet.commands.flags import Groups, MinPerClass, TestData
from rrrnet.errors import UsageError
from rrrnet.files import shown
from rrrnet.stopping import stop_requested
from rrrnet.training.threads import configure_threads

if TYPE_CHECKING:
    from rrrbuild.advise.run import Advising

OUT = Path("artifacts/advise")
DEFAULT_MINUTES = 20.0
_STOPPING = "stopping after this step (again: stop now and lose this training); what was measured is kept"


def advise(
    weights: Annotated[
        str,
        typer.Option(
            help="Your network: a ResNet50, 101 or 152 (safetensors, or of torch.save), a checkpoint of rrr train "
            "--method full, or imagenet."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Labelled images, in a layout that rrr train takes.")],
    minutes: Annotated[float, typer.Option(help="The time for everything.")] = DEFAULT_MINUTES,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, engines and a JSON file a row.")] = OUT,
    target: Annotated[
        str | None, typer.Option(help="Target of all engines.", show_default="the best of this machine")
    ] = None,
    members: Annotated[
        str | None,
        typer.Option(
            help="Numbers of members to compare; 1 is the reduced network.",
            show_default=f"{','.join(map(str, DEFAULT_MEMBERS))}, and others where there is time",
        ),
    ] = None,
    max_drop: Annotated[float, typer.Option(help="Percentage points of accuracy that may be lost.")] = 1.0,
    weights_key: Annotated[
        str | None, typer.Option(help="Which network in the file of --weights, like state_dict_ema.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="The classes in the order of your network's outputs, one a line.", show_default="by name"),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Height and width of the input, the whole image squashed.", show_default="128")
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="squash (the whole image to --size), or crop (--resize, then --crop).")
    ] = None,
    resize: Annotated[int | None, typer.Option(help="Pixels of the shorter side, before --crop.")] = None,
    crop: Annotated[int | None, typer.Option(help="The network's size: a square from the middle.")] = None,
    interpolation: Annotated[str | None, typer.Option(help="bilinear or bicubic.", show_default="bilinear")] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Of pixels in [0, 1].", show_default="ImageNet's")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="Their standard deviation.")] = None,
    bgr: Annotated[
        bool | None, typer.Option("--bgr/--rgb", help="Order of the input channels.", show_default="RGB")
    ] = None,
    test_data: TestData = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Share of each class kept for testing, as of rrr train.")
    ] = None,
    groups: Groups = None,
    min_per_class: MinPerClass = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure whether a smaller network would be as good as yours, and how much faster it is.

    In the time given it trains reduced networks and ensembles, and measures their accuracy, speed and size beside
    yours. Ctrl-C keeps what was measured; the same command again goes on.
    """
    if max_drop < 0:
        raise UsageError(f"--max-drop {max_drop:g}: allowed are 0 and more percentage points")
    given = {
        "labels": labels,
        "size": size,
        "preprocess": preprocess,
        "resize": resize,
        "crop": crop,
        "interpolation": interpolation,
        "mean": mean,
        "std": std,
        "bgr": bgr,
        "test_data": test_data,
        "test_fraction": test_fraction,
        "groups": groups,
        "min_per_class": min_per_class,
    }
    numbers = None if members is None else parse_members(members)
    configure_threads()
    from rrrbuild.advise.ask import Asked, measure

    flags = {name: value for name, value in given.items() if value is not None}
    asked = Asked(weights, data, out, minutes, target, numbers, weights_key, flags)
    with stop_requested(_STOPPING) as requested:
        advising, stopped = measure(asked, requested)
    _tell(advising, max_drop, minutes, out, stopped=stopped, as_json=as_json)


def _tell(advising: "Advising", max_drop: float, minutes: float, out: Path, *, stopped: bool, as_json: bool) -> None:
    """The table and what follows from it; exit with 130 where it was stopped."""
    own, *others = rows = advising.table()
    advice = recommend(others, own, max_drop, flattered=advising.flattered)
    words = sys.argv[1:] if stopped else _next(advice, advising.target, minutes, out)
    if as_json:
        told: dict[str, Any] = {**document(rows, advising.target, advice, advising.notes), "stopped": stopped}
        output.print_json(told | {"next": output.quoted("rrr", *words)})
    else:
        if own.speed is not None:
            tables.print_table(table_of(rows, advising.target))
        output.print_line("\n".join([*lines_of(rows, advising.notes), advice.why]))
        if stopped:
            output.say(f"stopped: {out} keeps what was measured; the same command again goes on")
        output.next_step("rrr", *words)
    if stopped:
        raise typer.Exit(130)


def _next(advice: Advice, target: str, minutes: float, out: Path) -> list[object]:
    """Words of the command that takes the recommended network further, or that looks longer."""
    if advice.name is not None:
        insisting = ["--target", target] if advice.name != OWN else []  # that one may be refused for one's own
        return ["build", shown(out / "models" / advice.name), *insisting]
    words, kept = iter(sys.argv[1:]), list[object]()
    for word in words:
        name, given, _ = word.partition("=")
        if name != "--minutes":
            kept.append(word)
        elif not given:
            next(words, None)
    return [*kept, "--minutes", f"{2 * minutes:g}"]
