"""Where pre-trained tensors come from: a file, judged by its content, the hub, or nowhere."""

import re
import struct
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rrrnet.errors import ArtifactError, UsageError
from rrrnet.hub.reference import named, parse_weights
from rrrnet.network.architecture import DEFAULT_BACKBONE
from rrrnet.network.backbone import TAKEN, check_values, some
from rrrnet.sealed import sha256_of
from rrrnet.weights.imagenet import HUB_REPOSITORIES, hub_weights
from rrrnet.weights.repositories import downloaded
from rrrnet.weights.state_dict import Found, find_resnet
from rrrnet.weights.warm_start import is_checkpoint

_MODULES = "torch.nn."
_MOST_UNREAD = 100  # kinds of objects beside the tensors
_ALLOWED = f"imagenet, none, the path of a {TAKEN} (safetensors, or what torch.save wrote of tensors), hf://OWNER/NAME"
_FOREIGN_ENDINGS = {
    ".onnx": "an ONNX model",
    ".keras": "a Keras model",
    ".h5": "a Keras model",
    ".hdf5": "a Keras model",
    ".pb": "a TensorFlow model",
    ".tflite": "a TensorFlow Lite model",
    ".mlmodel": "a Core ML model",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
}
# What a file begins with that is neither safetensors nor of torch.save.
_FOREIGN_STARTS = {
    b"\x89HDF": "a Keras model (HDF5)",
    b"\x08": "an ONNX model",
    b"GGUF": "a GGUF model",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: git lfs pull brings it",
    b"<": "a web page or XML, not what it names: download it again",
    b"{": "JSON text: give the file of weights beside it",
}


@dataclass(frozen=True)
class Pretrained:
    """A backbone that was read: what was found, where, and its origin in words."""

    found: Found
    name: str
    origin: str


class _Unread:
    """Stands for an object in a pickle that is no tensor: takes whatever it is told and does nothing.

    Trainers keep options and scores beside the tensors (`argparse.Namespace`, numpy numbers). torch would refuse the
    file for their sake, and to have them made would run code of the file's choice.
    """

    def __new__(cls, *_: object, **__: object) -> "_Unread":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """As a list would."""

    def extend(self, values: object) -> None:
        """As a list would."""


def read_pretrained(weights: str, *, key: str | None = None, backbone: str = DEFAULT_BACKBONE) -> Pretrained:
    """Read the backbone named by `--weights`.

    Args:
        weights: "imagenet", the path of a file, or what names a repository of the hub, whose file was downloaded.
        key: `--weights-key`: which network is meant, where the file holds several.
        backbone: which one is "imagenet"; a file tells its own.

    Raises:
        UsageError: no such file, or no such key in it.
        ArtifactError: the file cannot be read or holds another network, or the hub cannot be reached.
    """
    check_source(weights, key=key)
    reference = parse_weights(weights)
    if reference is not None:
        path, shown = downloaded(reference), str(reference)
        origin = named(path)
    else:
        path = hub_weights(lambda _: None, backbone) if weights == "imagenet" else Path(weights)
        shown = path.name
        origin = f"{HUB_REPOSITORIES[backbone]} from the Hugging Face hub" if weights == "imagenet" else path.name
    unread: list[str] = []
    # By its ending too, where it is so damaged that nothing else tells.
    if _is_safetensors(path) or (path.suffix.lower() == ".safetensors" and not zipfile.is_zipfile(path)):
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read as safetensors: {error}") from error
    else:
        content, unread = _read_pickled(path)
    try:
        found = find_resnet(content, shown, key=key)
    except ArtifactError as error:
        if not unread:
            raise
        whole = any(name.startswith(_MODULES) for name in unread)
        raise ArtifactError(_refusal(path, unread, content) if whole else f"{error} ({_note(unread)})") from error
    check_values(found.tensors, shown)
    if unread:
        note = f"{shown}: {_note(unread)}"
        found = replace(found, notes=(*found.notes, note))
    return Pretrained(found, shown, f"{origin}, sha256 {sha256_of(path)}")


def check_source(weights: str, *, key: str | None = None) -> None:
    """See, before any work, that `--weights` names something that can be read.

    Raises:
        UsageError: no such file.
        ArtifactError: its content is that of another program.
    """
    named_here = weights in ("imagenet", "none") or is_checkpoint(weights)
    if key is not None and named_here:
        raise UsageError(f"--weights-key {key}: it chooses a network in a file, but --weights is {weights}")
    if named_here or parse_weights(weights) is not None:
        return
    path = Path(weights)
    if path.is_dir():
        raise UsageError(f"--weights {weights} is a folder, and no checkpoint of rrr train: give the file in it")
    if not path.is_file():
        raise UsageError(f"--weights {weights}: no such file; allowed are {_ALLOWED}, or a checkpoint of rrr train")
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ArtifactError(f"--weights {weights}: the file is empty")
    if _is_safetensors(path) or _is_torch_zip(path):
        return
    starts = next((kind for head, kind in _FOREIGN_STARTS.items() if start.startswith(head)), None)
    if foreign := _FOREIGN_ENDINGS.get(path.suffix.lower(), starts):
        raise ArtifactError(f"--weights {weights}: this is {foreign}; allowed are {_ALLOWED}")


def _is_safetensors(path: Path) -> bool:
    """Whether it begins with a length of 8 bytes, and JSON of so many bytes."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and struct.unpack("<Q", start[:8])[0] < path.stat().st_size and start[8:] == b"{"


def _is_torch_zip(path: Path) -> bool:
    return zipfile.is_zipfile(path) and any(name.endswith("/data.pkl") for name in zipfile.ZipFile(path).namelist())


def _read_pickled(path: Path) -> tuple[Any, list[str]]:
    """What torch.save wrote, tensors only, and the names of other objects in it, which are not made.

    Raises:
        ArtifactError: it is damaged, TorchScript, or what is in it cannot be passed over.
    """
    if zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            quoted = repr(str(path))
            remedy = f"python -c \"import torch; torch.save(torch.jit.load({quoted}).state_dict(), 'tensors.pth')\""
            raise ArtifactError(f"{path} is TorchScript, a program: save its tensors by {remedy}")
        if not _is_torch_zip(path):
            raise ArtifactError(f"{path} is a zip archive that torch.save did not write; allowed are {_ALLOWED}")
    try:
        unread = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # of files from before PyTorch 1.6, and damaged ones; torch.load will tell
        unread = []
    while True:
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals([(_Unread, name) for name in unread]):
                warnings.simplefilter("ignore")  # about pickle protocols: what matters is the error
                return torch.load(path, map_location="cpu", weights_only=True), unread
        except Exception as error:  # the unpickler raises whatever the bytes lead it to, from IndexError to others
            # In a file from before PyTorch 1.6 each object is only named once it is met.
            met = re.search(r"GLOBAL (\S+)", str(error))
            if met is None or met[1] in unread or len(unread) >= _MOST_UNREAD:
                # Not PyTorch's own words: they advise to load it without weights_only, which would run what is in it.
                raise ArtifactError(_refusal(path, unread)) from error
            unread = [*unread, met[1]]


def _note(unread: list[str]) -> str:
    return f"not read, being no tensors: {some(unread)}"


def _refusal(path: Path, unread: list[str], content: object = None) -> str:
    """Why a pickle cannot be read, and how its tensors are saved anew."""
    message = f"{path} cannot be read as tensors only"
    if not unread:
        return (
            f"{message}: it is damaged, or not what torch.save wrote; save it with torch.save(model.state_dict(), ...)"
        )
    modules = [name for name in unread if name.startswith(_MODULES)]
    kind = "a whole model" if modules else "other objects"
    reason = f"{message}: it holds {kind} ({some(modules or unread)}), which could run code when they are read"
    if not modules:
        return f"{reason}; save the tensors alone: torch.save(model.state_dict(), 'tensors.pth')"
    objects = [key for key, value in content.items() if isinstance(value, _Unread)] if isinstance(content, dict) else []
    model = f"m[{objects[0]!r}]" if objects else "m"
    code = f"import torch; m = torch.load({str(path)!r}, weights_only=False); "
    code += f"torch.save({model}.state_dict(), 'tensors.pth')"
    return f'{reason}; if you trust it, save its tensors: python -c "{code}"'
