"""What a result file says about where and how it was made; and how a result file is kept."""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from rrrbuild import machine
from rrrbuild.targets import TARGETS
from rrrnet.processor import cores

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
AND = " and "
_PACKAGES = ("bentoml", "fastapi", "litserve", "numpy", "onnxruntime", "openvino", "torch", "nvidia-pytriton")


def environment() -> dict[str, Any]:
    """Command, hardware and versions, JSON-ready; the load is that before the run."""
    script = Path(sys.argv[0]).resolve()
    name = str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name
    return {
        "command": shlex.join([".venv/bin/python", name, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            **machine.describe(),
            "cores": cores(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "versions": {
            "python": sys.version.split()[0],
            **{name: version for name in _PACKAGES if (version := machine.package_version(name))},
        },
    }


def machine_text(machine: Mapping[str, Any]) -> str:
    """`AMD EPYC, 2 cores: avx2 avx512f`, as `rrr doctor` has it: one name stands for CPUs of several speeds."""
    return f"{machine['cpu']}, {machine['cores']} cores: {' '.join(machine['cpu_features'])}"


class ResultFile:
    """A result file of sections, each a list of cases, written after every case so that a long run can be divided."""

    def __init__(self, path: Path, *, missing_only: bool = False) -> None:
        """Keep what the file holds of other cases.

        Args:
            path: the JSON file.
            missing_only: leave out cases that the file has already.
        """
        self.path = path
        self._missing_only = missing_only
        self._here = environment()
        self.document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def has(self, section: str, key: dict[str, Any]) -> bool:
        """Whether a case need not be measured again."""
        return self._missing_only and any(_matches(case, key) for case in self.document.get(section, []))

    def measure(self, section: str, key: dict[str, Any], call: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Measure one case and write the file.

        Args:
            section: the list of cases it belongs to.
            key: what tells it from the others, such as target and batch.
            call: measures.

        Returns:
            The case; None if the file had it already.
        """
        if self.has(section, key):
            return None
        load = round(os.getloadavg()[0], 2)
        started = time.monotonic()
        measured = call()
        return self.record(section, key, {**measured, "load_average": load, "seconds": time.monotonic() - started})

    def record(self, section: str, key: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
        """Put one case into the section, in place of one of the same key, and write the file."""
        case = {**key, **measured}
        kept = [old for old in self.document.get(section, []) if not _matches(old, key)]
        cases = sorted([*kept, {**case, "command": self._here["command"]}], key=_rank)
        # A long run may be divided: the section tells every command that measured one of its cases.
        commands = dict.fromkeys(each["command"] for each in cases if "command" in each)
        environments = self.document.get("environment", {}) | {section: {**self._here, "command": AND.join(commands)}}
        self.document |= {"environment": environments, section: cases}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(rounded(self.document), indent=1) + "\n")
        return case


def _rank(case: dict[str, Any]) -> int:
    """Place of a case among those of its section: that of its target."""
    return list(TARGETS).index(case["target"]) if case.get("target") in TARGETS else 0


def _matches(case: dict[str, Any], key: dict[str, Any]) -> bool:
    return all(case.get(name) == value for name, value in key.items())


def rounded(value: Any) -> Any:
    """JSON-ready values with floats cut to 5 significant digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
