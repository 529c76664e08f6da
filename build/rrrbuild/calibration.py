"""The images that INT8 ranges are taken from: of the training split, so that no image is verified on that was used."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rrrnet.checkpoint import SPLIT, Checkpoint
from rrrnet.data.dataset import evenly, load_arrays, read_again, read_split, select, split_dataset
from rrrnet.data.remembered import recorded_data, why_no_images
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Uint8Array


@dataclass(frozen=True)
class Calibration:
    """Images to calibrate on.

    Attributes:
        images: shape (N, S, S, 3), uint8 RGB.
        files: their N names in the data set.
        source: where they come from, for people.
        sha256: over names and pixels.
    """

    images: Uint8Array
    files: tuple[str, ...]
    source: str
    sha256: str


def calibration_images(checkpoint: Checkpoint, data: Path | None, *, limit: int) -> Calibration:
    """At most `limit` images of the training split, spread evenly over it.

    Args:
        checkpoint: remembers its data set and split.
        data: a data set to use instead; one that the split does not know is split in two halves by the same rule.
        limit: the most images to take.

    Raises:
        UsageError: the checkpoint never had data, or it is gone, and no other is given.
        ArtifactError: `data` is not a data set.
    """
    recorded = recorded_data(checkpoint)
    if data is None and (absent := why_no_images(recorded)):
        raise UsageError(
            f"checkpoint {checkpoint.name} {absent}, and INT8 is calibrated on real images: give "
            "a data set with --data DIR (rrr data glyphs DIR makes one), or take a target of another precision"
        )
    everything = read_again(recorded, data)
    parts = read_split(checkpoint.path / SPLIT) if SPLIT in checkpoint.files else {}
    part = "training split"
    if not parts.keys() & set(everything.files):
        half = None if "test" in everything.given.values() else 0.5
        split = split_dataset(everything, seed=0, test_fraction=half, val_fraction=0)
        parts = dict(zip(everything.files, split, strict=True))
        part = "a seeded half" if half else "training part"
    chosen = evenly(select(everything, parts, "train"), limit)
    images, _ = load_arrays(chosen, checkpoint.preprocess)
    digest = hashlib.sha256("\0".join(chosen.files).encode())
    digest.update(images.tobytes())
    return Calibration(images, chosen.files, f"{part} of {chosen.name}", digest.hexdigest())
