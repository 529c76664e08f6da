"""Which plans to build for a network, and which of them to keep."""

from collections.abc import Mapping
from statistics import geometric_mean

from rrrbuild.plan_runner import SPLIT
from rrrbuild.targets import TARGETS, Plan, Target
from rrrnet.errors import UsageError
from rrrnet.network.architecture import Architecture

AUTO = "auto"
_MARGIN = 1.03


def check_plan(name: str, target: Target) -> None:
    """Check a plan's name before anything is read.

    Raises:
        UsageError: the target cannot express the plan, whatever the network; lists those that it can.
    """
    allowed = [AUTO, *(plan.name for plan in target.plans)]
    if name in target.lacks:
        raise UsageError(
            f"plan {name!r} cannot be expressed for {target.name}: {target.lacks[name]}; "
            f"allowed are {', '.join(allowed)}"
        )
    if name not in allowed:
        raise UsageError(f"plan {name!r} is not one of {target.name}: allowed are {', '.join(allowed)}")


def check_embed(name: str, target: Target | None, *, cascade: bool | None) -> None:
    """Check that an engine with embeddings can be built in that way, before anything is read.

    Args:
        name: of the plan.
        target: None where it is chosen later.
        cascade: whether one is asked for.

    Raises:
        UsageError: a cascade or plan `split` is asked for too, or the target is of a GPU.
    """
    if cascade:
        raise UsageError(
            "--embed and --cascade: an embedding holds the features of all members, and a cascade leaves most of them "
            "out; leave one of the two away, or build two engines"
        )
    if name == SPLIT:
        raise UsageError(f"--embed and --plan {SPLIT}: its members hand on their answers only; leave --plan out")
    if target is not None and target.on_gpu:
        allowed = ", ".join(other.name for other in TARGETS.values() if not other.on_gpu)
        raise UsageError(f"--embed is not for {target.name}: allowed are {allowed}")


def plans_to_build(name: str, target: Target, architecture: Architecture, *, embed: bool = False) -> tuple[Plan, ...]:
    """The plan called `name`, or for `auto` all that the target can express for this network, `sequential` first.

    Args:
        name: as above.
        target: the engine's.
        architecture: the network's.
        embed: whether the engine gives embeddings, which plan `split` does not.

    Raises:
        UsageError: the plan is not one of the target, or the network has one member.
    """
    check_plan(name, target)
    # With one member there is nothing to execute in another way.
    expressible = target.plans if architecture.members > 1 else target.plans[:1]
    expressible = tuple(plan for plan in expressible if not (embed and plan.name == SPLIT))
    if name == AUTO:
        return expressible
    found = tuple(plan for plan in expressible if plan.name == name)
    if not found:
        allowed = ", ".join([AUTO, *(plan.name for plan in expressible)])
        raise UsageError(
            f"plan {name!r} is for the members of an ensemble, and this network has 1 member, "
            f"so it would be the same as sequential: allowed are {allowed}"
        )
    return found


def winners(latency_ms: Mapping[str, Mapping[str, Mapping[str, float]]]) -> tuple[str, dict[str, str]]:
    """The plan that is fastest over all batch sizes, and the plan to run each batch size by.

    Each plan that is kept costs memory and disk. So another plan gets a batch size only where it is clear of noise:
    by more than 3 % in the median, and three quarters of its calls faster than three quarters of the other's.

    Args:
        latency_ms: by plan and batch size, rows with `median`, `p25` and `p75`.

    Returns:
        The overall fastest, and the plan by batch size; that is empty where one plan runs all.
    """
    overall = fastest(latency_ms)
    chosen = {}
    for size, usual in latency_ms[overall].items():
        best = min(latency_ms, key=lambda plan: latency_ms[plan][size]["median"])
        row = latency_ms[best][size]
        clear = row["median"] * _MARGIN < usual["median"] and row["p75"] < usual["p25"]
        chosen[size] = best if clear else overall
    if len(set(chosen.values())) == 1:
        return overall, {}
    if overall not in chosen.values():  # second at every size
        overall = fastest({plan: latency_ms[plan] for plan in chosen.values()})
    return overall, chosen


def fastest(latency_ms: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The plan with the smallest geometric mean of its median latencies over the batch sizes.

    The geometric mean weighs every batch size alike: a plan that is 10 % faster at one size and 10 % slower at
    another gains nothing, whatever the milliseconds. The first of equal plans is taken.

    Args:
        latency_ms: by plan and batch size, rows with a `median`, as `measure.measure_latency` gives them.
    """
    return min(latency_ms, key=lambda plan: geometric_mean(row["median"] for row in latency_ms[plan].values()))


def usual(architecture: Architecture) -> str:
    """The plan that mostly wins, where there is no time to try all."""
    return "merged" if architecture.members > 1 else "sequential"
