"""The images that an engine is verified on: the test split of the data that the checkpoint was trained on."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rrrnet.checkpoint import SPLIT, Checkpoint
from rrrnet.data.copies import copies, used_files
from rrrnet.data.dataset import ImageSet, evenly, load_arrays, read_again, read_split, select
from rrrnet.data.remembered import recorded_data, remembered_data, why_no_data
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.images.preprocess import Preprocess, Uint8Array
from rrrnet.names import spelled_as

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
    folder = recorded_data(checkpoint).get("path")
    gone = folder is not None and not Path(folder).is_dir()
    if data is None and not (gone and or_made):
        data = remembered_data(checkpoint)
    if data is None:
        had = checkpoint.training.get("data")
        reason = "its images are not on this machine" if had else "the checkpoint never had data"
        generated = generated_images(checkpoint.preprocess, limit)
        return HeldOut(generated, None, f"generated patterns: {reason}, so no accuracy is known")
    everything = read_again(recorded_data(checkpoint), data)
    everything = replace(everything, classes=spelled_as(everything.classes, checkpoint.labels))
    chosen, part = _test_part(checkpoint, everything)
    chosen = evenly(chosen.take(i for i, file in enumerate(chosen.files) if file not in without), limit)
    return _with_labels(chosen, checkpoint, f"{part} of {chosen.name}")


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
        chosen, part = _but_known(checkpoint, data, read_again({}, calibration_data))
    else:
        parts = read_split(checkpoint.path / SPLIT) if SPLIT in checkpoint.files else {}
        if "val" not in parts.values():
            raise UsageError(f"{checkpoint.name} records no validation images: {way_out}")
        data = data if data is not None else remembered_data(checkpoint)
        if data is None:
            raise UsageError(f"{checkpoint.name} {why_no_data(checkpoint)}: {way_out}")
        everything = read_again(recorded_data(checkpoint), data)
        if not any(parts.get(file) == "val" for file in everything.files):
            raise UsageError(f"none of the validation images of {checkpoint.name} are in {data}: {way_out}")
        chosen, part = select(everything, parts, "val"), "validation images"
    chosen = evenly(replace(chosen, classes=spelled_as(chosen.classes, checkpoint.labels)), limit)
    return _with_labels(chosen, checkpoint, f"{part} of {chosen.name}")


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


def _with_labels(chosen: ImageSet, checkpoint: Checkpoint, source: str) -> HeldOut:
    unknown = sorted(set(chosen.classes) - set(checkpoint.labels))
    if unknown:
        raise ArtifactError(f"{chosen.root} has classes that {checkpoint.path} does not know: {', '.join(unknown[:5])}")
    images, labels = load_arrays(chosen, checkpoint.preprocess)
    to_output = np.array([checkpoint.labels.index(name) for name in chosen.classes])
    return HeldOut(images, to_output[labels], source)


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
