"""What `rrr tune` tries and how it chooses: settings of a model in Triton, their figures, and the rule.

The trade-off is that of Triton's own guides: more instances answer more requests at once, more threads answer one
request sooner, and batches fill the cores when many wait.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rrrbuild.triton_config import THREADS_PARAMETER
from rrrnet.errors import CheckFailedError

# Without a limit to p99, a candidate may answer a lone request so much slower than the quickest one.
MEDIAN_TOLERANCE = 0.10
_WAIT_FOR_COMPANIONS_MICROSECONDS = 500


@dataclass(frozen=True)
class Candidate:
    """Settings of one model.

    Attributes:
        instances: copies of the model that run side by side.
        threads: CPU threads for one inference; None leaves them as they are.
        queue_delay_us: how long a request waits for companions when the model is idle; None forms no batches.
    """

    instances: int
    threads: int | None
    queue_delay_us: int | None

    def __str__(self) -> str:
        shape = f"{self.instances} instance{'s' * (self.instances > 1)}"
        if self.threads is not None:
            shape += f" x {self.threads} thread{'s' * (self.threads > 1)}"
        if self.queue_delay_us is None:
            return f"{shape}, no batches"
        return f"{shape}, batches" + (f" after {self.queue_delay_us} us" if self.queue_delay_us else "")


@dataclass(frozen=True)
class Figures:
    """What one candidate did with so many requests under way, a value for each round; needs at least one round."""

    candidate: Candidate
    concurrency: int
    p50_ms_by_round: tuple[float, ...]
    p99_ms_by_round: tuple[float, ...]
    throughput_by_round: tuple[float, ...]

    @property
    def p50_ms(self) -> float:
        """Median over the rounds of their medians."""
        return statistics.median(self.p50_ms_by_round)

    @property
    def p99_ms(self) -> float:
        """Median over the rounds of their 99th percentiles."""
        return statistics.median(self.p99_ms_by_round)

    @property
    def throughput(self) -> float:
        """Median over the rounds of their answers a second."""
        return statistics.median(self.throughput_by_round)

    def to_json(self) -> dict[str, Any]:
        """All of it, medians first."""
        medians = {"p50_ms": self.p50_ms, "p99_ms": self.p99_ms, "throughput": self.throughput}
        return {**asdict(self.candidate), "concurrency": self.concurrency, **medians, **self._rounds()}

    def _rounds(self) -> dict[str, list[float]]:
        names = ("p50_ms_by_round", "p99_ms_by_round", "throughput_by_round")
        return {name: list(getattr(self, name)) for name in names}


def candidates(present: Candidate, *, cores: int, on_gpu: bool, batches: bool) -> tuple[Candidate, ...]:
    """What to try, each once; the settings that the model has now come first.

    Args:
        present: the settings now.
        cores: CPU cores that may be used.
        on_gpu: whether the engine runs on a GPU, where instances share the device and threads do not matter.
        batches: whether the engine takes more than one image.
    """
    if on_gpu:
        found = [Candidate(count, None, delay) for count in (1, 2) for delay in (0, _WAIT_FOR_COMPANIONS_MICROSECONDS)]
    else:
        shapes = [(1, cores), *((cores // threads, threads) for threads in _powers_of_two(cores // 2))]
        found = [Candidate(count, threads, delay) for count, threads in dict.fromkeys(shapes) for delay in (0, None)]
        found.append(Candidate(1, cores, _WAIT_FOR_COMPANIONS_MICROSECONDS))
    if not batches:
        found = [candidate for candidate in found if candidate.queue_delay_us == 0]
    return tuple(dict.fromkeys([present, *found]))


def within_memory(
    tried: Iterable[Candidate], *, instance_bytes: int, free_bytes: int
) -> tuple[tuple[Candidate, ...], dict[Candidate, str]]:
    """Candidates whose instances fit, and why the others are left out.

    A single instance always stays: to serve it or to fail is up to `rrr serve`.

    Args:
        tried: what would be tried.
        instance_bytes: what one instance may take.
        free_bytes: what all together may take.
    """
    kept: list[Candidate] = []
    left_out: dict[Candidate, str] = {}
    for candidate in tried:
        needed = candidate.instances * instance_bytes
        if candidate.instances > 1 and needed > free_bytes:
            left_out[candidate] = f"may need {needed / 1e9:.1f} GB of memory, and {free_bytes / 1e9:.1f} GB are free"
        else:
            kept.append(candidate)
    return tuple(kept), left_out


def _powers_of_two(largest: int) -> list[int]:
    return [1 << power for power in range(largest.bit_length())]


def present_settings(config: Any, backend: str, *, cores: int, on_gpu: bool) -> Candidate:
    """What a ModelConfig message says now; a CPU model that names no threads uses all cores."""
    threads = None
    if not on_gpu:
        name = THREADS_PARAMETER[backend]
        threads = int(config.parameters[name].string_value) if name in config.parameters else cores
    batching = config.HasField("dynamic_batching")
    delay = config.dynamic_batching.max_queue_delay_microseconds if batching else None
    return Candidate(config.instance_group[0].count, threads, delay)


def with_settings(config: Any, backend: str, candidate: Candidate) -> Any:
    """A copy of a ModelConfig message with the candidate's settings and all else as it was.

    A `default_queue_policy` that an earlier version wrote is dropped, for the reason in rrrbuild.triton_config.
    """
    changed = type(config)()
    changed.CopyFrom(config)
    changed.instance_group[0].count = candidate.instances
    if candidate.threads is not None:
        changed.parameters[THREADS_PARAMETER[backend]].string_value = str(candidate.threads)
    if candidate.queue_delay_us is None:
        changed.ClearField("dynamic_batching")
    else:
        changed.dynamic_batching.SetInParent()  # the message counts even where the delay is its default, 0
        changed.dynamic_batching.max_queue_delay_microseconds = candidate.queue_delay_us
        changed.dynamic_batching.ClearField("default_queue_policy")
    return changed


def choose(figures: Sequence[Figures], p99_limit_ms: float | None) -> Figures:
    """The row to go by; of equal ones the first.

    With a limit: the most answers a second among rows whose p99 keeps it. Without: the same among candidates whose
    median at the lowest concurrency is within `MEDIAN_TOLERANCE` of the best.

    Raises:
        CheckFailedError: nothing keeps the limit; names the row that comes nearest.
    """
    if p99_limit_ms is None:
        return _most_answers(_quick_alone(figures))
    keeping = [row for row in figures if row.p99_ms <= p99_limit_ms]
    if not keeping:
        nearest = min(figures, key=lambda row: row.p99_ms)
        raise CheckFailedError(
            f"no candidate keeps p99 <= {p99_limit_ms:g} ms: the nearest is {nearest.candidate} with "
            f"{nearest.p99_ms:.2f} ms at concurrency {nearest.concurrency} ({nearest.throughput:.1f} answers/s); "
            "nothing was changed. Raise --p99-ms, lower --concurrency, or build a faster engine with rrr build"
        )
    return _most_answers(keeping)


def _most_answers(figures: Iterable[Figures]) -> Figures:
    return max(figures, key=lambda row: row.throughput)


def _quick_alone(figures: Sequence[Figures]) -> list[Figures]:
    lowest = min(row.concurrency for row in figures)
    alone = {row.candidate: row.p50_ms for row in figures if row.concurrency == lowest}
    limit = min(alone.values()) * (1 + MEDIAN_TOLERANCE)
    return [row for row in figures if alone[row.candidate] <= limit]
