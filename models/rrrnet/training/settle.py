"""Which weights a training starts from where they are not given, and of which backbone."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rrrnet.checkpoint import read_checkpoint
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.hub.reference import parse_weights
from rrrnet.network.architecture import DEFAULT_BACKBONE, backbone_title
from rrrnet.training import training_state
from rrrnet.weights.imagenet import hub_weights, imagenet_or_none
from rrrnet.weights.pretrained import read_pretrained
from rrrnet.weights.repositories import download_weights
from rrrnet.weights.start import Say
from rrrnet.weights.warm_start import is_checkpoint

if TYPE_CHECKING:
    from rrrnet.training.options import Options


def settle_weights(options: "Options", say: Say) -> "Options":
    """The options with the weights that are to be had, downloaded if need be, and the name of their backbone.

    Args:
        options: what is asked for, with `weights` "imagenet" where `weights_given` is false.
        say: is told of a download, and in loud words that there is none.

    Raises:
        UsageError: the weights are of another backbone than `--backbone`.
        ArtifactError: `--weights imagenet` is given and out of reach, or nothing would be trained without it; the file
            given holds no such network.
    """
    options = _with_weights(options, say)
    found, where = _backbone_of_weights(options)
    if options.backbone not in (None, found):
        asked = backbone_title(options.backbone)
        raise UsageError(
            f"{where} is a {backbone_title(found)}, not a {asked}: leave out --backbone {options.backbone}"
        )
    return replace(options, backbone=found)


def _backbone_of_weights(options: "Options") -> tuple[str, str]:
    """The backbone and where that is known from: a file is read before minutes of reading images."""
    weights = options.weights
    if options.resume:
        return read_checkpoint(options.out).architecture.backbone, f"--resume: what {options.out} is trained from"
    if weights in ("none", "imagenet"):
        return options.backbone or DEFAULT_BACKBONE, ""
    if is_checkpoint(weights):
        return read_checkpoint(Path(weights)).architecture.backbone, f"--weights {weights}: what it was trained from"
    return read_pretrained(weights, key=options.weights_key).found.backbone, f"--weights {weights}"


def _with_weights(options: "Options", say: Say) -> "Options":
    backbone = options.backbone or DEFAULT_BACKBONE
    if options.weights_given:
        reference = parse_weights(options.weights)
        if options.resume:
            return options  # what it goes on with is in the checkpoint
        if reference is not None:
            download_weights(reference, say)
        if options.weights == "imagenet":
            hub_weights(say, backbone)
        return options
    if options.resume and (options.out / training_state.RESUME).exists():
        read_checkpoint(options.out)  # its digests, before anything is parsed
        return replace(options, weights=training_state.read_settings(options.out)["weights"])
    if options.resume or imagenet_or_none(say, backbone) == "imagenet":
        return options
    if options.epochs == 0:
        raise ArtifactError(
            "--epochs 0 trains nothing, and there are no pre-trained weights to take as they are: give --weights FILE, "
            "or --weights none where only the speed matters"
        )
    return replace(options, weights="none", command=f"{options.command} --weights none")
