"""What a bench does: loads, turns and limits, checked before anything is sent."""

import math
from dataclasses import dataclass
from typing import Any

from rrrnet.errors import UsageError
from rrrserve.bench.loops import ARRIVALS

MAX_CONCURRENCY = 1024
MAX_RATE_PER_SECOND = 100_000.0


@dataclass(frozen=True)
class Load:
    """One load. Exactly one of the two numbers is given.

    Attributes:
        concurrency: requests under way in a closed loop.
        rate_per_second: requests due in an open loop.
        arrivals: `poisson` or `constant`, of an open loop.
    """

    concurrency: int | None = None
    rate_per_second: float | None = None
    arrivals: str = "poisson"

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate_per_second is None):
            raise UsageError("a load is a concurrency or a rate")
        if self.concurrency is not None and not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise UsageError(f"the concurrency is {self.concurrency}: allowed are 1 to {MAX_CONCURRENCY}")
        if self.rate_per_second is not None and not 0 < self.rate_per_second <= MAX_RATE_PER_SECOND:
            raise UsageError(
                f"the rate is {self.rate_per_second:g} a second: allowed are numbers above 0 up to "
                f"{MAX_RATE_PER_SECOND:g}"
            )
        if self.arrivals not in ARRIVALS:
            raise UsageError(f"--arrivals is {self.arrivals!r}: allowed are {', '.join(ARRIVALS)}")

    def __str__(self) -> str:
        if self.concurrency is not None:
            return f"{self.concurrency} at once"
        return f"{self.rate_per_second:g}/s"

    def to_json(self) -> dict[str, Any]:
        """The keys that tell a load in a result."""
        if self.concurrency is not None:
            return {"mode": "closed", "concurrency": self.concurrency}
        return {"mode": "open", "rate_per_second": self.rate_per_second, "arrivals": self.arrivals}


@dataclass(frozen=True)
class BenchPlan:
    """How to measure.

    Attributes:
        loads: in the order in which each round goes through them.
        rounds: turns of each subject at each load.
        seconds: of each turn; None leaves it to `requests`.
        requests: of each turn at most.
        warm_up_seconds: the same load before each turn, not counted.
        seed: of the arrival times.
        max_in_flight: of an open loop; beyond it requests are not sent, which is counted.
        p99_ms: search the highest rate whose 99th percentile keeps this limit.
        arrivals: of that search.
    """

    loads: tuple[Load, ...]
    rounds: int = 3
    seconds: float | None = 2.0
    requests: int | None = None
    warm_up_seconds: float = 0.5
    seed: int = 0
    max_in_flight: int = 1000
    p99_ms: float | None = None
    arrivals: str = "poisson"

    def __post_init__(self) -> None:
        if not self.loads and self.p99_ms is None:
            raise UsageError("nothing to measure: give a concurrency, a rate or a limit to p99")
        if self.seconds is None and self.requests is None:
            raise UsageError("a load needs a limit: give a number of requests or of seconds")
        if self.arrivals not in ARRIVALS:
            raise UsageError(f"--arrivals is {self.arrivals!r}: allowed are {', '.join(ARRIVALS)}")
        numbers = (self.seconds, self.warm_up_seconds, self.p99_ms)
        if not all(math.isfinite(number) for number in numbers if number is not None):
            raise UsageError("seconds and limits must be finite numbers")
