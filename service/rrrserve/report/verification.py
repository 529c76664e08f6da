"""Whether what was verified of an engine was verified on a machine like this one."""

from rrrbuild.manifest import Manifest
from rrrbuild.targets import TARGETS
from rrrserve.stamps.environment import describe
from rrrserve.stamps.staleness import hardware_reasons


def verified_elsewhere(engine: Manifest) -> str | None:
    """How the machine that verified an engine differs from this one; None where it does not, or nothing was verified.

    Other kernels run on another CPU or GPU: errors and agreement may be others there.
    """
    if engine.verified is False:
        return None
    target = TARGETS.get(engine.target)
    of_gpu = {"gpu": engine.device.get("gpu")}
    of_cpu = {key: engine.verified.get(key, engine.device.get(key)) for key in ("cpu", "cpu_features")}
    then = {key: value for key, value in (of_gpu if target and target.on_gpu else of_cpu).items() if value is not None}
    return "; ".join(hardware_reasons(then, describe()["machine"])) or None
