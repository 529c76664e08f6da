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
from rrrnet.preprocess import Preprocess, decode, to_array
from rrrserve.errors import APIError, from_image_error


@dataclass(frozen=True)
class Decoded:
    """One image ready for the network, shape (S, S, 3), and what it took, in seconds."""

    array: npt.NDArray[np.uint8]
    decode_seconds: float
    preprocess_seconds: float


class DecodePool:
    """`threads` images are decoded at the same time; Pillow releases the interpreter lock while it works."""

    def __init__(self, threads: int, *, max_pixels: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._max_pixels = max_pixels
        Image.init()  # else the first request waits until Pillow has loaded its formats

    async def decode(self, images: Sequence[bytes], preprocess: Preprocess) -> list[Decoded | APIError]:
        """Decode each image; one that cannot be used gives its error in its place."""
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(self._executor, self._decode_one, data, preprocess) for data in images]
        if len(jobs) == 1:
            return [await jobs[0]]
        return await asyncio.gather(*jobs)

    def _decode_one(self, data: bytes, preprocess: Preprocess) -> Decoded | APIError:
        start = time.perf_counter()
        try:
            image = decode(data, max_pixels=self._max_pixels)
            middle = time.perf_counter()
            array = to_array(image, preprocess)
        except ImageError as error:
            return from_image_error(error)
        return Decoded(array, middle - start, time.perf_counter() - middle)

    def close(self) -> None:
        """Let go of the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)
