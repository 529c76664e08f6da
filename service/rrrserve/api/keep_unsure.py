"""Images that the model is unsure of, kept for people to label: bounded, off the event loop, and never in the way."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rrrserve.metrics.instruments import UNSURE_KEPT

log = logging.getLogger("rrrserve")

MOST_IMAGES, MOST_BYTES = 1000, 256 * 2**20
ANSWERS = "answers.jsonl"
_WAITING = 8


class UnsureImages:
    """A folder of unsure images: each as it was sent, named by its request, and a line in `answers.jsonl`.

    It is full at `MOST_IMAGES` images or `MOST_BYTES`, counting what lies there at the start; then nothing is written
    until somebody empties it and starts the service again. Several workers may share it, each up to its share.

    Args:
        folder: made if need be; entered by this user only.
        share: part of both limits that this worker may fill.
    """

    def __init__(self, folder: Path, *, share: float = 1.0) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
        self._images_left = int(MOST_IMAGES * share) - len(sizes)
        self._bytes_left = int(MOST_BYTES * share) - sum(sizes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="unsure")
        self._waiting = 0
        self._told = False

    def keep(self, request_id: str, place: int, image: bytes, model: str, answer: Mapping[str, Any]) -> None:
        """Write an image soon; called on the event loop, returns at once.

        Args:
            request_id: letters, digits, dots, underscores and hyphens.
            place: of the image in its request.
            image: as it was sent.
            model: that answered.
            answer: what is told of it.
        """
        if self._waiting >= _WAITING or self._images_left <= 0 or self._bytes_left < len(image):
            UNSURE_KEPT.labels("left_out").inc()
            return
        self._images_left -= 1
        self._bytes_left -= len(image)
        self._waiting += 1
        name = f"{request_id}-{place}"
        line = {"file": name, "time": time.time(), "model": model, **answer}
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._write, name, image, line)
        future.add_done_callback(self._written)

    def close(self) -> None:
        """Wait until all is written."""
        self._thread.shutdown()

    def _write(self, name: str, image: bytes, line: Mapping[str, Any]) -> None:
        self._write_bytes(self._folder / name, image, os.O_EXCL)
        self._write_bytes(self._folder / ANSWERS, (json.dumps(line) + "\n").encode(), os.O_APPEND)

    @staticmethod
    def _write_bytes(path: Path, content: bytes, how: int) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | how, 0o600), "wb") as file:
            file.write(content)

    def _written(self, future: "asyncio.Future[None]") -> None:
        self._waiting -= 1
        error = None if future.cancelled() else future.exception()
        UNSURE_KEPT.labels("kept" if error is None else "failed").inc()
        if error is not None and not self._told:
            self._told = True
            log.warning("an unsure image could not be kept, and further ones may not be: %s", error)
