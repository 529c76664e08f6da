"""The files of a data set, opened one by one: which can be used, and of what kind those are that cannot."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rrrnet.data.file_kinds import HEAD_BYTES, REMEDIES, is_picture, kind_of
from rrrnet.data.layout import Listing
from rrrnet.errors import ArtifactError, ImageError
from rrrnet.images.preprocess import decode, image_format

_LOSSES = {
    "empty_image": "empty",
    "missing_image": "missing",
    "too_many_pixels": "too large",
    "special_file": "special file",
    "unreadable_file": "unreadable",
}
# Kinds of which each file has a reason of its own.
_TOLD_EACH = ("damaged", "damaged HEIC", "damaged AVIF", "too large", "unreadable")


class LeftOut(NamedTuple):
    """A file that is not used: its name, the kind of reason (a key of `file_kinds.REMEDIES`) and the reason."""

    file: str
    kind: str
    reason: str


class Reader:
    """Reads the files of one or two listings into what an `ImageSet` holds."""

    def __init__(self, classes: tuple[str, ...], max_pixels: int, progress: Callable[[int, int], None] | None) -> None:
        self.classes = classes
        self.kept: list[tuple[str, int, str]] = []  # file, label, sha256
        self.left_out: list[LeftOut] = []
        self.unusable: dict[int, list[LeftOut]] = {}
        self.junk: Counter[str] = Counter()
        self._max_pixels, self._progress = max_pixels, progress

    def read(self, root: Path, listing: Listing, prefix: str = "") -> None:
        """Open each file of the listing once; `prefix` goes before its name."""
        for done, (file, label) in enumerate(zip(listing.files, listing.labels, strict=True), 1):
            digest, lost = _examine(root / file, prefix + file, self._max_pixels)
            if lost is None:
                self.kept.append((prefix + file, label, digest))
            else:
                self.left_out.append(lost)
                self.unusable.setdefault(label, []).append(lost)
            if self._progress is not None:
                self._progress(done, len(listing.files))
        self.junk.update(listing.tree.junk)
        # Of what no class holds, only pictures are missed.
        for files, kind in ((listing.others, listing.others_kind), (listing.tree.hidden, "hidden")):
            for file in files:
                if is_picture(file, _head(root / file)):
                    self.left_out.append(LeftOut(prefix + file, kind, REMEDIES[kind]))
                else:
                    self.junk["hidden files" if kind == "hidden" else "documents"] += 1
        kind = "named not in UTF-8"
        self.left_out += [LeftOut(prefix + file, kind, REMEDIES[kind]) for file in listing.tree.unnamed]

    def drop(self, chosen: Callable[[str, int], bool]) -> dict[str, int]:
        """Remove the classes of which `chosen(name, number of images)` is true; their names and numbers."""
        counts = Counter(label for _, label, _ in self.kept)
        dropped = {name: counts[label] for label, name in enumerate(self.classes) if chosen(name, counts[label])}
        classes = tuple(name for name in self.classes if name not in dropped)
        index = {name: position for position, name in enumerate(classes)}
        names = self.classes
        self.kept = [(file, index[names[label]], digest) for file, label, digest in self.kept if names[label] in index]
        self.unusable = {index[names[label]]: lost for label, lost in self.unusable.items() if names[label] in index}
        self.classes = classes
        return dropped

    def check(self, root: Path) -> None:
        """Refuse a data set in which some class has no image that can be used."""
        left = {label for _, label, _ in self.kept}
        for label, name in enumerate(self.classes):
            if label in left:
                continue
            if not self.unusable.get(label):
                raise ArtifactError(f"{root}: the class folder {name} holds no images: remove it or fill it")
            lost = "; ".join(describe_left_out(self.unusable[label]))
            raise ArtifactError(
                f"{root}: no image of class {name} can be used: {lost}; or remove the class, or drop it with "
                "rrr train --min-per-class 1"
            )

    def duplicates(self) -> tuple[tuple[str, ...], ...]:
        """Sets of files with the same bytes."""
        by_digest: dict[str, list[str]] = {}
        for file, _, digest in self.kept:
            by_digest.setdefault(digest, []).append(file)
        return tuple(tuple(files) for files in by_digest.values() if len(files) > 1)

    def sha256(self) -> str:
        """Over names, labels and bytes."""
        digest = hashlib.sha256()
        for file, label, image in self.kept:
            digest.update(f"{file}\0{self.classes[label]}\0{image}\n".encode())
        return digest.hexdigest()


def _examine(path: Path, name: str, max_pixels: int) -> tuple[str, LeftOut | None]:
    """The digest of an image that decodes, or why it does not."""
    try:
        data = read_image(path)
        decode(data, max_pixels=max_pixels)
    except ImageError as error:
        return "", LeftOut(name, _kind_of_loss(path, error), str(error))
    return hashlib.sha256(data).hexdigest(), None


def _kind_of_loss(path: Path, error: ImageError) -> str:
    """The key of `REMEDIES` for a file that gave this error."""
    if error.code in _LOSSES:
        return _LOSSES[error.code]
    kind = kind_of(_head(path))
    if error.code == "unsupported_image" and kind in REMEDIES:
        return kind
    return f"damaged {kind}" if f"damaged {kind}" in REMEDIES else "damaged"


def _head(path: Path) -> bytes:
    """The first bytes of a file; none of what cannot be read."""
    try:
        with path.open("rb") if path.is_file() else Path("/dev/null").open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def read_image(path: Path) -> bytes:
    """The bytes of an image file; of what is no image, as it may be large, the first only.

    Raises:
        ImageError: it is missing, not a regular file (a pipe would block), or unreadable.
    """
    try:
        if not path.exists():
            raise ImageError("missing_image", "the file is missing")
        if not path.is_file():
            raise ImageError("special_file", "not a regular file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            return head if image_format(head) is None else head + file.read()
    except OSError as error:
        raise ImageError("unreadable_file", f"the file cannot be read ({error.strerror})") from error


def describe_left_out(left_out: Iterable[LeftOut]) -> list[str]:
    """A sentence for each kind: how many, the first three, and what mends it."""
    kinds: dict[str, list[LeftOut]] = {}
    for lost in left_out:
        kinds.setdefault(lost.kind, []).append(lost)
    sentences = []
    for kind, found in kinds.items():
        told = [f"{lost.file} ({lost.reason})" if kind in _TOLD_EACH else lost.file for lost in found[:3]]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        sentences.append(f"{len(found)} {kind}: {', '.join(told)}{more}; {REMEDIES[kind]}")
    return sentences
