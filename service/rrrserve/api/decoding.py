"""Images decoded on a bounded pool of threads and in bounded memory, so that the event loop keeps answering."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from rrrnet.errors import ImageError
from rrrnet.images.preprocess import Preprocess, load_rgb, open_image, to_array
from rrrserve.api.errors import APIError, from_image_error

# Up to this size an image is decoded on the event loop, which it holds for some 0.4 ms. Judged by the bytes as well,
# since a header too can be made to cost time.
_INLINE_PIXELS = 256 * 256
_INLINE_BYTES = 64 * 1024
# What Pillow unpacks while it reads a PNG's header, a thousand bytes out of one.
_PACKED = (b"zTXt", b"iTXt", b"iCCP")
# At the peak, where a WebP is decoded; Pillow's own pictures have 4 bytes a pixel, and there are two of them at times.
_BYTES_PER_PIXEL = 16


@dataclass(frozen=True)
class Decoded:
    """One image ready for the network, shape (S, S, 3).

    Attributes:
        array: the image.
        started: when its decoding began, on the clock of `time.perf_counter`.
        decode_seconds: what decoding took, and
        preprocess_seconds: resizing.
    """

    array: npt.NDArray[np.uint8]
    started: float
    decode_seconds: float
    preprocess_seconds: float


class DecodePool:
    """`threads` images are decoded at the same time; Pillow releases the interpreter lock while it works.

    A single small image is decoded at once instead: handing it to a thread and back costs as much as decoding it.

    Args:
        threads: most images at the same time.
        max_pixels: of one image, judged from its header.
        memory_bytes: what all of them may take together while they are decoded; an image that alone takes more is
            decoded when no other is.

    Attributes:
        executor: the threads.
    """

    def __init__(self, threads: int, *, max_pixels: int, memory_bytes: int) -> None:
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._max_pixels = max_pixels
        self._memory = _Memory(memory_bytes)
        Image.init()  # else the first request waits until Pillow has loaded its formats

    async def decode(self, images: Sequence[bytes], preprocess: Preprocess) -> list[Decoded | APIError]:
        """Decode each image; one that cannot be used gives its error in its place."""
        loop = asyncio.get_running_loop()
        if len(images) > 1:
            jobs = [loop.run_in_executor(self.executor, self._decode_bytes, data, preprocess) for data in images]
            return await asyncio.gather(*jobs)
        (data,) = images
        if len(data) > _INLINE_BYTES or any(kind in data for kind in _PACKED):
            return [await loop.run_in_executor(self.executor, self._decode_bytes, data, preprocess)]
        start = time.perf_counter()
        try:
            opened = open_image(data, max_pixels=self._max_pixels)
        except ImageError as error:
            return [from_image_error(error)]
        if preprocess.working_pixels(*opened.size) <= _INLINE_PIXELS:
            return [_decode_opened(opened, preprocess, start)]
        return [await loop.run_in_executor(self.executor, self._decode_large, opened, preprocess, start)]

    def _decode_bytes(self, data: bytes, preprocess: Preprocess) -> Decoded | APIError:
        start = time.perf_counter()
        try:
            opened = open_image(data, max_pixels=self._max_pixels)
        except ImageError as error:
            return from_image_error(error)
        return self._decode_large(opened, preprocess, start)

    def _decode_large(self, opened: Image.Image, preprocess: Preprocess, start: float) -> Decoded | APIError:
        with self._memory.held(preprocess.working_pixels(*opened.size) * _BYTES_PER_PIXEL):
            return _decode_opened(opened, preprocess, start)

    def close(self) -> None:
        """Let go of the threads."""
        self.executor.shutdown(wait=False, cancel_futures=True)


class _Memory:
    """A number of bytes that threads share; who wants more than is free waits."""

    def __init__(self, total_bytes: int) -> None:
        self._total = self._free = total_bytes
        self._changed = threading.Condition()

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Hold `size` bytes, or all there are."""
        size = min(size, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


def _decode_opened(opened: Image.Image, preprocess: Preprocess, start: float) -> Decoded | APIError:
    """Decode and resize an image whose header was read at `start`."""
    try:
        image = load_rgb(opened, preprocess)
    except ImageError as error:
        return from_image_error(error)
    middle = time.perf_counter()
    array = to_array(image, preprocess)
    return Decoded(array, start, middle - start, time.perf_counter() - middle)
