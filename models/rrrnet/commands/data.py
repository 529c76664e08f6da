"""`rrr data`: make data sets."""

from pathlib import Path
from typing import Annotated

import typer

from rrrnet import output, tables
from rrrnet.glyphs.options import ALL, BACKGROUNDS, SCRIPTS, GlyphOptions

_DEFAULTS = GlyphOptions()


data = typer.Typer(no_args_is_help=True, help="Make data sets.")


@data.command()
def glyphs(
    out: Annotated[Path, typer.Argument(help="Folder to make; an earlier generated data set there is replaced.")],
    classes: Annotated[int, typer.Option(help="Number of letters.")] = _DEFAULTS.classes,
    per_class: Annotated[int, typer.Option(help="Images of each letter.")] = _DEFAULTS.per_class,
    size: Annotated[int, typer.Option(help="Height and width in pixels.")] = _DEFAULTS.size,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal images.")] = _DEFAULTS.seed,
    script: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SCRIPTS)} or {ALL}; may be repeated.", show_default="latin")
    ] = None,
    rotation: Annotated[float, typer.Option(help="Up to so many degrees to either side.")] = _DEFAULTS.rotation,
    shear: Annotated[float, typer.Option(help="Horizontal shear factor, up to.")] = _DEFAULTS.shear,
    stretch: Annotated[float, typer.Option(help="Logarithm of width over height, up to.")] = _DEFAULTS.stretch,
    perspective: Annotated[float, typer.Option(help="Shift of the corners, up to.")] = _DEFAULTS.perspective,
    elastic: Annotated[float, typer.Option(help="Shift of the nodes of a grid, up to.")] = _DEFAULTS.elastic,
    translation: Annotated[float, typer.Option(help="0 is the middle, 1 anywhere.")] = _DEFAULTS.translation,
    noise: Annotated[float, typer.Option(help="Noise of noise backgrounds, up to.")] = _DEFAULTS.noise,
    blur: Annotated[float, typer.Option(help="Blur in pixels at size 128, up to.")] = _DEFAULTS.blur,
    contrast: Annotated[float, typer.Option(help="Contrast with the background, at least.")] = _DEFAULTS.contrast,
    background: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(BACKGROUNDS)}; may be repeated.", show_default="all of them")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document.")] = False,
) -> None:
    """Generate distorted printed letters in Meta-Album layout, in the manner of OmniPrint.

    Every factor of every image stands in labels.csv.
    """
    options = GlyphOptions(
        classes=classes,
        per_class=per_class,
        size=size,
        seed=seed,
        scripts=tuple(script) if script else _DEFAULTS.scripts,
        rotation=rotation,
        shear=shear,
        stretch=stretch,
        perspective=perspective,
        elastic=elastic,
        translation=translation,
        noise=noise,
        blur=blur,
        contrast=contrast,
        backgrounds=tuple(background) if background else _DEFAULTS.backgrounds,
    )
    from rrrnet.glyphs.generate import generate_glyphs

    with output.progress_bar() as bar:
        task = bar.add_task("drawing letters", total=options.classes * options.per_class, text="")
        images = generate_glyphs(out, options, progress=lambda done: bar.update(task, completed=done))
    summary = {
        "path": str(images.root),
        "name": images.name,
        "classes": len(images.classes),
        "images": len(images.files),
        "sha256": images.sha256,
    }
    if as_json:
        output.print_json({**summary, "labels": list(images.classes), "command": options.command(out)})
        return
    tables.print_pairs((key, str(value)) for key, value in summary.items())
    output.next_step("rrr", "train", "--data", out, "--out", f"artifacts/models/{images.name}")
