"""Which weights a training starts from where they are not given."""

from dataclasses import replace
from typing import TYPE_CHECKING

from rrrnet.checkpoint import read_checkpoint
from rrrnet.errors import ArtifactError
from rrrnet.hub.reference import parse_weights
from rrrnet.training import training_state
from rrrnet.weights.hub import hub_weights, imagenet_or_none
from rrrnet.weights.pretrained import read_pretrained
from rrrnet.weights.repositories import download_weights
from rrrnet.weights.start import Say
from rrrnet.weights.warm_start import is_checkpoint

if TYPE_CHECKING:
    from rrrnet.training.options import Options


def settle_weights(options: "Options", say: Say) -> "Options":
    """The options with the weights that are to be had; downloads them if need be.

    Args:
        options: what is asked for, with `weights` "imagenet" where `weights_given` is false.
        say: is told of a download, and in loud words that there is none.

    Raises:
        ArtifactError: `--weights imagenet` is given and out of reach, or nothing would be trained without it; the file
            given holds no such network.
    """
    if options.weights_given:
        reference = parse_weights(options.weights)
        if reference is not None and options.resume:
            return options  # what it goes on with is in the checkpoint
        if reference is not None:
            download_weights(reference, say)
        if options.weights == "imagenet":
            hub_weights(say)
        elif options.data is not None and not is_checkpoint(options.weights) and options.weights != "none":
            read_pretrained(options.weights, key=options.weights_key)  # refused before minutes of reading images
        return options
    if options.resume and (options.out / training_state.RESUME).exists():
        read_checkpoint(options.out)  # its digests, before anything is parsed
        return replace(options, weights=training_state.read_settings(options.out)["weights"])
    if options.resume or imagenet_or_none(say) == "imagenet":
        return options
    if options.epochs == 0:
        raise ArtifactError(
            "--epochs 0 trains nothing, and there are no pre-trained weights to take as they are: give --weights FILE, "
            "or --weights none where only the speed matters"
        )
    return replace(options, weights="none", command=f"{options.command} --weights none")
