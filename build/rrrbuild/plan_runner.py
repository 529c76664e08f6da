"""An engine folder as one callable: the plan that is kept for each batch size, and members side by side.

Copied into Triton repositories beside a runtime and `rrrnet.processor`: imports numpy and the standard library only.
"""

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rrrnet.processor import Threads

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
Embeddings = npt.NDArray[np.float32]
Run = Callable[[Images], Probabilities]  # see `load`
SPLIT = "split"
CASCADE = "cascade"
# What became of a member, as `cascade_runner` has it.
_USED, _NOT_FINITE, _FAILED, _LATE = 0, 2, 3, 4


def load(runtime: Any, cascades: Any, folder: Path, manifest: Mapping[str, Any], threads: "Threads") -> Run:
    """Load the plans that an engine folder keeps.

    Args:
        runtime: one of the modules `runtime_FAMILY`.
        cascades: the module `cascade_runner`, which is imported by another name where this file is copied to.
        folder: the engine's, its files checked already.
        manifest: as JSON holds it.
        threads: of the CPU, for one inference.

    Returns:
        images (N, S, S, 3) uint8 -> probabilities (N, M, C) float32, for one caller at a time. Where plan `split` is
        kept, its attribute `member_seconds` holds M durations of the last call, or None if another plan ran that.
        A cascade and plan `split` have a method `ask` too, which may leave members out. An engine built with --embed
        has the attribute `embedding`: (N, D) float32 of the last call.
    """
    if manifest["plan"] == CASCADE:
        first, rest = runtime.load_cascade(folder, manifest, threads)
        cascade: Run = cascades.Cascade(first, rest, manifest["cascade"])
        return cascade
    plans = plans_by_size(manifest)
    if len(set(plans.values())) == 1:
        return _load_plan(runtime, folder, manifest, threads)
    spans: dict[str, list[int]] = {}
    for before, (size, plan) in zip([0, *plans], plans.items(), strict=False):
        spans.setdefault(plan, []).extend([before + 1, size])
    runs = {}
    for plan, span in spans.items():
        # A plan that never meets some sizes need not hold memory for them.
        batch = {"min": min(span), "opt": max(span), "max": max(span)}
        runs[plan] = _load_plan(runtime, folder / plan, {**manifest, "plan": plan, "batch": batch}, threads)
    return ByBatch({size: runs[plan] for size, plan in plans.items()})


def plans_by_size(manifest: Mapping[str, Any]) -> dict[int, str]:
    """The plan for each batch size up to the next, ascending; one entry where the engine keeps one plan."""
    kept = {int(size): plan for size, plan in manifest.get("plan_by_batch", {}).items()}
    return dict(sorted(kept.items())) or {manifest["batch"]["max"]: manifest["plan"]}


def _load_plan(runtime: Any, folder: Path, manifest: Mapping[str, Any], threads: "Threads") -> Run:
    run: Run
    if manifest["plan"] != SPLIT:
        loaded: Any = runtime.load(folder, manifest, threads)
        run = WithEmbedding(loaded) if len(manifest["outputs"]) > 1 else loaded
    elif hasattr(runtime, "load_split"):  # a GPU runs the members on streams; no thread of ours has to drive them
        run = runtime.load_split(folder, manifest)
    else:
        lanes = min(manifest["outputs"][0]["shape"][1], threads.count)  # no more than members
        stem, members = runtime.load_parts(folder, manifest, threads, threads.shared(lanes))
        run = InLanes(stem, members, lanes)
    return run


def ask(run: Any, images: Images, efforts: Sequence[str], deadline: float | None = None) -> Probabilities:
    """Call a runner by its `ask` where it has one; others ask all members and cannot be late."""
    asked = getattr(run, "ask", None)
    probabilities: Probabilities = run(images) if asked is None else asked(images, efforts, deadline)
    return probabilities


def status_of(run: Any, probabilities: Probabilities) -> npt.NDArray[np.uint8]:
    """What became of each member in a runner's last call, shape (N, M)."""
    found: npt.NDArray[np.uint8] | None = getattr(run, "status", None)
    if found is not None:
        return found
    return np.where(np.isfinite(probabilities).all(axis=2), _USED, _NOT_FINITE).astype(np.uint8)


def embed(run: Any, images: Images) -> Embeddings:
    """Embeddings (N, D) by a runner that gives them."""
    run(images)
    found: Embeddings = run.embedding
    return found


class WithEmbedding:
    """Keeps the embeddings of the last call, (N, D), as `embedding`, beside the probabilities that it returns."""

    def __init__(self, both: Callable[[Images], tuple[Probabilities, Embeddings]]) -> None:
        self._both = both
        self.embedding: Embeddings | None = None

    def __call__(self, images: Images) -> Probabilities:
        """Images (N, S, S, 3) -> probabilities (N, M, C)."""
        probabilities, self.embedding = self._both(images)
        return probabilities


class ByBatch:
    """Calls the runner of the smallest size that holds the batch."""

    def __init__(self, runs: Mapping[int, Run]) -> None:
        self._sizes, self._runs = list(runs), list(runs.values())
        self.member_seconds: list[float] | None = None
        self.status: npt.NDArray[np.uint8] | None = None
        self.embedding: Embeddings | None = None

    def __call__(self, images: Images) -> Probabilities:
        """Images (N, S, S, 3), N at most the largest size -> probabilities (N, M, C)."""
        run = self._runs[bisect_left(self._sizes, len(images))]
        probabilities = run(images)
        self.member_seconds, self.embedding = (getattr(run, name, None) for name in ("member_seconds", "embedding"))
        return probabilities

    def ask(self, images: Images, efforts: Sequence[str], deadline: float | None = None) -> Probabilities:
        """See `InLanes.ask`; a plan that runs all members at once asks all of them, whatever the deadline."""
        run = self._runs[bisect_left(self._sizes, len(images))]
        probabilities = ask(run, images, efforts, deadline)
        self.member_seconds, self.status = getattr(run, "member_seconds", None), status_of(run, probabilities)
        return probabilities


class InLanes:
    """Plan `split` on a CPU: the stem, then each member as soon as one of a few threads is free.

    As many threads as there are cores, the caller's among them: more would take turns on them, and a member's duration
    would count its neighbours'. Handing each member to a pool costs 0.4 ms more for eight members than lanes do.
    """

    def __init__(
        self, stem: Callable[[Images], Any], members: Sequence[Callable[[Any], Probabilities]], lanes: int
    ) -> None:
        """Take the parts.

        Args:
            stem: images -> what the members take.
            members: each gives (N, C); different ones may run at the same time.
            lanes: threads.
        """
        self._stem, self._members = stem, members
        self._lanes = lanes
        # A thread for each lane of a call, and for each member that is late from an earlier one.
        self._pool = ThreadPoolExecutor(lanes + len(members), thread_name_prefix="lane")
        self._busy: set[int] = set()
        self.member_seconds: list[float] | None = None
        self.status: npt.NDArray[np.uint8] = np.empty((0, len(members)), np.uint8)

    def __call__(self, images: Images) -> Probabilities:
        """Images (N, S, S, 3) -> probabilities (N, M, C)."""
        features = self._stem(images)
        count = len(self._members)
        results: list[Any] = [None] * count
        seconds = [0.0] * count
        waiting = iter(range(count))  # next() of a range is one step for all threads

        def lane() -> None:
            for index in waiting:
                start = time.perf_counter()
                results[index] = self._members[index](features)
                seconds[index] = time.perf_counter() - start

        others = [self._pool.submit(lane) for _ in range(self._lanes - 1)]
        try:
            lane()
        finally:
            wait(others)  # the members' buffers are in use until then
        for other in others:
            other.result()
        self.member_seconds = seconds
        return np.stack(results, axis=1)

    def ask(self, images: Images, efforts: Sequence[str], deadline: float | None = None) -> Probabilities:  # noqa: ARG002 - as Cascade.ask
        """Probabilities (N, M, C), NaN in the rows of members that failed or were late.

        Args:
            images: shape (N, S, S, 3).
            efforts: of no use here: all members are asked.
            deadline: on the clock of `time.monotonic`; None waits for all.

        Raises:
            RuntimeError: no member answered.
            TimeoutError: the same, by the deadline.
        """
        features = self._stem(images)
        members = range(len(self._members))
        results: list[Any] = [None for _ in members]
        became, seconds = [_LATE for _ in members], [float("nan") for _ in members]
        waiting, closed = iter(members), threading.Event()

        def lane() -> None:
            for index in waiting:
                if closed.is_set():
                    return
                if index in self._busy:  # at an earlier call still, which has its answer without it
                    continue
                self._busy.add(index)
                start = time.perf_counter()
                try:
                    results[index] = self._members[index](features)
                    seconds[index] = time.perf_counter() - start
                    became[index] = _USED
                except Exception:  # each runtime raises its own types
                    logging.getLogger(__name__).exception("member %d failed", index)
                    became[index] = _FAILED
                finally:
                    self._busy.discard(index)

        # The caller is none of the lanes: it would meet no deadline while it runs a member.
        lanes = [self._pool.submit(lane) for _ in range(self._lanes)]
        wait(lanes, None if deadline is None else max(0.0, deadline - time.monotonic()))
        closed.set()
        status = np.array(became, np.uint8)
        answered = np.flatnonzero(status == _USED)
        if not len(answered):
            if _LATE in became:
                raise TimeoutError("members were late: none has answered")
            raise RuntimeError("no member answered")
        found = np.full((len(images), len(members), results[answered[0]].shape[1]), np.nan, np.float32)
        for index in answered:
            found[:, index] = results[index]
        self.member_seconds = seconds
        self.status = np.tile(status, (len(images), 1))
        broken = (self.status == _USED) & ~np.isfinite(found).all(axis=2)
        self.status[broken], found[broken] = _NOT_FINITE, np.nan
        return found
