"""A checkpoint folder: `model.safetensors`, and `model.json`, which holds everything needed to use and seals them.

Read without torch, so that engines can be exported and served where torch is not installed.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rrrnet import __version__, sealed
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.hub.card import hub_config, model_card
from rrrnet.hub.download import look
from rrrnet.hub.reference import parse
from rrrnet.hub.told import CONFIG
from rrrnet.images.preprocess import Preprocess
from rrrnet.names import check_model_name
from rrrnet.network.architecture import Architecture

DOCUMENT = "model.json"
WEIGHTS = "model.safetensors"
SPLIT = "split.csv"
FORMAT_VERSION = 1
REMEDY = "train it again with rrr train, or restore it from a copy"

Arrays = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and how it came to be.

    Attributes:
        path: the folder.
        name: the folder's name; engines and served models take it.
        method: "head", "full", "reduced" or "ensemble" (the paper's [A]-[D]).
        architecture: the network's shape.
        labels: class names, in the order of the outputs.
        preprocess: how images become inputs.
        training: data set (name, path, sha256, images), split rule, recipe, epochs, seed, weights' origin, metrics.
        command: the command line that made it.
        files: names of all sealed files beside the document; others are not to be trusted.
    """

    path: Path
    name: str
    method: str
    architecture: Architecture
    labels: tuple[str, ...]
    preprocess: Preprocess
    training: dict[str, Any]
    command: str
    files: frozenset[str] = frozenset()


def read_checkpoint(path: Path) -> Checkpoint:
    """Check every digest of the folder at `path`, then read its document.

    Raises:
        ArtifactError: not a checkpoint, damaged, or of a format this version does not know.
    """
    document = sealed.read_sealed(path, DOCUMENT, remedy=REMEDY)
    command = f"rrr train --data DIR --out {path}"
    sealed.check_format(path / DOCUMENT, document, version=FORMAT_VERSION, command=command)
    with sealed.describing(path / DOCUMENT, remedy=REMEDY):
        return Checkpoint(
            path=path.absolute(),
            name=_checked(document["name"]),
            method=document["method"],
            architecture=Architecture.from_json(document["architecture"]),
            labels=tuple(document["labels"]),
            preprocess=Preprocess.from_json(document["preprocess"]),
            training=document["training"],
            command=document["command"],
            files=frozenset(document["files"]),
        )


def _checked(name: str) -> str:
    """A name that makes a path nowhere but below its folder: a checkpoint may be somebody else's."""
    check_model_name(name, remedy=lambda allowed: f"{allowed!r} would be one")
    return name


def read_weights(checkpoint: Checkpoint) -> Arrays:
    """The checkpoint's tensors as float32 arrays, by name.

    Names are torchvision's; a member's are prefixed `members.I.` when there is more than one member.

    Raises:
        ArtifactError: the file is not a safetensors file.
    """
    path = checkpoint.path / WEIGHTS
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read as safetensors ({error}); {REMEDY}") from error


def write_checkpoint(checkpoint: Checkpoint, weights: Mapping[str, npt.NDArray[np.float32]], folder: Path) -> None:
    """Write weights, what the hub shows and the document into `folder` (see `sealed.staged`), and seal all there."""
    arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}
    save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(hub_config(checkpoint), indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / sealed.PAGE).write_text(model_card(checkpoint), "utf-8")
    sealed.seal(
        folder,
        DOCUMENT,
        {
            "format_version": FORMAT_VERSION,
            "name": checkpoint.name,
            "method": checkpoint.method,
            "architecture": checkpoint.architecture.to_json(),
            "labels": list(checkpoint.labels),
            "preprocess": checkpoint.preprocess.to_json(),
            "training": checkpoint.training,
            "command": checkpoint.command,
            "rrr_version": __version__,
            "python_version": sys.version.split()[0],
        },
    )


def local_checkpoint(given: Path, say: Callable[[str], None]) -> Path:
    """The folder of a checkpoint; for `hf://OWNER/NAME` its copy in the hub's cache, downloaded where it is not there.

    Args:
        given: a folder, or the name of a repository of the hub.
        say: is told of a download, and of a hub that is out of reach.

    Raises:
        UsageError: no such repository.
        ArtifactError: it holds no checkpoint, or is neither cached nor reachable.
        NoSpaceError: the disk is full.
    """
    reference = parse(str(given))
    if reference is None:
        return given
    if reference.file is not None:
        raise UsageError(f"{reference}: a checkpoint is the whole repository: leave out :{reference.file}")
    found = look(reference, say)
    if DOCUMENT not in found.sizes:
        holds = ", ".join(list(found.sizes)[:5]) or "nothing"
        raise ArtifactError(
            f"{reference} holds no checkpoint of rrr train (no {DOCUMENT}, but {holds}); a ResNet of another trainer "
            f"becomes one by rrr train --method full --epochs 0 --weights {reference} --out DIR"
        )
    found.bring([DOCUMENT], say)
    listed = sealed.read_document(
        found.folder, DOCUMENT, remedy=f"upload it again: hf upload {reference.repository} DIR"
    )
    found.bring([name for name in listed["files"] if name in found.sizes], say)
    found.remember()
    return found.folder
