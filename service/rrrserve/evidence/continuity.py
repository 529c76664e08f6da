"""Whether two readings are of the same engine: a restart, or a reload, need not let any counter fall between them."""

from collections.abc import Sequence

from rrrserve.claims.levels import Level
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.readings import INSTANCE, START, Reading, Target, shown_series, target_of

MODEL, REPOSITORY, RELOADS = "rrr_model_info", "rrr_repository_info", "rrr_reloads_total"
_AGAIN = "run it again, or leave such blocks out with --allow-resets"
_CLOCK_SECONDS = 2.0  # a start is reckoned from the machine's clock, which may be set


def check_engine(readings: Sequence[Reading], model: str) -> None:
    """Check that all readings are of one engine of a model, and of one repository.

    Args:
        readings: in the order of time. Services that do not tell what they serve are not checked.
        model: whose.

    Raises:
        UndecidableError: `engine_changed`; no blocks can be left out, since the others would mix two engines.
    """
    first: dict[Target, dict[str, str]] = {}
    for reading in readings:
        for target, now in _served(reading, model).items():
            then = first.setdefault(target, now)
            if changed := [name for name in then if name in now and then[name] != now[name]]:
                what = "; ".join(f"{name} was {then[name]} and is {now[name]}" for name in changed)
                raise UndecidableError(
                    "engine_changed",
                    f"{target[1]} changed what answers for {model} meanwhile, by rrr reload or a restart: {what}. "
                    "Measure again while nobody changes it",
                )


def check_span(before: Reading, after: Reading, model: str, level: Level) -> None:
    """Check that a model's counter went on from one reading to the next.

    Args:
        before: the earlier reading.
        after: the later one.
        model: whose.
        level: which counter.

    Raises:
        UndecidableError: the service was restarted, was away or was reloaded in between.
    """
    for labels, series in after.select(level.count, level.matchers):
        if labels.get("model") != model:
            continue
        target = target_of(series)
        same = _same_process(before, after, target)
        if series in after.resets or same is False:
            raise UndecidableError(
                "counter_reset",
                f"{shown_series(series)} began anew between two readings, though it may stand higher: the service was "
                f"restarted meanwhile; {_AGAIN}",
            )
        if target in after.gaps and not same:
            raise UndecidableError("target_down", f"{after.gaps[target]}; nothing tells that it was not restarted")
        reloads = [_reloads(reading, target[1]) for reading in (before, after)]
        if reloads[0] is not None and reloads[1] is not None and reloads[0] < reloads[1]:
            raise UndecidableError(
                "engine_changed", f"{target[1]} was reloaded {reloads[1] - reloads[0]:g} times meanwhile; {_AGAIN}"
            )


def _served(reading: Reading, model: str) -> dict[Target, dict[str, str]]:
    """What each target that has the model says about it: versions and targets of its engine, and the repository."""
    engines: dict[Target, list[str]] = {}
    for labels, series in reading.select(MODEL, {}):
        if labels.get("model") == model and reading.values[series] == 1:
            engine = f"version {labels.get('version')} ({labels.get('target')})"
            engines.setdefault(target_of(series), []).append(engine)
    repositories = {
        target_of(series): labels.get("repository", "")
        for labels, series in reading.select(REPOSITORY, {})
        if reading.values[series] == 1
    }
    return {
        target: {"the engine": " and ".join(sorted(found))}
        | ({"the repository": repositories[target]} if target in repositories else {})
        for target, found in engines.items()
    }


def _same_process(before: Reading, after: Reading, target: Target) -> bool | None:
    """Whether a target is the process it was, by when it started; None where it does not tell.

    Of several workers one may have been replaced, which goes on with the counters of the one that died.
    """
    old, new = (
        [reading.values[series] for _, series in reading.select(START, {}) if target_of(series) == target]
        for reading in (before, after)
    )
    return min(new) <= max(old) + _CLOCK_SECONDS if old and new else None


def _reloads(reading: Reading, instance: str) -> float | None:
    """How often an instance has switched to another repository; None where it does not tell."""
    found = [
        reading.values[series]
        for labels, series in reading.select(RELOADS, {"outcome": "switched"})
        if labels.get(INSTANCE) == instance
    ]
    return max(found) if found else None
