"""Where pre-trained ResNet152 tensors come from: a safetensors file, a `.pth`, the hub, or nowhere."""

import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rrrnet.errors import ArtifactError, UsageError
from rrrnet.sealed import sha256_of
from rrrnet.warm_start import is_checkpoint

HUB_REPOSITORY = "timm/resnet152.a1h_in1k"  # the tag the paper's code uses; other tags are other models
HUB_FILE = "model.safetensors"
_PICKLED = (".pth", ".pt", ".bin")
_COUNTER = "num_batches_tracked"  # of batch normalisation, and a whole number


def read_pretrained(weights: str) -> tuple[dict[str, Tensor], str]:
    """Read the tensors named by `--weights`.

    Args:
        weights: "imagenet", or the path of a `.safetensors`, `.pth`, `.pt` or `.bin` file.

    Returns:
        Tensors by torchvision's names, and their origin in words.

    Raises:
        UsageError: no such file, or an ending that is not known.
        ArtifactError: the file cannot be read, or the hub cannot be reached.
    """
    check_source(weights)
    path = _fetch() if weights == "imagenet" else Path(weights)
    name = f"{HUB_REPOSITORY} from the Hugging Face hub" if weights == "imagenet" else path.name
    origin = f"{name}, sha256 {sha256_of(path)}"
    if path.suffix in _PICKLED:
        tensors = _read_pth(path)
    else:
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read as safetensors: {error}") from error
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() and not key.endswith(_COUNTER):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ArtifactError(f"{path}: {key} holds {kind}: weights must be floating-point numbers")
    return tensors, origin


def check_source(weights: str) -> None:
    """See, before any work, that `--weights` names something that can be read.

    Raises:
        UsageError: no such file, or an ending that is not known.
    """
    path = Path(weights)
    if weights in ("imagenet", "none") or is_checkpoint(weights):
        return
    if not path.is_file():
        message = f"--weights {weights}: no such file; allowed are imagenet, none, the path of a ResNet152"
        raise UsageError(f"{message} (.safetensors, or .pth with tensors only), or a checkpoint folder of rrr train")
    if path.suffix not in (".safetensors", *_PICKLED):
        raise UsageError(
            f"--weights {weights}: the ending {path.suffix!r} is not known; allowed are .safetensors, .pth"
        )


def _read_pth(path: Path) -> dict[str, Tensor]:
    """State dict of a `.pth`, bare or under `state_dict`/`model`, with any `module.` prefix removed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what matters is the error
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes lead it to, from IndexError to AssertionError
        # Not PyTorch's own words: they advise to load it without weights_only, which would run what is in it.
        reason = "it is damaged, or holds other objects, which could run code when they are read"
        message = f"{path} cannot be read as tensors only ({reason})"
        raise ArtifactError(f"{message}; save it with torch.save(model.state_dict(), ...) or as safetensors") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} holds a {type(content).__name__}, not a state dict of tensors")
    return {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def _fetch() -> Path:
    """Path of the hub's file in the local cache; downloaded on first use."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # its five retries are not news; our own error tells how it ended
    try:
        return Path(hf_hub_download(HUB_REPOSITORY, HUB_FILE))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        message = f"--weights imagenet: {HUB_REPOSITORY} is neither cached nor reachable from here"
        remedy = f"download {HUB_FILE} elsewhere and give its path to --weights, or train from scratch: --weights none"
        raise ArtifactError(f"{message}; {remedy}") from error
