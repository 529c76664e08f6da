"""What a report tells of a training: its data, its recipe, and how it ended."""

from collections.abc import Mapping
from typing import Any

from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, Checkpoint
from rrrnet.files import shown

_KNOWN = (
    *("complete", "split", "recipe", "epochs", "epochs_done", "minutes", "chosen", "balance", "selection"),
    *("seed", "frozen", "weights", "device", "versions"),
)
_FOLDERS = ("path", "test_path")  # of the machine that trained: no affair of who reads a page
_STOPPED_BY = {
    True: "by Ctrl-C or another signal",
    False: "when it was last saved: its process has ended without a word, or still trains",
    None: "before its end",  # written by an rrr that did not tell
}


def training_section(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    """Data, recipe, origin of the weights and end of the training."""
    if checkpoint is None:
        return None
    training = checkpoint.training
    data = training.get("data")
    return {
        "path": shown(checkpoint.path),
        "sha256": sealed.sha256_of(checkpoint.path / DOCUMENT),
        "command": checkpoint.command,
        "data": None if data is None else {key: value for key, value in data.items() if key not in _FOLDERS},
        "ended": ended(training),
        **{key: training.get(key) for key in _KNOWN},
    }


def ended(training: Mapping[str, Any]) -> str | None:
    """After how many of its epochs a training ended, and why; None where the checkpoint does not tell.

    Args:
        training: the part of that name of a checkpoint's document.
    """
    epochs, done, complete = (training.get(key) for key in ("epochs", "epochs_done", "complete"))
    if epochs is None or done is None or complete is None:
        return None
    if not epochs:
        return "0 epochs: not trained here"
    if not complete:
        return f"stopped in epoch {min(done + 1, epochs)} of {epochs} {_STOPPED_BY[training.get('stopped')]}"
    if done < epochs:
        best = (training.get("selection") or {}).get("epoch")
        since = f" after epoch {best}" if best else ""
        return f"ended after {done} of {epochs} epochs: nothing better on the validation images{since}"
    minutes = training.get("minutes")
    return f"all {epochs} epochs" + (f", as many as fit into --minutes {minutes:g}" if minutes else "")


def resuming(command: str) -> str:
    """The command that goes on with a stopped training, from the one that began it."""
    return command.replace(" --overwrite", "").replace(" --resume", "") + " --resume"
