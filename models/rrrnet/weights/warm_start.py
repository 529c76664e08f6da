"""Going on from a trained checkpoint of the same architecture: at another image size, or with other labels.

Not the paper's: training from scratch costs a quarter at half the image size, and what was learned there is most of
what is needed at the larger size.
"""

from pathlib import Path

import torch

from rrrnet.checkpoint import DOCUMENT, read_checkpoint, read_weights
from rrrnet.errors import UsageError
from rrrnet.network.ensemble import RRRNet
from rrrnet.sealed import sha256_of

_CLASSIFIER = ("fc.weight", "fc.bias")


def is_checkpoint(weights: str) -> bool:
    """Whether `--weights` names a checkpoint folder of `rrr train`."""
    return (Path(weights) / DOCUMENT).is_file()


def frozen_in(weights: str) -> tuple[str, ...]:
    """Prefixes of the modules that were not trained in the checkpoint at `weights`, and so stay as they are.

    Raises:
        ArtifactError: it is damaged.
    """
    return tuple(read_checkpoint(Path(weights)).training.get("frozen", ()))


def load_checkpoint(model: RRRNet, weights: str, labels: tuple[str, ...]) -> tuple[str, int]:
    """Copy the weights of the checkpoint at `weights` into `model`.

    The classifiers are copied only if the labels are the same; where their order is another, so becomes that of the
    outputs.

    Returns:
        The weights' origin in words, and how many tensors were left fresh.

    Raises:
        ArtifactError: the checkpoint is damaged.
        UsageError: its architecture is another one; names the first difference.
    """
    checkpoint = read_checkpoint(Path(weights))
    wanted = model.architecture
    for what in ("blocks", "members", "widths"):
        found, ours = getattr(checkpoint.architecture, what), getattr(wanted, what)
        # Widths depend on the number of classes too, so this also tells when other labels do not fit.
        if found != ours:
            raise UsageError(
                f"--weights {weights}: {what} there is {found}, of this network {ours}; "
                f"give its --method and --members (it was made by: {checkpoint.command})"
            )
    arrays = read_weights(checkpoint)
    if set(checkpoint.labels) == set(labels):
        order = [checkpoint.labels.index(label) for label in labels]
        arrays = {name: array[order] if name.endswith(_CLASSIFIER) else array for name, array in arrays.items()}
    else:
        arrays = {name: array for name, array in arrays.items() if not name.endswith(_CLASSIFIER)}
    result = model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
    fresh = [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
    return f"checkpoint {checkpoint.name}, sha256 {sha256_of(checkpoint.path / DOCUMENT)}", len(fresh)
