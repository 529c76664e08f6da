"""Why a verdict may no longer hold: the machine, a version or a file is not what it was when the claim was verified.

Standard library and package metadata only: the service asks at its start, without any runtime installed beside it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

# Versions that every served answer depends on; those of the engines' own runtimes come from the stamp.
SERVING = ("rrr", "bentoml", "nvidia-pytriton")
_HARDWARE = {"cpu": "CPU", "gpu": "GPU", "cores": "usable cores"}


def hardware_reasons(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How two machines differ, as `rrrserve.stamps.environment.describe` tells them."""
    reasons = [
        f"{name}: {_shown(then[key])} when verified, {_shown(now.get(key))} now"
        for key, name in _HARDWARE.items()
        if key in then and then[key] != now.get(key)
    ]
    if "cpu_features" in then and not isinstance(then["cpu_features"], str):
        before, here = set(then["cpu_features"]), set(now.get("cpu_features", ()))
        changes = [
            *(f"without {name}" for name in sorted(before - here)),
            *(f"with {n}" for n in sorted(here - before)),
        ]
        reasons += [f"CPU features: now {', '.join(changes)}"] if changes else []
    return reasons


def version_reasons(
    then: Mapping[str, str | None], now: Mapping[str, str | None], runtimes: Iterable[str]
) -> list[str]:
    """How versions differ, of what a served answer depends on.

    Args:
        then: by package, when the claim was verified.
        now: by package, here.
        runtimes: packages of the engines that the claim is about.
    """
    names = dict.fromkeys([*SERVING, *(name.replace("_", "-") for name in runtimes)])
    return [
        f"{name} {then[name] or '(none)'} when verified, {now.get(name) or 'not installed'} now"
        for name in names
        if name in then and then[name] != now.get(name)
    ]


def file_reasons(model: str, then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """How a model's files differ; both map a path to its SHA-256."""
    if not now:
        return [f"{model} is not here any more"]
    names = sorted(path for path in then.keys() | now.keys() if then.get(path) != now.get(path))
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"files changed since: {', '.join(names[:3])}{more}"]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(str(item) for item in value.values())
    return "none" if value is None else str(value)
