"""Our own load: the models in short turns and random order, until every claim is decided or the time is up.

Looking again and again until an interval happens to exclude the bound would make false verdicts likely. The looks are
therefore fixed in advance: after 10, 20, 40, ... rounds and when the time is up. Half of alpha belongs to the last; of
the other half the k-th look gets a share of 6 / (pi k)^2, which add up to 1 (Bonferroni, with Euler's sum). So all
intervals of a run together cover the truth with the confidence that the claims file asks for, however long it lasts.
"""

import math
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import numpy as np

from rrrnet.images.preprocess import MAX_SIZE, MIN_SIZE
from rrrserve.bench.clients.client import AnsweredBy
from rrrserve.bench.clients.subjects import EFFORT_HEADER
from rrrserve.bench.closed_loop import Result, closed_loop
from rrrserve.bench.result import told_by
from rrrserve.claims.claims_file import nearest
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.blocks import Span
from rrrserve.evidence.scrape import Scraper, refusal, why
from rrrserve.judge.spans import ModelLoad

FIRST_LOOK_ROUNDS = 10
LAST_LOOK_SHARE = 0.5
_TURN_SECONDS = 0.15
# Requests of each turn for each connection. Several connections do not end together; that idle end must be short.
_MIN_REQUESTS, _MIN_REQUESTS_OF_SEVERAL = 4, 12
_WARM_UP_REQUESTS = 5
MOST_FAILURES = 0.5  # the share of requests beyond which latencies of the others tell nothing
_TIMEOUT_SECONDS = 30.0


class Destination(NamedTuple):
    """Where a model answers, and what it is sent."""

    url: str
    bodies: Sequence[bytes]
    headers: Mapping[str, str]
    trust: ssl.SSLContext | None = None


@dataclass
class Driven:
    """What a drive has gathered so far.

    Attributes:
        turns: the stretches of time of each turn, by round.
        failed: turns that cannot be driven, and why.
        latencies_seconds: of the client's good answers, by turn.
        errors: of the others, by kind.
        answered_by: good answers by who gave them, by turn.
        started: Unix time in seconds at which the warm-up was over.
    """

    turns: dict[ModelLoad, list[Span]] = field(default_factory=dict)
    failed: dict[ModelLoad, UndecidableError] = field(default_factory=dict)
    latencies_seconds: dict[ModelLoad, list[float]] = field(default_factory=dict)
    errors: dict[ModelLoad, Counter[str]] = field(default_factory=dict)
    answered_by: dict[ModelLoad, Counter[AnsweredBy]] = field(default_factory=dict)
    started: float = 0.0

    def tally(self) -> dict[ModelLoad, dict[str, Any]]:
        """The client's own figures, JSON-ready."""
        figures = {}
        for turn, latencies in self.latencies_seconds.items():
            errors = dict(self.errors[turn])
            if latencies:
                mean_ms, p50_ms = 1000 * float(np.mean(latencies)), 1000 * float(np.median(latencies))
                figures[turn] = {"ok": len(latencies), "errors": errors, "mean_ms": mean_ms, "p50_ms": p50_ms}
            else:
                figures[turn] = {"ok": 0, "errors": errors}
            if by := self.answered_by.get(turn):
                figures[turn]["answered_by"] = told_by(by)
        return figures

    def add(self, turn: ModelLoad, result: Result, span: Span) -> None:
        """Take a turn's result; a turn that mostly fails is not driven again."""
        self.turns.setdefault(turn, []).append(span)
        latencies = self.latencies_seconds.setdefault(turn, [])
        errors = self.errors.setdefault(turn, Counter())
        latencies += result.latencies_seconds.tolist()
        errors.update(result.errors)
        self.answered_by.setdefault(turn, Counter()).update(result.answered_by)
        if errors.total() > MOST_FAILURES * (errors.total() + len(latencies)):
            counts = ", ".join(f"{count} x {name}" for name, count in errors.items())
            self.failed[turn] = UndecidableError(
                "requests_failed",
                f"{errors.total()} of {errors.total() + len(latencies)} requests to {turn[0]} failed: {counts}",
            )


async def find_destinations(
    client: httpx.AsyncClient,
    urls: Sequence[str],
    models: Sequence[str],
    bodies: Callable[[int], Sequence[bytes]],
    *,
    trust: ssl.SSLContext | None = None,
    effort: str | None = None,
) -> tuple[dict[str, Destination], dict[str, UndecidableError]]:
    """Which service serves each model; the reason for those that none does.

    Args:
        client: asks.
        urls: of the services.
        models: wanted.
        bodies: gives encoded images for a model's image size, which are sent in turns.
        trust: that the load is sent with over https.
        effort: that is asked for; None leaves it to the service.
    """
    served: dict[str, Destination] = {}
    token = {name: value for name, value in client.headers.items() if name == "authorization"}
    headers = token if effort is None else token | {EFFORT_HEADER: effort}
    down: list[str] = []
    for url in urls:
        try:
            answer = await client.get(f"{url}/v1/models")
            answer.raise_for_status()
            listed = {str(item["name"]): _image_size(item["image_size"]) for item in answer.json()["models"]}
        except httpx.HTTPStatusError as error:
            down.append(f"GET {url}/v1/models {refusal(error.response.status_code)}")
        except httpx.HTTPError as error:
            down.append(f"GET {url}/v1/models failed {why(error)}")
        except (ValueError, KeyError, TypeError, RecursionError):
            down.append(f"GET {url}/v1/models did not list models: is it an rrr service?")
        else:
            for name, size in listed.items():
                served.setdefault(name, Destination(f"{url}/v1/models/{name}/predict", bodies(size), headers, trust))
    missing = {}
    for model in models:
        if model not in served and down:
            missing[model] = UndecidableError("target_down", "; ".join(down))
        elif model not in served:
            missing[model] = UndecidableError(
                "unknown_model",
                f"{' and '.join(urls)} serve {', '.join(served)}, and not {model!r}.{nearest(model, served)}",
            )
    return {model: served[model] for model in models if model in served}, missing


def _image_size(value: Any) -> int:
    if type(value) is not int or not MIN_SIZE <= value <= MAX_SIZE:
        raise ValueError(f"image_size is {value!r}")
    return value


async def drive(
    scraper: Scraper,
    destinations: Mapping[str, Destination],
    turns: Sequence[ModelLoad],
    seconds: float,
    look: Callable[[Driven, float, bool], Awaitable[Sequence[ModelLoad]]],
    report: Callable[[float], None],
) -> None:
    """Send load in rounds of one turn each, in random order, and scrape between any two turns.

    Args:
        scraper: reads the counters.
        destinations: where each turn's model answers.
        turns: model and requests under way.
        seconds: for all, without the warm-up.
        look: judges what there is with a share of alpha; is told whether it is the last look; gives the turns that
            undecided claims still need.
        report: told the seconds that have passed.
    """
    driven = Driven()
    order = random.Random(0)  # noqa: S311  the order of turns is no secret
    sizes = {turn: await _warm_up(destinations[turn[0]], turn, driven) for turn in turns}
    sent = dict.fromkeys(turns, 0)
    left = [turn for turn in turns if turn not in driven.failed]
    last = await scraper.read()
    start, driven.started = time.monotonic(), time.time()
    looks = rounds = 0
    while left and not last.down and (passed := time.monotonic() - start) < seconds:
        report(passed)
        order.shuffle(left)
        for turn in left:
            result = await _one_turn(destinations[turn[0]], turn[1], sizes[turn], begin=sent[turn])
            sent[turn] += sizes[turn]
            now = await scraper.read()
            driven.add(turn, result, Span(last, now, result.wall_seconds))
            last = now
        rounds += 1
        if rounds == FIRST_LOOK_ROUNDS * 2**looks:
            looks += 1
            needed = await look(driven, look_share(looks), False)
            left = [turn for turn in left if turn in needed]
            if not left:
                return
        left = [turn for turn in left if turn not in driven.failed]
    await look(driven, LAST_LOOK_SHARE, True)


def look_share(number: int) -> float:
    """Share of alpha of a look before the last, counted from 1."""
    return (1 - LAST_LOOK_SHARE) * 6 / (math.pi * number) ** 2


async def _warm_up(destination: Destination, turn: ModelLoad, driven: Driven) -> int:
    """The first requests, which do not count; gives the number of requests that fill a turn."""
    result = await _one_turn(destination, turn[1], _WARM_UP_REQUESTS * turn[1])
    if not len(result.latencies_seconds):
        counts = ", ".join(f"{count} x {name}" for name, count in result.errors.items())
        driven.failed[turn] = UndecidableError("requests_failed", f"no request to {turn[0]} was answered: {counts}")
        return 0
    # A fixed number of requests, not of seconds: the request that a deadline cuts off is more often a slow one.
    least = _MIN_REQUESTS if turn[1] == 1 else _MIN_REQUESTS_OF_SEVERAL * turn[1]
    return max(least, math.ceil(result.throughput * _TURN_SECONDS))


async def _one_turn(destination: Destination, concurrency: int, requests: int, begin: int = 0) -> Result:
    """Send the images in turns, from the place at which the turn before ended."""
    images = len(destination.bodies)
    bodies = [destination.bodies[(begin + step) % images] for step in range(min(requests, images))]
    return await closed_loop(
        destination.url,
        bodies,
        concurrency,
        requests=requests,
        timeout_seconds=_TIMEOUT_SECONDS,
        headers=destination.headers,
        trust=destination.trust,
    )
