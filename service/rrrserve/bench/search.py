"""The highest rate of an open loop whose 99th percentile keeps a limit: bracketed by doubling, then bisected."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

_STEP = 1.5
_CLOSE_ENOUGH = 1.05  # of the bracket's ends
_MOST_RATES = 12
_LOWEST_SHARE = 0.05  # of the first rate; below it the search gives up


@dataclass(frozen=True)
class Trial:
    """One rate that was tried.

    Attributes:
        rate_per_second: requests due.
        p99_ms: of those answered; None if none was.
        errors: number of requests that failed or were not sent.
        requests: number of those due.
        ok: every request was answered, and the 99th percentile kept the limit.
    """

    rate_per_second: float
    p99_ms: float | None
    errors: int
    requests: int
    ok: bool


@dataclass
class Search:
    """A search under way; its trials are kept also when it is cut short.

    Attributes:
        p99_ms_limit: what is to be kept.
        trials: in order.
        reason: why there is no such rate, or why the search ended before it had it within 5 %; else empty.
    """

    p99_ms_limit: float
    trials: list[Trial] = field(default_factory=list)
    reason: str = "the search was cut short"

    @property
    def best(self) -> Trial | None:
        """The highest rate that kept the limit, below every rate that did not."""
        kept = [trial for trial in self.trials if trial.ok]
        rates = {trial.rate_per_second for trial in kept}
        lowest_bad = min((t.rate_per_second for t in self.trials if t.rate_per_second not in rates), default=None)
        good = [trial for trial in kept if lowest_bad is None or trial.rate_per_second < lowest_bad]
        return max(good, key=lambda trial: trial.rate_per_second, default=None)

    async def run(self, attempt: Callable[[float], Awaitable[Trial]], *, first: float, highest: float) -> None:
        """Try rates until the highest good one and the lowest bad one are within 5 %.

        A rate that fails is tried once more: what else happens on a machine makes latencies longer, never shorter.

        Args:
            attempt: measures one rate.
            first: the rate to begin with.
            highest: never more than this; what the client can do.
        """
        good, bad, rate = 0.0, float("inf"), min(first, highest)
        for _ in range(_MOST_RATES):
            rounded = float(f"{rate:.4g}")
            self.trials.append(await attempt(rounded))
            if not self.trials[-1].ok:
                self.trials.append(await attempt(rounded))
            if self.trials[-1].ok:
                good = rate
            else:
                bad = rate
            if good >= highest:
                self.reason = f"the client cannot send more than {highest:.4g} a second without a part in the latencies"
                return
            if good and bad / good <= _CLOSE_ENOUGH:
                self.reason = ""
                return
            if bad == float("inf"):
                rate = min(good * _STEP, highest)
            elif good:
                rate = (good * bad) ** 0.5
            elif bad <= _LOWEST_SHARE * first:
                last = self.trials[-1]
                self.reason = f"even {last.rate_per_second:g}/s had p99 {last.p99_ms} ms and {last.errors} errors"
                return
            else:
                rate = bad / _STEP**2
        self.reason = f"the search ended after {_MOST_RATES} rates"
