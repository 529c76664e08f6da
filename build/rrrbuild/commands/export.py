"""`rrr export`: checkpoint to an ONNX file for other programs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from rrrbuild.exporting import DEFAULT_IMAGES, export_model
from rrrnet import output, tables
from rrrnet.checkpoint import local_checkpoint
from rrrnet.files import shown
from rrrnet.hub.reference import named


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that rrr train wrote, or hf://OWNER/NAME.")],
    out: Annotated[Path, typer.Option(metavar="FILE.onnx", help="The file to write.")],
    members: Annotated[
        bool, typer.Option("--members", help="Answer with each member's probabilities in place of their mean.")
    ] = False,
    license_: Annotated[
        str | None,
        typer.Option("--license", help="The licence that its metadata name.", show_default="that of rrr train, if any"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Images to compare on.", show_default="those that the checkpoint remembers, else made ones"),
    ] = None,
    images: Annotated[int, typer.Option(help="The most images to compare on.")] = DEFAULT_IMAGES,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write one ONNX file with labels and preprocessing, once ONNX Runtime answers by it as PyTorch does."""
    checkpoint = local_checkpoint(checkpoint, output.say)
    with output.Working("starting") as status:

        def report(step: str) -> None:
            output.say(step)
            status.update(escape(step))

        found = export_model(
            checkpoint,
            out,
            members=members,
            license_=license_,
            data=data,
            images=images,
            overwrite=overwrite,
            report=report,
        )
    size = out.stat().st_size
    if as_json:
        document = {"path": str(out), "size_bytes": size, "opset": found.opset, "output_shape": found.output_shape}
        output.print_json({**document, "verified": found.verified, "metadata": found.metadata})
        return
    proof = found.verified
    tables.print_pairs(
        [
            ("input", found.metadata["input"]),
            ("output", found.metadata["output"]),
            ("images", found.metadata["preprocess"]),
            ("largest error", f"{proof['max_abs_error']:.1e} of a probability, on {proof['images']} images"),
            ("licence", found.metadata.get("model_license", "none named: --license names one")),
            ("opset", str(found.opset)),
            ("size", f"{size / 1e6:.1f} MB"),
            ("file", shown(out)),
        ]
    )
    output.next_step("rrr", "build", named(checkpoint))
