"""What requests carry: given image files, or generated pictures of several sizes and formats."""

import io
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rrrnet.data.dataset import even_places
from rrrnet.data.layout import list_files
from rrrnet.data.reading import read_image
from rrrnet.errors import ArtifactError, ImageError, UsageError
from rrrnet.images.image_formats import IN_WORDS
from rrrnet.images.preprocess import Uint8Array, decode

MAX_PIXELS_A_SIDE = 4096
FORMATS = ("JPEG", "PNG", "WEBP")  # to generate
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif")
_MOST_FILES = 256  # they are held in memory


def photo_like(size: int, kind: str = "JPEG", *, seed: int = 0) -> bytes:
    """An image of soft colours with some noise, (size, size), the same every time: costs what a photo costs to decode.

    Args:
        size: pixels a side.
        kind: JPEG, PNG or WEBP.
        seed: tells one picture from the next.
    """
    random = np.random.default_rng(seed)
    soft = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    noisy = (np.asarray(soft) + random.normal(0, 6, (size, size, 3))).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    # WebP's and PNG's own quality would spend seconds on the noise; decoding costs the same.
    options = {"JPEG": {"quality": 90}, "PNG": {"compress_level": 1}, "WEBP": {"quality": 90, "method": 0}}
    Image.fromarray(noisy).save(buffer, kind, **options[kind])
    return buffer.getvalue()


def generated(sizes: Sequence[int], kinds: Sequence[str], *, seed: int) -> list[bytes]:
    """A picture of each size in each format, in a drawn order.

    Raises:
        UsageError: a size or format that is not allowed.
    """
    for size in sizes:
        if not 1 <= size <= MAX_PIXELS_A_SIDE:
            raise UsageError(f"--sizes has {size}: allowed are 1 to {MAX_PIXELS_A_SIDE} pixels")
    for kind in kinds:
        if kind not in FORMATS:
            raise UsageError(f"--formats has {kind!r}: allowed are {', '.join(FORMATS)}")
    pairs = [(size, kind) for size in sizes for kind in kinds]
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [photo_like(*pairs[index], seed=int(index)) for index in order]


def from_files(paths: Sequence[Path], folder: Path | None) -> list[bytes]:
    """The bytes of image files, each of which can be decoded.

    Args:
        paths: files.
        folder: all files in it whose names end like an image's, by name; the first 256 where there are more.

    Raises:
        ArtifactError: no such folder, nothing in it, or a file that is not such an image; names it.
    """
    found = list(paths)
    if folder is not None:
        if not folder.is_dir():
            raise ArtifactError(f"{folder} is not a folder: --images takes one with {IN_WORDS} files in it")
        inside = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
        if not inside:
            raise ArtifactError(f"{folder} holds no file that ends in {', '.join(_SUFFIXES)}")
        found += inside[:_MOST_FILES]
    bodies = []
    for path in found:
        if not path.is_file():
            raise ArtifactError(f"{path} is not a file: --image takes {IN_WORDS} files")
        bodies.append(path.read_bytes())
        try:
            decode(bodies[-1])
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from error
    return bodies


def from_data(data: Path, *, seed: int, without: Collection[str] = ()) -> list[bytes]:
    """Images of a data set, at most 256: spread evenly over its classes, in a drawn order.

    Args:
        data: the data set.
        seed: of that order.
        without: names of files that are not sent; a cascade is quicker on images that it was trained on.

    Raises:
        ArtifactError: not a data set, or it has no image that can be decoded.
    """
    files = [file for file in list_files(data).files if file not in without]
    bodies = []
    for place in np.random.default_rng(seed).permutation(even_places(len(files), _MOST_FILES)).tolist():
        try:
            body = read_image(data / files[place])
            decode(body)
        except ImageError:
            continue  # rrr train leaves such files out, and says so
        bodies.append(body)
    if not bodies:
        raise ArtifactError(f"{data} has no image that can be sent, beside {len(without)} that were trained on")
    return bodies


def batches(bodies: Sequence[bytes], dims: Sequence[int], batch: int) -> list[Uint8Array]:
    """Tensors to send in turns; each body begins one, and those after it fill it up.

    Args:
        bodies: encoded images.
        dims: of one item. (H, W, 3) gets the images, resized; any other shape gets random bytes.
        batch: N.

    Returns:
        As many arrays of shape (N, *dims) as there are bodies.
    """
    if len(dims) == 3 and dims[2] == 3:
        items = [np.asarray(decode(body).resize((dims[1], dims[0]), Image.Resampling.BILINEAR)) for body in bodies]
    else:
        random = np.random.default_rng(0)
        items = [random.integers(0, 256, tuple(dims), np.uint8) for _ in bodies]
    count = len(items)
    return [np.stack([items[(start + step) % count] for step in range(batch)]) for start in range(count)]
