"""The pre-trained ResNet152 of the Hugging Face hub: from the local cache, else downloaded, else soon given up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rrrnet.errors import FULL_DISK, ArtifactError, NoSpaceError
from rrrnet.hub import download
from rrrnet.output import progress_bar

HUB_REPOSITORY = "timm/resnet152.a1h_in1k"  # the tag the paper's code uses; other tags are other models
HUB_FILE = "model.safetensors"
_REMEDY = f"download {HUB_FILE} elsewhere and give its path to --weights, or train from scratch: --weights none"


def hub_weights(say: Callable[[str], None]) -> Path:
    """Path of the hub's file in the local cache; downloaded on first use, with a bar.

    Args:
        say: is told of a download before it begins.

    Raises:
        ArtifactError: it is not cached, and the hub does not answer within the patience or breaks off.
        NoSpaceError: the disk is full.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # its retries are not news; our own error tells how it ended
    cached = try_to_load_from_cache(HUB_REPOSITORY, HUB_FILE)  # the one call that asks nothing of the network
    if isinstance(cached, str):
        return Path(cached)
    size = _ask_hub()
    say(f"downloading {HUB_REPOSITORY} from the Hugging Face hub, once ({size})")
    try:
        with progress_bar() as bar:
            tqdm_class: Any = download.told_to(bar, bar.add_task("downloading, MB", total=None, text=""))
            return Path(
                hf_hub_download(HUB_REPOSITORY, HUB_FILE, etag_timeout=download.PATIENCE_SECONDS, tqdm_class=tqdm_class)
            )
    except Exception as error:  # of HTTP libraries that differ from version to version, and of the operating system
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise NoSpaceError(f"no space left to download {HUB_REPOSITORY}: set HF_HOME to a larger disk") from error
        raise ArtifactError(_message(f"the download broke off ({download.short(error)})")) from error


def imagenet_or_none(say: Callable[[str], None]) -> str:
    """What `--weights` is where it is not given: "imagenet", or "none" with a warning where the hub is out of reach.

    Raises:
        NoSpaceError: the disk is full.
    """
    try:
        hub_weights(say)
    except ArtifactError as error:
        say(
            f"WARNING: NO PRE-TRAINED WEIGHTS, TRAINING STARTS FROM SCRATCH: {error}".replace(
                "--weights imagenet: ", ""
            )
        )
        say("WARNING: from scratch few images give a much lower accuracy than from pre-trained weights")
        return "none"
    return "imagenet"


def _ask_hub() -> str:
    """The size of the file in words; asked with patience.

    Raises:
        ArtifactError: no answer, or not this one.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    patience = download.PATIENCE_SECONDS
    try:
        found = download.within_patience(
            lambda: get_hf_file_metadata(hf_hub_url(HUB_REPOSITORY, HUB_FILE), timeout=patience).size
        )
    except Exception as error:  # as above
        raise ArtifactError(_message(download.short(error))) from error
    return f"{found / 1e6:.0f} MB" if found else "some 240 MB"


def _message(reason: str) -> str:
    return f"--weights imagenet: {HUB_REPOSITORY} is neither cached nor reachable from here ({reason}); {_REMEDY}"
