"""`rrr train`: images to a checkpoint."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rrrnet import output, tables
from rrrnet.commands.flags import Groups, MinPerClass, TestData
from rrrnet.commands.score_tables import class_lines, scores_table
from rrrnet.stopping import stop_requested
from rrrnet.training.threads import configure_threads

if TYPE_CHECKING:
    from rrrnet.training.fit import Outcome

_STOPPING = "stopping after this step (again: stop now and lose the work since the last save)"


def train(
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write; its name becomes the model's name.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Meta-Album folder (labels.csv, images/), one folder per class, or such in train/, val/ and test/; "
            "an import with --labels needs none.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="ensemble, reduced, full or head: [D], [C], [B], [A].")] = "ensemble",
    members: Annotated[int, typer.Option(help="Branches of the ensemble.")] = 8,
    weights: Annotated[
        str | None,
        typer.Option(
            help="imagenet, none, a ResNet50, 101 or 152 (safetensors, or of torch.save), one of the hub "
            "(hf://OWNER/NAME, timm/resnet152.a1h_in1k), or a checkpoint of the same network.",
            show_default="imagenet, or none where the hub cannot be reached",
        ),
    ] = None,
    weights_key: Annotated[
        str | None, typer.Option(help="Which network in the file of --weights, like state_dict_ema.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="resnet50, resnet101 or resnet152: which one imagenet and none are of; other weights tell it, and "
            "are refused if it is another.",
            show_default="that of the weights, else resnet152",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="The classes in the order of the network's outputs, one a line.", show_default="by name"),
    ] = None,
    recipe: Annotated[str, typer.Option(help="paper (300 epochs) or quick (minutes on a CPU).")] = "quick",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images; default: the recipe's.")] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Height and width of the network's input in pixels, the whole image squashed.",
            show_default="128, from scratch 64",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Train for about so long: steps are timed first, then size and epochs are chosen and printed."
        ),
    ] = None,
    balance: Annotated[
        str, typer.Option(help="For classes of unequal size: none, weights (of the loss) or sampler (equal draws).")
    ] = "none",
    early_stopping: Annotated[
        bool,
        typer.Option(
            "--early-stopping/--no-early-stopping",
            help="Keep the best epoch on the validation images and stop when none gets better; only under a constant "
            "learning rate (recipe paper) and with 200 validation images or more.",
        ),
    ] = True,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint of the same classes, e.g. of --method full: each member learns its probabilities beside "
            "the labels.",
            show_default=False,
        ),
    ] = None,
    teacher_temperature: Annotated[
        float | None, typer.Option(help="Softens what the teacher says; 1 leaves it as it is.", show_default="2")
    ] = None,
    teacher_weight: Annotated[
        float | None, typer.Option(help="Its share of the loss; the labels have the rest.", show_default="0.9")
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images, at any depth, of which only the teacher says something: in each step as many as of "
            "the labelled ones.",
            show_default=False,
        ),
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="squash (the whole image to --size), or crop (--resize, then --crop).")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Pixels of the shorter side, before --crop.", show_default="256")
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(help="The network's size: a square from the middle; excludes --size.", show_default="224"),
    ] = None,
    interpolation: Annotated[str | None, typer.Option(help="bilinear or bicubic.", show_default="bilinear")] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Mean of pixels in [0, 1].", show_default="ImageNet's")
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Their standard deviation.", show_default="ImageNet's")
    ] = None,
    bgr: Annotated[
        bool | None, typer.Option("--bgr/--rgb", help="Order of the network's input channels.", show_default="RGB")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(help="Width x height of the largest image to take; decoding takes 4 to 12 bytes a pixel.")
    ] = 200_000_000,
    seed: Annotated[int, typer.Option(help="Decides the split and every random choice of the training.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step; default: the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; default: the recipe's.")] = None,
    augmentation: Annotated[
        str | None,
        typer.Option(
            help="Random changes of training images: paper, quick, scratch (colours too) or none.",
            show_default="the recipe's; scratch for quick from random weights in 20 epochs and more",
        ),
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Widths in multiples of 8 (not the paper's).")] = False,
    slices: Annotated[
        str,
        typer.Option(
            help="Which input channels of a pre-trained convolution a member takes: the first ones (the paper's), or "
            "those matched to what the member kept of the convolution before, which learn faster.",
        ),
    ] = "first",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the stopped training in --out.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse data of which some file cannot be taken.")] = False,
    test_fraction: Annotated[
        float | None,
        typer.Option(help="Share of each class kept for testing; default: 0.2, of Meta-Album folders 0.5."),
    ] = None,
    test_data: TestData = None,
    groups: Groups = None,
    min_per_class: MinPerClass = None,
    license: Annotated[  # noqa: A002 - the flag's name, and that of the function's argument (rrrnet.train)
        str | None, typer.Option(help="The licence that the checkpoint's page for the hub names, like apache-2.0.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the checkpoint in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network: reuse, reduce and recycle a ResNet50, 101 or 152, or train it from scratch.

    Of each class a part is kept to test and one to validate. Ctrl-C leaves a checkpoint that --resume goes on with.
    """
    configure_threads()
    from rrrnet.data.training_data import DataOptions
    from rrrnet.images.preprocess_options import PreprocessOptions
    from rrrnet.training.bar import training_bar
    from rrrnet.training.fit import fit
    from rrrnet.training.options import Options

    options = Options(
        data=data,
        out=out,
        method=method,  # type: ignore[arg-type]  # Options itself checks the word and lists what is allowed
        members=members,
        aligned=aligned,
        slices=slices,  # type: ignore[arg-type]  # as of method
        weights="imagenet" if weights is None else weights,
        weights_given=weights is not None,
        weights_key=weights_key,
        backbone=backbone,
        labels=labels,
        recipe=recipe,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        augmentation=augmentation,
        size=size,
        minutes=minutes,
        balance=balance,
        early_stopping=early_stopping,
        teacher=teacher,
        teacher_temperature=teacher_temperature,
        teacher_weight=teacher_weight,
        unlabelled=unlabelled,
        preprocess=PreprocessOptions(preprocess, resize, crop, interpolation, mean, std, bgr),
        max_pixels=max_pixels,
        seed=seed,
        precision=precision,
        device=device,
        resume=resume,
        overwrite=overwrite,
        license=license,
        command=shlex.join(["rrr", *sys.argv[1:]]),
        data_options=DataOptions(strict, test_fraction, test_data, groups, min_per_class),
    )
    with (
        stop_requested(_STOPPING) as requested,
        training_bar(requested, reads_images=data is not None) as (started, report),
    ):
        outcome = fit(options, report=report, stop=lambda: requested.stop, say=output.say, started=started)
    _finish(outcome, options.out, as_json=as_json)


def _finish(outcome: "Outcome", out: Path, *, as_json: bool) -> None:
    """Print what was trained; exit with 130 if it was stopped."""
    checkpoint = outcome.checkpoint
    metrics = checkpoint.training["metrics"].get("test")
    if as_json:
        keys = {"name": checkpoint.name, "path": str(checkpoint.path), "method": checkpoint.method}
        output.print_json({**keys, "architecture": checkpoint.architecture.to_json(), **checkpoint.training})
    if not outcome.complete:
        output.say(f"stopped: {out} can be used as it is; go on by the same command with --resume")
        if not as_json:
            again = [word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]
            output.next_step("rrr", *again, "--resume")
        raise typer.Exit(130)
    if not as_json and metrics:
        tables.print_table(scores_table(f"{checkpoint.name} on {metrics['images']} test images", metrics))
        output.print_line("\n".join(class_lines(metrics)))
    if not as_json:
        output.print_line(f"checkpoint: {out}")
        output.next_step("rrr", "build", out)
