"""A closed loop over HTTP that gives raw latencies; `rrr bench` is built from the same parts."""

import ssl
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rrrnet.errors import UsageError
from rrrserve.bench import loops
from rrrserve.bench.clients.client import AnsweredBy
from rrrserve.bench.clients.http_client import HttpClient


@dataclass(frozen=True)
class Result:
    """What a run measured.

    Attributes:
        latencies_seconds: of each request answered with status 200, in the order of the answers; shape (answers,).
        errors: number of the others, by status ("503") or failure ("ConnectionRefusedError").
        wall_seconds: from the first request to the last answer.
        answered_by: good answers by who gave them, where they tell.
    """

    latencies_seconds: npt.NDArray[np.float64]
    errors: dict[str, int]
    wall_seconds: float
    answered_by: Counter[AnsweredBy] = field(default_factory=Counter)

    @property
    def throughput(self) -> float:
        """Good answers per second."""
        return len(self.latencies_seconds) / self.wall_seconds if self.wall_seconds else 0.0

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies in milliseconds; infinite if no request was answered."""
        if not len(self.latencies_seconds):
            return float("inf")
        return 1000 * float(np.percentile(self.latencies_seconds, percent))


async def closed_loop(
    url: str,
    bodies: Sequence[bytes],
    concurrency: int,
    *,
    requests: int | None = None,
    seconds: float | None = None,
    timeout_seconds: float = 30.0,
    headers: Mapping[str, str] | None = None,
    trust: ssl.SSLContext | None = None,
) -> Result:
    """Keep `concurrency` requests under way, each sent when the last was answered.

    Args:
        url: where to POST, such as `http://127.0.0.1:3000/v1/predict`.
        bodies: encoded images, sent in turns.
        concurrency: connections.
        requests: how many to send in all, and
        seconds: for how long to begin new ones; at least one of both.
        timeout_seconds: a request without an answer by then counts as an error, and its connection is closed.
        headers: sent with each request.
        trust: for https; None for the certificates that this machine trusts.

    Raises:
        UsageError: an address that is neither http nor https, or neither limit is given.
    """
    if requests is None and seconds is None:
        raise UsageError("a load needs a limit: give a number of requests or of seconds")
    client = HttpClient(url, bodies, timeout_seconds=timeout_seconds, headers=headers, trust=trust)
    recorder = loops.Recorder()
    try:
        await loops.closed_loop(client, concurrency, recorder, requests=requests, seconds=seconds)
    finally:
        await client.close()
    return Result(
        np.array(recorder.latencies_seconds), dict(recorder.errors), recorder.wall_seconds, client.answered_by
    )
