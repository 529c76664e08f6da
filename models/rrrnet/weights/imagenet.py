"""ImageNet weights of each backbone, from the Hugging Face hub: those in its cache, else downloaded."""

from pathlib import Path

from rrrnet.errors import ArtifactError, UsageError
from rrrnet.hub.download import Say, cached, look
from rrrnet.hub.reference import Reference

# timm's own choice for each; of ResNet152 the tag that the paper's code uses. Other tags are other models.
HUB_REPOSITORIES = {
    "resnet50": "timm/resnet50.a1_in1k",
    "resnet101": "timm/resnet101.a1h_in1k",
    "resnet152": "timm/resnet152.a1h_in1k",
}
HUB_FILE = "model.safetensors"
_REMEDY = f"--weights takes the path of its {HUB_FILE} too; --weights none trains from scratch"


def hub_weights(say: Say, backbone: str) -> Path:
    """Path of the hub's file in the local cache; downloaded on first use, with a bar.

    Args:
        say: is told of a download before it begins.
        backbone: whose.

    Raises:
        ArtifactError: it is not cached, and the hub refuses, does not answer within the patience or breaks off.
        NoSpaceError: the disk is full.
    """
    reference = Reference(HUB_REPOSITORIES[backbone])
    try:
        found = cached(reference)  # the one that asks nothing of the network
        if found is None or HUB_FILE not in found.sizes:
            found = look(reference, say)
            if HUB_FILE not in found.sizes:
                raise ArtifactError(f"{reference} has no {HUB_FILE}; it holds {', '.join(found.sizes) or 'nothing'}")
            found.bring([HUB_FILE], say)
            found.remember()
    except (ArtifactError, UsageError) as error:
        raise ArtifactError(f"--weights imagenet: {error}; {_REMEDY}") from error
    return found.folder / HUB_FILE


def imagenet_or_none(say: Say, backbone: str) -> str:
    """What `--weights` is where it is not given: "imagenet", or "none" with a warning where the hub is out of reach.

    Raises:
        NoSpaceError: the disk is full.
    """
    try:
        hub_weights(say, backbone)
    except ArtifactError as error:
        say(
            f"WARNING: NO PRE-TRAINED WEIGHTS, TRAINING STARTS FROM SCRATCH: {error}".replace(
                "--weights imagenet: ", ""
            )
        )
        say("WARNING: from scratch few images give a much lower accuracy than from pre-trained weights")
        return "none"
    return "imagenet"
