"""`rrr describe`: what a network consists of and what it costs, beside the backbone it comes from."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rrrnet import output, tables
from rrrnet.checkpoint import local_checkpoint, read_checkpoint
from rrrnet.errors import UsageError
from rrrnet.hub.reference import named
from rrrnet.network import architecture as shapes
from rrrnet.network.architecture import Architecture


def describe(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A checkpoint folder, or hf://OWNER/NAME; or give --members.")
    ] = None,
    members: Annotated[int | None, typer.Option(help="Branches of the ensemble; 1 is the reduced network.")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.", show_default="20")] = None,
    size: Annotated[
        int | None, typer.Option(help="Image size in pixels.", show_default="128, or the checkpoint's")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="What it is reduced from and compared with: resnet50, resnet101 or resnet152.",
            show_default="each; with --json resnet152",
        ),
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Widths in multiples of 8.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show widths, parameters and multiply-accumulates, and the ratio to the backbone, a ResNet50, 101 or 152."""
    if checkpoint is not None and (members is not None or classes is not None or backbone is not None or aligned):
        raise UsageError("give a checkpoint, or --members, --classes and --backbone, not both")
    if checkpoint is not None:
        checkpoint = local_checkpoint(checkpoint, output.say)
        read = read_checkpoint(checkpoint)
        network, pixels = read.architecture, read.preprocess.size if size is None else size
        document = summarise(network, pixels)
        document = {"name": read.name, "method": read.method, "labels": list(read.labels), **document}
        document |= {"preprocess": read.preprocess.to_json(), "preprocess_text": read.preprocess.describe()}
    else:
        num_classes, count = 20 if classes is None else classes, 8 if members is None else members
        whole = shapes.DEFAULT_BACKBONE if backbone is None else backbone
        network = shapes.ensemble(num_classes, count, aligned=aligned, backbone=whole)
        pixels = 128 if size is None else size
        document = summarise(network, pixels)
    if as_json:
        output.print_json(document)
    else:
        names = shapes.BACKBONES if checkpoint is None and backbone is None else [network.backbone]
        tables.print_table(_table([summarise(replace(network, backbone=name), pixels) for name in names]))
        if checkpoint is not None:
            output.print_line(f"images: {document['preprocess_text']}")
            output.next_step("rrr", "build", named(checkpoint))
        else:
            options = ["--members", document["members"], *(["--aligned"] if aligned else [])]
            options += [] if backbone is None else ["--backbone", backbone]
            sized = [] if size is None else ["--size", size]
            output.next_step("rrr", "train", "--data", "my_images", "--out", "artifacts/models/mine", *options, *sized)


def summarise(network: Architecture, image_size: int) -> dict[str, Any]:
    """Costs of `network` and of its whole backbone with the same classes, for one image."""
    if not 32 <= image_size <= 1024:
        raise UsageError(f"--size {image_size}: allowed are 32 to 1024 pixels")
    costs = shapes.cost(network, image_size)
    whole = shapes.full(network.num_classes, backbone=network.backbone)
    baseline = shapes.cost(whole, image_size)["total"]
    return {
        "members": network.members,
        "num_classes": network.num_classes,
        "image_size": image_size,
        "backbone": network.backbone,
        "blocks": list(network.blocks),
        "widths": list(network.widths),
        **costs["total"],
        "stem": costs["stem"],
        "member": costs["member"],
        "baseline": baseline,
        "ratio": {key: baseline[key] / costs["total"][key] for key in ("parameters", "macs")},
    }


def _table(documents: list[dict[str, Any]]) -> Table:
    """The network, beside each backbone that one of the documents compares it with."""
    document = documents[0]
    title = f"{document['members']} member(s), {document['num_classes']} classes, {document['image_size']} pixels"
    table = Table("", "blocks", "widths", "parameters (M)", "MACs (M)", title=title)
    blocks, widths = document["blocks"], document["widths"]

    def row(name: str, blocks_text: str, widths_text: str, costs: dict[str, int]) -> None:
        table.add_row(name, blocks_text, widths_text, f"{costs['parameters'] / 1e6:.3f}", f"{costs['macs'] / 1e6:.1f}")

    row("stem, shared", f"{blocks[0]}, {blocks[1]}", "64, 128", document["stem"])
    row("one member", f"{blocks[2]}, {blocks[3]}", f"{widths[0]}, {widths[1]}", document["member"])
    row("all", "", "", document)
    for compared in documents:
        name, ratio = compared["backbone"], compared["ratio"]
        whole_blocks = ", ".join(map(str, shapes.BACKBONES[name]))
        row(shapes.backbone_title(name), whole_blocks, "64, 128, 256, 512", compared["baseline"])
        ratios = (f"{ratio['parameters']:.2f}x", f"{ratio['macs']:.2f}x")
        table.add_row(f"{shapes.backbone_title(name)} / all", "", "", *ratios)
    return table
