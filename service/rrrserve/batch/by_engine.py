"""Images answered by an engine in this process: files are read and decoded by threads while the engine works."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rrrbuild import plan_runner
from rrrbuild.best_engine import best_batch
from rrrbuild.engine import load_engine
from rrrbuild.manifest import Manifest
from rrrbuild.repository_document import ServedModel
from rrrnet.data.dataset import MAX_PIXELS
from rrrnet.data.file_kinds import REMEDIES, is_picture, kind_of
from rrrnet.data.reading import read_image
from rrrnet.errors import ImageError
from rrrnet.images.preprocess import Preprocess, Uint8Array, load_rgb, open_image, to_array
from rrrnet.processor import cores
from rrrserve.api.answer import answer
from rrrserve.batch import remote
from rrrserve.batch.answers import Answered, Wanted, failed, row_of
from rrrserve.batch.listing import File
from rrrserve.batch.threads import in_order

# An image is ready for the network, has a reason why not, or (None) is no picture.
Loaded = Uint8Array | str | None

_BATCHES_AHEAD = 3  # decoded, or being decoded, while one is with the engine
_PIXELS_ALONE = 16_000_000  # of an image that is decoded while no other such image is: a scan may take gigabytes


class LocalEngine:
    """An engine, and how its answers become rows. For one caller at a time, but `load` for any number."""

    def __init__(self, path: Path, wanted: Wanted, threads: int | None = None) -> None:
        """Load the engine folder at `path`; `threads` and errors are those of `load_engine`."""
        self._engine = load_engine(path, threads=threads)
        manifest = self._engine.manifest
        self.batch = best_batch(manifest)
        self._model = model_of(manifest)
        self._wanted = wanted
        self._alone = threading.Lock()

    def load(self, file: File) -> Loaded:
        """Read and decode one file."""
        if file.problem:
            return file.problem
        try:
            data = remote.read(file.path) if remote.is_uri(file.path) else read_image(Path(file.path))
        except ImageError as error:
            return f"{error} ({error.code})"
        try:
            return self._decode(data)
        except ImageError as error:
            if not file.named and not is_picture(Path(file.path).name, data):
                return None
            kind = kind_of(data) if error.code == "unsupported_image" else ""
            return f"{kind + ': ' if kind in REMEDIES else ''}{error} ({error.code})"

    def _decode(self, data: bytes) -> Uint8Array:
        preprocess: Preprocess = self._model.preprocess
        opened = open_image(data, max_pixels=MAX_PIXELS)
        if preprocess.working_pixels(*opened.size) <= _PIXELS_ALONE:
            return to_array(load_rgb(opened, preprocess), preprocess)
        with self._alone:
            return to_array(load_rgb(opened, preprocess), preprocess)

    def example(self) -> list[Uint8Array]:
        """A batch of noise, to measure by."""
        size = self._model.image_size
        return list(np.random.default_rng(0).integers(0, 256, (self.batch, size, size, 3), np.uint8))

    def infer(self, images: list[Uint8Array]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Probabilities (N, M, C) of N images, at most `batch`, and what became of each member (N, M)."""
        efforts = [self._wanted.effort] * len(images)
        probabilities = plan_runner.ask(self._engine.runner, np.stack(images), efforts)
        return probabilities, plan_runner.status_of(self._engine.runner, probabilities)

    def answered(self, file: File, probabilities: npt.NDArray[np.float32], status: npt.NDArray[np.uint8]) -> Answered:
        """The row of one image; see `infer`."""
        if status.all():
            return failed(file, "no member gave a finite answer (bad_model_output)")
        told = answer(probabilities, status, self._model, self._wanted)
        return Answered(file.path, row_of(file, told, self._wanted), None if file.truth is None else probabilities)


def answers(engine: LocalEngine, files: Iterable[File], decode_threads: int | None = None) -> Generator[list[Answered]]:
    """What becomes of the files, in their order, some at a time; few of them are in memory.

    Args:
        engine: that answers.
        files: their number does not matter.
        decode_threads: None: one for each core.
    """
    with ThreadPoolExecutor(1, "engine") as runner, ThreadPoolExecutor(decode_threads or cores(), "decode") as decoders:
        before: Callable[[], list[Answered]] | None = None
        for chunk in _chunks(in_order(decoders, engine.load, files, _BATCHES_AHEAD * engine.batch), engine.batch):
            images = [loaded for _, loaded in chunk if isinstance(loaded, np.ndarray)]
            found = runner.submit(engine.infer, images) if images else None
            # The engine is at work on these while the rows of those before are made.
            if before is not None:
                yield before()
            before = _finish(engine, chunk, found)
        if before is not None:
            yield before()


def _finish(
    engine: LocalEngine,
    chunk: list[tuple[File, Loaded]],
    found: "Future[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]] | None",
) -> Callable[[], list[Answered]]:
    def finish() -> list[Answered]:
        rows = iter(() if found is None else zip(*found.result(), strict=True))
        done = []
        for file, loaded in chunk:
            if isinstance(loaded, np.ndarray):
                done.append(engine.answered(file, *next(rows)))
            else:
                done.append(Answered(file.path, None) if loaded is None else failed(file, loaded))
        return done

    return finish


def _chunks(loaded: Iterable[tuple[File, Loaded]], batch: int) -> Iterator[list[tuple[File, Loaded]]]:
    """Cut so that each but the last holds `batch` images, or many files that are none."""
    chunk: list[tuple[File, Loaded]] = []
    images = 0
    for file, found in loaded:
        chunk.append((file, found))
        images += isinstance(found, np.ndarray)
        if images == batch or len(chunk) >= 8 * batch:
            yield chunk
            chunk, images = [], 0
    if chunk:
        yield chunk


def model_of(manifest: Manifest) -> ServedModel:
    """An engine as `rrrserve.api.answer` knows models."""
    return ServedModel(
        name=manifest.name,
        version="",
        target=manifest.target,
        backend="",
        members=manifest.architecture.members,
        max_batch_size=manifest.batch.max,
        labels=manifest.labels,
        preprocess=manifest.preprocess,
        image_size=manifest.preprocess.size,
        parameters=0,
        macs=0,
        outputs=(),
        cascade=manifest.cascade,
        confidence=manifest.confidence,
    )
