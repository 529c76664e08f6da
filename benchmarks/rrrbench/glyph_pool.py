"""Many pictures of letters in one memory-mapped file, drawn by all cores; what is drawn already is not drawn again."""

import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrnet.glyphs.options import GlyphOptions
from rrrnet.glyphs.picture import render_glyph
from rrrnet.processor import cores

Uint8Array = npt.NDArray[np.uint8]
_CHUNK = 256  # pictures that a process draws before it says so; what a kill takes with it


@dataclass(frozen=True)
class GlyphPool:
    """Picture i shows class i modulo the number of classes; it depends on the options and i alone.

    Attributes:
        folder: holds `images.npy` and `done.npy`, a byte for each chunk.
        options: letters and distortions; `per_class` does not count.
        images: how many there are.
    """

    folder: Path
    options: GlyphOptions
    images: int

    @cached_property
    def array(self) -> Uint8Array:
        """All pictures, (N, S, S, 3), mapped into memory."""
        mapped: Uint8Array = _mapped(self.folder / "images.npy", (self.images, self.options.size, self.options.size, 3))
        return mapped

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class of each picture, (N,)."""
        return np.arange(self.images, dtype=np.int64) % self.options.classes

    def draw(self) -> Iterator[int]:
        """Draw what is missing on all cores; gives how many pictures there are after each chunk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        assert len(self.array)  # the file is there before the workers open it
        done = _mapped(self.folder / "done.npy", (-(-self.images // _CHUNK),))
        count = int(done.sum()) * _CHUNK
        yield min(count, self.images)
        left = [int(chunk) for chunk in np.flatnonzero(done == 0)]
        if not left:
            return
        draw = partial(_draw, replace(self))  # a copy that has nothing mapped, so that no pictures are sent
        # Ctrl-C reaches the whole group, and the parent ends its workers.
        with multiprocessing.get_context("spawn").Pool(cores(), signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
            for chunk in pool.imap_unordered(draw, left):
                done[chunk] = 1
                count += _CHUNK
                yield min(count, self.images)


def _draw(pool: GlyphPool, chunk: int) -> int:
    """Draw one chunk, in a worker process."""
    letters = [letter for letter, _ in pool.options.letters()]
    for index in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, pool.images)):
        picture, _ = render_glyph(letters[index % len(letters)], pool.options, index // len(letters))
        pool.array[index] = np.asarray(picture)
    return chunk


def _mapped(path: Path, shape: tuple[int, ...]) -> Any:
    """The array of zeros of a file, made if it is not there."""
    if path.is_file():
        return np.load(path, mmap_mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)  # type: ignore[no-untyped-call]  # numpy leaves it so
