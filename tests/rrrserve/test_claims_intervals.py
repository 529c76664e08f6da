"""Intervals cover the truth as often as they say, on latencies as servers have them: skewed, drifting, dependent."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from scipy.signal import lfilter

from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.blocks import Blocks
from rrrserve.judge import intervals
from rrrserve.judge.drive import FIRST_LOOK_ROUNDS, LAST_LOOK_SHARE, look_share
from rrrserve.judge.verdicts import Interval
from rrrserve.metrics.instruments import BUCKETS

RUNS, ALPHA, RATIO = 200, 0.05, 5.3
Array = npt.NDArray[np.float64]
FINE = np.concatenate([3e-4 * 1.01 ** np.arange(1000), [np.inf]])
COARSE = np.array([*BUCKETS, np.inf])
SUMS = np.array([np.inf])  # one bucket for all: means need none


def autoregressive(random: np.random.Generator, size: int, correlation: float, deviation: float) -> Array:
    """A stationary series of the given lag-1 correlation and standard deviation."""
    noise = random.normal(0, deviation * math.sqrt(1 - correlation**2), size)
    noise[0] = random.normal(0, deviation)
    series: Array = lfilter([1.0], [1.0, -correlation], noise)
    return series


def blocks_from(rows: list[Array], bounds: Array) -> Blocks:
    """Blocks of latencies in seconds, one array for each."""
    buckets = np.array([np.bincount(np.searchsorted(bounds, row), minlength=len(bounds)) for row in rows])
    counts = np.array([float(len(row)) for row in rows])
    totals = np.array([row.sum() for row in rows])
    return Blocks(totals, counts, totals, bounds, buckets.astype(float))


@dataclass(frozen=True)
class Machine:
    """How latencies come about: what lasts for a request, a turn, and minutes."""

    skew: float  # standard deviation of a request's log latency: 0.5 makes the mean 13 % more than the median
    correlation: float  # between a request and the next
    drift: float  # amplitude of a slow swing of the whole machine's speed, in both models alike
    own: float  # deviation of a model's own speed from turn to turn, correlated by 0.5

    def run(self, seed: int, turns: int, requests: tuple[int, int], bounds: Array) -> tuple[Blocks, Blocks]:
        """The baseline, `RATIO` times as slow, and the model, in turns of random order."""
        random = np.random.default_rng(seed)
        phase = np.linspace(0, random.uniform(2, 8), 2 * turns) + random.uniform(0, 6)
        state = autoregressive(random, 2 * turns, 0.8, 0.1) + self.drift * np.sin(phase)
        first = random.integers(0, 2, turns)
        found = []
        for which, (size, scale) in enumerate(zip(requests, (0.005 * RATIO, 0.005), strict=True)):
            noise = autoregressive(random, turns * size, self.correlation, self.skew).reshape(turns, size)
            speed = autoregressive(random, turns, 0.5, self.own) if self.own else np.zeros(turns)
            shared = state[2 * np.arange(turns) + (first ^ which)]
            found.append(blocks_from(list(scale * np.exp(noise + (shared + speed)[:, None])), bounds))
        return found[0], found[1]

    def alone(self, seed: int, turns: int, correlation: float) -> Blocks:
        """One model's turns of 20 requests. No slow swing: an hour that was slow is no different from a slow model."""
        random = np.random.default_rng(seed)
        state = autoregressive(random, turns, correlation, 0.1)
        speed = autoregressive(random, turns, 0.5, self.own) if self.own else np.zeros(turns)
        noise = autoregressive(random, turns * 20, self.correlation, self.skew).reshape(turns, 20)
        return blocks_from(list(0.005 * np.exp(noise + (state + speed)[:, None])), FINE)

    def mean(self) -> float:
        """Of `alone`, whose median is 0.005."""
        return 0.005 * math.exp((self.skew**2 + 0.1**2 + self.own**2) / 2)


MACHINES = {
    "quiet": Machine(skew=0.4, correlation=0.0, drift=0.0, own=0.0),
    "dependent and drifting": Machine(skew=0.4, correlation=0.6, drift=0.3, own=0.02),
    "skewed": Machine(skew=1.2, correlation=0.3, drift=0.3, own=0.02),
    "each model has moods": Machine(skew=0.5, correlation=0.5, drift=0.3, own=0.1),
}


def first(blocks: Blocks, size: int) -> Blocks:
    """The first blocks."""
    return Blocks(
        blocks.seconds[:size],
        blocks.counts[:size],
        blocks.totals_seconds[:size],
        blocks.bounds_seconds,
        blocks.buckets[:size],
    )


def coverage(judge: Callable[[int], Interval], truth: float) -> float:
    """Share of the runs whose interval holds the truth."""
    found = [judge(seed) for seed in range(RUNS)]
    assert all(interval.low <= interval.value <= interval.high for interval in found)
    return sum(interval.low <= truth <= interval.high for interval in found) / RUNS


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("turns", [12, 30])
def test_a_95_percent_interval_of_a_ratio_of_means_covers_it_in_90_to_99_percent_of_200_runs(
    name: str, turns: int
) -> None:
    covered = coverage(lambda seed: intervals.mean_ratio(*MACHINES[name].run(seed, turns, (8, 40), SUMS), ALPHA), RATIO)
    assert 0.90 <= covered <= 0.99


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "share", "requests"),
    [
        *((name, 0.5, (8, 40)) for name in MACHINES),
        ("dependent and drifting", 0.99, (40, 80)),
        ("skewed", 0.95, (40, 80)),
    ],
)
def test_so_does_an_interval_of_a_ratio_of_percentiles_from_fine_histograms(
    name: str, share: float, requests: tuple[int, int]
) -> None:
    machine = MACHINES[name]
    covered = coverage(
        lambda seed: intervals.quantile_ratio(*machine.run(seed, 30, requests, FINE), share, ALPHA), RATIO
    )
    assert 0.90 <= covered <= 0.99


@pytest.mark.nightly
@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("turns", [30, 60])
def test_so_does_an_interval_of_one_models_mean_median_and_rate(name: str, turns: int) -> None:
    """The machine's speed, which a ratio is free of, is part of a single model's noise: 0.64 from turn to turn."""
    machine = MACHINES[name]
    runs = [machine.alone(seed, turns, 0.64) for seed in range(RUNS)]
    for judge, truth in (
        (intervals.mean, machine.mean()),
        (lambda blocks, alpha: intervals.quantile(blocks, 0.5, alpha), 0.005),
        (intervals.rate, 1 / machine.mean()),  # one request under way
    ):
        covered = coverage(lambda seed, judge=judge: judge(runs[seed], ALPHA), truth)  # type: ignore[misc]
        assert 0.90 <= covered <= 0.99, judge


@pytest.mark.nightly
@pytest.mark.parametrize(("turns", "at_least"), [(12, 0.83), (20, 0.83), (30, 0.87), (60, 0.90)])
def test_a_few_strongly_dependent_turns_of_one_model_are_the_limit_that_the_documentation_states(
    turns: int, at_least: float
) -> None:
    """20 blocks of a machine whose speed is correlated by 0.8 from one to the next are worth two independent ones."""
    machine = MACHINES["quiet"]
    covered = coverage(lambda seed: intervals.mean(machine.alone(seed, turns, 0.8), ALPHA), machine.mean())
    assert at_least <= covered <= 0.99


def test_coarse_buckets_only_make_it_wider() -> None:
    machine = MACHINES["dependent and drifting"]
    fine = intervals.quantile_ratio(*machine.run(1, 30, (40, 80), FINE), 0.5, ALPHA)
    coarse = intervals.quantile_ratio(*machine.run(1, 30, (40, 80), COARSE), 0.5, ALPHA)
    assert coarse.high / coarse.low > 1.249 > fine.high / fine.low / 1.249
    assert coarse.coarse is not None
    assert coarse.coarse[1] / coarse.coarse[0] > 1.249
    covered = coverage(
        lambda seed: intervals.quantile_ratio(*machine.run(seed, 30, (40, 80), COARSE), 0.5, ALPHA), RATIO
    )
    assert covered >= 0.95


@pytest.mark.nightly
def test_looking_again_and_again_does_not_make_false_verdicts_likely() -> None:
    """A drive stops at the first look whose interval excludes a bound; here the bound is the truth itself."""
    machine, sizes = MACHINES["dependent and drifting"], (10, 20, 40, 80)
    assert sizes[0] == FIRST_LOOK_ROUNDS
    shares = [look_share(1), look_share(2), look_share(3), LAST_LOOK_SHARE]
    assert sum(look_share(number) for number in range(1, 10000)) + LAST_LOOK_SHARE == pytest.approx(1.0, abs=1e-4)
    false = naive = 0
    for seed in range(RUNS):
        above, below = machine.run(seed, sizes[-1], (8, 40), SUMS)
        pairs = [(first(above, size), first(below, size)) for size in sizes]
        scheduled = [intervals.mean_ratio(*pair, ALPHA * share) for pair, share in zip(pairs, shares, strict=True)]
        every = [intervals.mean_ratio(*pair, ALPHA) for pair in pairs]
        false += any(not found.low <= RATIO <= found.high for found in scheduled)
        naive += any(not found.low <= RATIO <= found.high for found in every)
    assert false / RUNS <= 0.05
    assert naive > 1.5 * false


def test_traffic_that_comes_when_the_machine_is_slow_does_not_pass_for_a_slow_model() -> None:
    """Both take equally long; the machine is slow in the second half, when most of the model's requests came."""
    random = np.random.default_rng(0)
    slow = np.repeat([1.0, 2.0], 15)
    model = [0.01 * factor * random.lognormal(0, 0.2, 10 if factor == 1 else 90) for factor in slow]
    baseline = [0.01 * factor * random.lognormal(0, 0.2, 90 if factor == 1 else 10) for factor in slow]
    above, below = blocks_from(baseline, FINE), blocks_from(model, FINE)
    pooled = (above.totals_seconds.sum() / above.counts.sum()) / (below.totals_seconds.sum() / below.counts.sum())
    found = intervals.mean_ratio(above, below, ALPHA)
    assert pooled < 0.65
    assert 0.95 < found.low < 1.0 < found.high < 1.05


def test_an_estimated_percentile_is_the_one_that_promql_computes() -> None:
    """histogram_quantile interpolates linearly: 10 requests in (0.1, 0.2], 10 in (0.2, 0.4]; p75 is halfway up."""
    bounds, cumulative = np.array([0.1, 0.2, 0.4, np.inf]), np.array([[0.0, 10.0, 20.0, 20.0]])
    assert intervals.interpolated_quantile(cumulative, bounds, 0.75)[0] == pytest.approx(0.3)
    assert intervals.interpolated_quantile(cumulative, bounds, 0.25)[0] == pytest.approx(0.15)
    with pytest.raises(UndecidableError, match=r"p50 lies beyond the last bucket, 0\.4 s"):
        intervals.interpolated_quantile(np.array([[0.0, 0.0, 1.0, 20.0]]), bounds, 0.5)


def test_a_single_percentile_reaches_to_the_ends_of_its_bucket() -> None:
    rows = [np.full(20, 0.011) for _ in range(10)]
    found = intervals.quantile(blocks_from(rows, np.array([0.005, 0.010, 0.012, np.inf])), 0.5, ALPHA)
    assert [found.low, found.high] == pytest.approx([0.010, 0.012])
    assert found.coarse is not None
    assert list(found.coarse) == pytest.approx([0.010, 0.012])


def test_a_rate_is_requests_over_seconds() -> None:
    counts = np.array([9.0, 11.0] * 6)
    blocks = Blocks(np.full(12, 2.0), counts, counts, np.array([]), np.zeros((12, 0)))
    found = intervals.rate(blocks, ALPHA)
    assert found.value == pytest.approx(5.0)
    assert 4.5 < found.low < 5.0 < found.high < 5.5


@pytest.mark.parametrize(
    ("turns", "requests", "share", "reason", "message"),
    [
        (7, 100, 0.5, "too_few_blocks", "7 blocks of time with answers of it: an interval needs 8"),
        (9, 3, 0.5, "too_few_samples", "27 requests: an interval needs at least 30"),
        (10, 50, 0.99, "too_few_samples", "500 requests: p99 needs 1000, 10 of them beyond it"),
    ],
)
def test_too_little_evidence_is_refused(turns: int, requests: int, share: float, reason: str, message: str) -> None:
    blocks = blocks_from([np.full(requests, 0.01)] * turns, FINE)
    with pytest.raises(UndecidableError) as raised:
        intervals.quantile(blocks, share, ALPHA)
    assert raised.value.reason == reason
    assert message in str(raised.value)
