"""`--unlabelled DIR`: images that no class is known of, at any depth of a folder."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rrrnet.data import split
from rrrnet.data.copies import copies
from rrrnet.data.dataset import ImageSet
from rrrnet.data.folder_tree import scan
from rrrnet.data.layout import Listing
from rrrnet.data.reading import Reader, describe_left_out
from rrrnet.data.training_data import TrainingData
from rrrnet.errors import ArtifactError

_USED = {split.TEST: "that are tested", split.VAL: "that validate", split.TRAIN: "that are trained on with their label"}


def read_unlabelled(root: Path, data: TrainingData, *, max_pixels: int, say: Callable[[str], None]) -> ImageSet:
    """All images below `root` but copies of those in `data`; the label of each is 0 and means nothing.

    Args:
        root: a folder of any layout.
        data: the labelled images.
        max_pixels: width x height of the largest image to take.
        say: is told how many there are, and what was left out and why.

    Raises:
        ArtifactError: nothing is left.
    """
    tree = scan(root)
    listing = Listing(
        name=root.resolve().name,
        files=tree.files,
        labels=(0,) * len(tree.files),
        classes=("",),
        parts={},
        parts_from="",
        groups={},
        others=(),
        others_kind="without a class",
        tree=tree,
        notes=(),
        test_fraction=0,
    )
    reader = Reader(listing.classes, max_pixels, None)
    reader.read(root, listing)
    files = tuple(file for file, _, _ in reader.kept)
    images = ImageSet(
        name=listing.name,
        root=root.absolute(),
        files=files,
        labels=(0,) * len(files),
        classes=listing.classes,
        left_out=tuple(reader.left_out),
        sha256=reader.sha256(),
        junk=dict(sorted(reader.junk.items())),
        max_pixels=max_pixels,
    )
    parts = {data.images.path(file): part for file, part in zip(data.images.files, data.parts, strict=True)}
    known = copies(images, parts)
    images = images.take(index for index, file in enumerate(files) if file not in known)
    told = [f"left out {line}" for line in describe_left_out(images.left_out)]
    counts = Counter(parts[path] for path in known.values())
    told += [f"left out {counts[part]} copies of images {words}" for part, words in _USED.items() if counts[part]]
    if not images.files:
        raise ArtifactError(f"--unlabelled {root} has no image to take: {'. '.join(told) or 'it is empty'}")
    for line in (f"{len(images.files)} images without a label", *told):
        say(f"--unlabelled {root}: {line}")
    return images
