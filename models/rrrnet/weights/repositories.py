"""`--weights hf://OWNER/NAME`, or an id of timm's: the file of weights, and what its repository tells of it."""

from pathlib import Path

from rrrnet.checkpoint import DOCUMENT, Checkpoint
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.hub.download import Listing, Say, cached, look
from rrrnet.hub.reference import Reference, parse_weights
from rrrnet.hub.told import DOCUMENTS, Told, check_network, read_documents, understand
from rrrnet.weights.imagenet import HUB_REPOSITORIES

_FILES = ("model.safetensors", "pytorch_model.bin")  # the first that is there


def download_weights(reference: Reference, say: Say) -> None:
    """Bring a repository's weights, and what it tells of them, into the hub's cache; weights last.

    Raises:
        UsageError: there is no such repository, revision or file.
        ArtifactError: no weights in it, those of a network that computes otherwise, or no hub.
        NoSpaceError: the disk is full.
    """
    found = look(reference, say)
    weights = _file(found)
    found.bring([name for name in DOCUMENTS if name in found.sizes], say)
    check_network(read_documents(found.folder), str(reference))
    found.bring([weights], say)
    found.remember()


def downloaded(reference: Reference) -> Path:
    """The file that `download_weights` brought; asks nothing of the network.

    Raises:
        ArtifactError: it is not there.
    """
    found = _cached(reference)
    return found.folder / _file(found)


def told_by(weights: str, stopped: Checkpoint | None) -> Told | None:
    """What the repository tells that `--weights` names; None if it names none.

    Args:
        weights: as given.
        stopped: the training that is gone on with, which has taken what was told.
    """
    reference = parse_weights(weights)
    if reference is None:
        return None
    if stopped is not None:
        return Told(stopped.labels, stopped.preprocess)
    return understand(read_documents(_cached(reference).folder), str(reference))


def repository_of(weights: str, backbone: str) -> str | None:
    """The repository that a training of a backbone starts from, as the hub names it; None without one."""
    if weights == "imagenet":
        return HUB_REPOSITORIES[backbone]
    reference = parse_weights(weights)
    return None if reference is None else reference.repository


def _cached(reference: Reference) -> Listing:
    found = cached(reference)
    if found is None:
        raise ArtifactError(f"{reference} is no longer in the hub's cache: run it again")
    return found


def _file(found: Listing) -> str:
    """The name of the file of weights."""
    reference, names = found.reference, found.sizes
    holds = ", ".join(list(names)[:5]) or "nothing"
    if reference.file is not None:
        if reference.file not in names:
            raise UsageError(f"{reference.repository} has no file {reference.file}; it holds {holds}")
        return reference.file
    if DOCUMENT in names:
        raise ArtifactError(
            f"{reference} is a checkpoint of rrr train: rrr build takes it as it is; to go on training from it: "
            f"hf download {reference.repository} --local-dir DIR, and --weights DIR"
        )
    for name in _FILES:
        if name in names:
            return name
    raise ArtifactError(
        f"{reference} has no weights that can be read ({' or '.join(_FILES)}); it holds {holds}: name another file by "
        f"{reference}:FILE"
    )
