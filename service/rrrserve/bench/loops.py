"""The two ways to put load on a server: closed loop and open loop.

Closed: so many requests under way, each sent when the one before was answered. A server that stalls is not asked
meanwhile, so a stall counts once for each request under way, however many would have come (*coordinated omission*).
Open: requests are due at times that were drawn beforehand, and each latency counts from that time, whatever the server
or this client did since. A stall shows in every request that was due in it.

Source: G. Tene, "How NOT to Measure Latency"; R. Schroeder et al., "Open Versus Closed: A Cautionary Tale" (NSDI 2006).
"""

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rrrserve.bench.alarm import Alarm
from rrrserve.bench.clients.client import Client, RequestFailedError

NOT_SENT = "not_sent"
ARRIVALS = ("poisson", "constant")
_PAUSE_AFTER_FAILURE_SECONDS = 0.02  # a server that refuses connections must not be asked in a busy loop
_LEAD_SECONDS = 0.01  # so that the first request, too, is in time


@dataclass
class Recorder:
    """What a turn has measured so far; valid also when it was cut short.

    Attributes:
        latencies_seconds: of each answered request, in the order of the answers.
        late_seconds: of each request of an open loop, how long after its time this client took it up.
        errors: number of the others, by kind; `not_sent` are those beyond the cap of an open loop.
        wall_seconds: from the first request's time to the end of the last.
    """

    latencies_seconds: list[float] = field(default_factory=list)
    late_seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    wall_seconds: float = 0.0


async def closed_loop(
    client: Client, concurrency: int, recorder: Recorder, *, requests: int | None, seconds: float | None
) -> None:
    """Keep `concurrency` requests under way.

    Args:
        client: whom to ask.
        concurrency: requests under way.
        recorder: filled.
        requests: how many to send in all, and
        seconds: for how long to begin new ones; without either it goes on until it is cancelled.
    """
    tickets = itertools.count()
    start = time.perf_counter()
    end = float("inf") if seconds is None else start + seconds
    most = float("inf") if requests is None else requests

    async def one_after_the_other() -> None:
        while (sent := time.perf_counter()) < end and (ticket := next(tickets)) < most:
            try:
                recorder.latencies_seconds.append(await client.ask(ticket) - sent)
            except RequestFailedError as error:
                recorder.errors[error.kind] += 1
                if not error.answered:
                    await asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(one_after_the_other())
    finally:
        recorder.wall_seconds = time.perf_counter() - start


def arrival_times(
    rate_per_second: float,
    arrivals: str,
    *,
    requests: int | None,
    seconds: float | None,
    random: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """When requests are due, in seconds from the start, ascending.

    Args:
        rate_per_second: how many on average.
        arrivals: `constant`, all equally far apart; or `poisson`, each independent of the others, as those of many
            users are: the gaps are exponentially distributed.
        requests: at most so many, and
        seconds: none later than this; at least one of both.
        random: draws the gaps.
    """
    if requests is None:
        assert seconds is not None  # noqa: S101  the plan has checked it
        # Six standard deviations more than are expected.
        requests = int(rate_per_second * seconds + 6 * (rate_per_second * seconds) ** 0.5) + 6
    if arrivals == "constant":
        times = np.arange(requests) / rate_per_second
    else:
        times = np.cumsum(random.exponential(1 / rate_per_second, requests))
    return times if seconds is None else times[times < seconds]


async def open_loop(
    client: Client, due_seconds: npt.NDArray[np.float64], recorder: Recorder, *, max_in_flight: int
) -> None:
    """Send each request at its time, and wait for all answers.

    Args:
        client: whom to ask.
        due_seconds: from `arrival_times`.
        recorder: filled.
        max_in_flight: a request that would be one more is not sent, and counts as an error `not_sent`.
    """
    in_flight = 0
    start = time.perf_counter() + _LEAD_SECONDS

    async def one(ticket: int, due: float) -> None:
        nonlocal in_flight
        recorder.late_seconds.append(time.perf_counter() - due)
        try:
            recorder.latencies_seconds.append(await client.ask(ticket) - due)
        except RequestFailedError as error:
            recorder.errors[error.kind] += 1
        finally:
            in_flight -= 1

    try:
        with Alarm() as alarm:
            async with asyncio.TaskGroup() as group:
                for ticket, offset in enumerate(due_seconds.tolist()):
                    await alarm.until(start + offset)
                    if in_flight >= max_in_flight:
                        recorder.errors[NOT_SENT] += 1
                        continue
                    in_flight += 1
                    group.create_task(one(ticket, start + offset))
    finally:
        recorder.wall_seconds = max(0.0, time.perf_counter() - start)
