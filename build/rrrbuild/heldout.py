"""The images that an engine is verified on: the test split of the data that the checkpoint was trained on."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rrrnet.checkpoint import SPLIT, Checkpoint
from rrrnet.data.copies import copies, used_files
from rrrnet.data.dataset import ImageSet, evenly, load_arrays, read_split, select
from rrrnet.data.remembered import known_images, recorded_data, why_no_images
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Preprocess, Uint8Array

NO_ACCURACY = "not known: no labelled images; --data DIR gives some"


@dataclass(frozen=True)
class HeldOut:
    """Images to verify on.

    Attributes:
        images: shape (N, S, S, 3), uint8 RGB.
        labels: shape (N,), indices of the checkpoint's labels; None for generated images.
        source: where they come from, for people.
    """

    images: Uint8Array
    labels: npt.NDArray[np.int64] | None
    source: str


def held_out_images(
    checkpoint: Checkpoint, data: Path | None, *, limit: int, without: Collection[str] = (), or_made: bool = False
) -> HeldOut:
    """At most `limit` images, spread evenly over the split so that every class has its share.

    Args:
        checkpoint: remembers its data set and split.
        data: a data set to use instead; of one that the split does not know, all images are used.
        limit: the most images to take.
        without: names of images that were used otherwise, e.g. to calibrate.
        or_made: whether made images will do where the remembered ones are gone; where there never were any on this
            machine they always do.

    Raises:
        UsageError: the remembered data set is gone and no other is given.
        ArtifactError: `data` has a class that the checkpoint does not know.
    """
    recorded = recorded_data(checkpoint)
    if data is None and why_no_images(recorded) and (or_made or recorded.get("path") is None):
        reason = "its images are not on this machine" if recorded else "the checkpoint never had data"
        generated = generated_images(checkpoint.preprocess, limit)
        return HeldOut(generated, None, f"generated patterns: {reason}, so no accuracy is known")
    everything = _images_of(checkpoint, data, "tell where they are with --data DIR")
    chosen, part = _test_part(checkpoint, everything)
    chosen = evenly(chosen.take(i for i, file in enumerate(chosen.files) if file not in without), limit)
    return HeldOut(*load_arrays(chosen, checkpoint.preprocess), f"{part} of {chosen.name}")


def unseen_images(checkpoint: Checkpoint, data: Path | None, calibration_data: Path | None, *, limit: int) -> HeldOut:
    """At most `limit` labelled images that no gradient step saw and that nothing is verified on.

    Those are the validation images that the checkpoint's split names, or all of `calibration_data` but those whose
    bytes are those of an image in its training or test part.

    Raises:
        UsageError: there are none; says why.
        ArtifactError: they have a class that the checkpoint does not know.
    """
    way_out = "--calibration-data DIR gives some"
    if calibration_data is not None:
        others = known_images(checkpoint.path, {}, checkpoint.labels, calibration_data, remedy=way_out)
        chosen, part = _but_known(checkpoint, data, others)
    else:
        parts = read_split(checkpoint.path / SPLIT) if SPLIT in checkpoint.files else {}
        if "val" not in parts.values():
            raise UsageError(f"{checkpoint.name} records no validation images: {way_out}")
        everything = _images_of(checkpoint, data, way_out)
        if not any(parts.get(file) == "val" for file in everything.files):
            raise UsageError(f"none of the validation images of {checkpoint.name} are in {everything.root}: {way_out}")
        chosen, part = select(everything, parts, "val"), "validation images"
    chosen = evenly(chosen, limit)
    return HeldOut(*load_arrays(chosen, checkpoint.preprocess), f"{part} of {chosen.name}")


def _images_of(checkpoint: Checkpoint, data: Path | None, remedy: str) -> ImageSet:
    return known_images(checkpoint.path, recorded_data(checkpoint), checkpoint.labels, data, remedy=remedy)


def _but_known(checkpoint: Checkpoint, data: Path | None, images: ImageSet) -> tuple[ImageSet, str]:
    """The images whose bytes are those of none that the checkpoint was trained or tested on, whatever their names."""
    originals = used_files(checkpoint, ("train", "test"), data)
    known = copies(images, originals)
    unknown = images.take(index for index, file in enumerate(images.files) if file not in known)
    if not unknown.files:
        raise UsageError(
            f"{checkpoint.name} was trained or tested on every image of {images.root}: give others with "
            "--calibration-data DIR"
        )
    left_out, missing = len(known), sum(not path.is_file() for path in originals)
    part = f"all images but {left_out} that it was trained or tested on" if left_out else "all images"
    return unknown, f"{part} (not compared with {missing} of those, which are gone)" if missing else part


def _test_part(checkpoint: Checkpoint, images: ImageSet) -> tuple[ImageSet, str]:
    """The test split, or all of a data set that the checkpoint's split does not know."""
    split = checkpoint.path / SPLIT
    if SPLIT in checkpoint.files:
        parts = read_split(split)
        if parts.keys() & set(images.files):
            same = images.sha256 == checkpoint.training["data"]["sha256"]
            return select(images, parts, "test"), "test split" if same else "test split by file names, other images,"
    return images, "all images"


def generated_images(preprocess: Preprocess, count: int) -> Uint8Array:
    """Coloured tiles of random size with noise, the same every time; for networks that never had data."""
    random, size = np.random.default_rng(0), preprocess.size
    images = np.empty((count, size, size, 3), np.uint8)
    for image in images:
        tile = int(random.integers(4, size // 2))
        tiles = random.integers(0, 256, (-(-size // tile), -(-size // tile), 3))
        pattern = tiles.repeat(tile, axis=0).repeat(tile, axis=1)[:size, :size]
        image[:] = (pattern + random.integers(-16, 17, pattern.shape)).clip(0, 255)
    return images
