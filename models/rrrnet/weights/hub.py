"""The pre-trained backbones of the Hugging Face hub: from the local cache, else downloaded, else soon given up."""

import io
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrrnet.errors import FULL_DISK, ArtifactError, NoSpaceError
from rrrnet.output import progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# timm's own choice for each; of ResNet152 the tag that the paper's code uses. Other tags are other models.
HUB_REPOSITORIES = {
    "resnet50": "timm/resnet50.a1_in1k",
    "resnet101": "timm/resnet101.a1h_in1k",
    "resnet152": "timm/resnet152.a1h_in1k",
}
HUB_FILE = "model.safetensors"
PATIENCE_SECONDS = 4.0  # until the hub is taken for unreachable, name lookup included
_REMEDY = f"download {HUB_FILE} elsewhere and give its path to --weights, or train from scratch: --weights none"


def hub_weights(say: Callable[[str], None], backbone: str) -> Path:
    """Path of the hub's file in the local cache; downloaded on first use, with a bar.

    Args:
        say: is told of a download before it begins.
        backbone: whose.

    Raises:
        ArtifactError: it is not cached, and the hub does not answer within `PATIENCE_SECONDS` or breaks off.
        NoSpaceError: the disk is full.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils.logging import set_verbosity_error

    repository = HUB_REPOSITORIES[backbone]
    set_verbosity_error()  # its retries are not news; our own error tells how it ended
    cached = try_to_load_from_cache(repository, HUB_FILE)  # the one call that asks nothing of the network
    if isinstance(cached, str):
        return Path(cached)
    size = _ask_hub(repository)
    say(f"downloading {repository} from the Hugging Face hub, once ({size})")
    try:
        with progress_bar() as bar:
            tqdm_class: Any = _told_to(bar, bar.add_task("downloading, MB", total=None, text=""))
            return Path(hf_hub_download(repository, HUB_FILE, etag_timeout=PATIENCE_SECONDS, tqdm_class=tqdm_class))
    except Exception as error:  # of HTTP libraries that differ from version to version, and of the operating system
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise NoSpaceError(f"no space left to download {repository}: set HF_HOME to a larger disk") from error
        raise ArtifactError(_message(repository, f"the download broke off ({_short(error)})")) from error


def imagenet_or_none(say: Callable[[str], None], backbone: str) -> str:
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


def _told_to(bar: "Progress", task: "TaskID") -> Callable[..., Any]:
    """What makes a tqdm that draws nothing but moves our bar.

    Its own is silent without a terminal, and at one it would be lost under the bar of the training.
    """
    from huggingface_hub.utils import tqdm

    class Told(tqdm):  # type: ignore[misc]  # a class of a package without types
        def display(self, *_: Any, **__: Any) -> bool:
            bar.update(task, completed=self.n / 1e6, total=self.total and self.total / 1e6)
            return True

    return partial(Told, file=io.StringIO())


def _ask_hub(repository: str) -> str:
    """The size of the file in words; asked in a thread, for a lookup of the hub's name can hang for longer.

    Raises:
        ArtifactError: no answer, or not this one.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    answers: list[int | Exception | None] = []

    def ask() -> None:
        try:
            answers.append(get_hf_file_metadata(hf_hub_url(repository, HUB_FILE), timeout=PATIENCE_SECONDS).size)
        except Exception as error:  # as above
            answers.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    found = answers[0] if answers else TimeoutError(f"no answer within {PATIENCE_SECONDS:g} s")
    if isinstance(found, Exception):
        raise ArtifactError(_message(repository, _short(found))) from found
    return f"{found / 1e6:.0f} MB" if found else "100 to 240 MB"


def _message(repository: str, reason: str) -> str:
    return f"--weights imagenet: {repository} is neither cached nor reachable from here ({reason}); {_REMEDY}"


def _short(error: Exception) -> str:
    """The error's first line; its text can be a page."""
    offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE")
    text = "HF_HUB_OFFLINE is set" if offline and "ffline" in str(error) else str(error).strip().partition("\n")[0]
    return text[:120].rstrip(".") or type(error).__name__
