"""Which plans to build for a network, and which of them to keep."""

from collections.abc import Mapping
from statistics import geometric_mean

from rrrbuild.targets import Plan, Target
from rrrnet.architecture import Architecture
from rrrnet.errors import UsageError

AUTO = "auto"


def check_plan(name: str, target: Target) -> None:
    """Check a plan's name before anything is read.

    Raises:
        UsageError: the target cannot express the plan, whatever the network; lists those that it can.
    """
    allowed = [AUTO, *(plan.name for plan in target.plans)]
    if name not in allowed:
        raise UsageError(f"plan {name!r} is not one of {target.name}: allowed are {', '.join(allowed)}")


def plans_to_build(name: str, target: Target, architecture: Architecture) -> tuple[Plan, ...]:
    """The plan called `name`, or for `auto` all that the target can express for this network, `sequential` first.

    Raises:
        UsageError: the plan is not one of the target, or it fuses members and the network has one.
    """
    check_plan(name, target)
    # With one member there is nothing to execute in another way: merged would be the same graph.
    expressible = target.plans if architecture.members > 1 else target.plans[:1]
    if name == AUTO:
        return expressible
    found = tuple(plan for plan in expressible if plan.name == name)
    if not found:
        allowed = ", ".join([AUTO, *(plan.name for plan in expressible)])
        raise UsageError(
            f"plan {name!r} fuses the members of an ensemble, and this network has 1 member, "
            f"so it would be the same as sequential: allowed are {allowed}"
        )
    return found


def fastest(latency_ms: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The plan with the smallest geometric mean of its median latencies over the batch sizes.

    The geometric mean weighs every batch size alike: a plan that is 10 % faster at one size and 10 % slower at
    another gains nothing, whatever the milliseconds. The first of equal plans is taken.

    Args:
        latency_ms: by plan and batch size, rows with a `median`, as `measure.measure_latency` gives them.
    """
    return min(latency_ms, key=lambda plan: geometric_mean(row["median"] for row in latency_ms[plan].values()))
