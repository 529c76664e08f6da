"""Images decoded on a bounded pool of threads, so that the event loop keeps answering."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from rrrnet.errors import ImageError
from rrrnet.preprocess import Preprocess, load_rgb, open_image, to_array
from rrrserve.errors import APIError, from_image_error

# Up to this size an image is decoded on the event loop, which it holds for some 0.4 ms. Judged by the bytes as well,
# since a header too can be made to cost time.
_INLINE_PIXELS = 256 * 256
_INLINE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Decoded:
    """One image ready for the network, shape (S, S, 3), and what it took, in seconds."""

    array: npt.NDArray[np.uint8]
    decode_seconds: float
    preprocess_seconds: float


class DecodePool:
    """`threads` images are decoded at the same time; Pillow releases the interpreter lock while it works.

    A single small image is decoded at once instead: handing it to a thread and back costs as much as decoding it.
    """

    def __init__(self, threads: int, *, max_pixels: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._max_pixels = max_pixels
        Image.init()  # else the first request waits until Pillow has loaded its formats

    async def decode(self, images: Sequence[bytes], preprocess: Preprocess) -> list[Decoded | APIError]:
        """Decode each image; one that cannot be used gives its error in its place."""
        loop = asyncio.get_running_loop()
        if len(images) > 1:
            jobs = [loop.run_in_executor(self._executor, self._decode_bytes, data, preprocess) for data in images]
            return await asyncio.gather(*jobs)
        (data,) = images
        if len(data) > _INLINE_BYTES:
            return [await loop.run_in_executor(self._executor, self._decode_bytes, data, preprocess)]
        start = time.perf_counter()
        try:
            opened = open_image(data, max_pixels=self._max_pixels)
        except ImageError as error:
            return [from_image_error(error)]
        if opened.width * opened.height <= _INLINE_PIXELS:
            return [_decode_opened(opened, preprocess, start)]
        return [await loop.run_in_executor(self._executor, _decode_opened, opened, preprocess, start)]

    def _decode_bytes(self, data: bytes, preprocess: Preprocess) -> Decoded | APIError:
        start = time.perf_counter()
        try:
            return _decode_opened(open_image(data, max_pixels=self._max_pixels), preprocess, start)
        except ImageError as error:
            return from_image_error(error)

    def close(self) -> None:
        """Let go of the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _decode_opened(opened: Image.Image, preprocess: Preprocess, start: float) -> Decoded | APIError:
    """Decode and resize an image whose header was read at `start`."""
    try:
        image = load_rgb(opened, preprocess)
    except ImageError as error:
        return from_image_error(error)
    middle = time.perf_counter()
    array = to_array(image, preprocess)
    return Decoded(array, middle - start, time.perf_counter() - middle)
