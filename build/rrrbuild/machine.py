"""What this machine has: CPU features, GPU, installed packages. Nothing heavy is imported to find out."""

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import pynvml

from rrrnet.errors import IncompatibleError
from rrrnet.installing import install_line
from rrrnet.processor import cpu_model as cpu_model
from rrrnet.processor import cpuinfo

# The CPU features that decide which precisions pay off; the manifest records those that are present.
_FEATURES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "bf16"),
)
# Features named here, with commas between them, count as absent: to try out another CPU (docs/engines.md).
MASK_VARIABLE = "RRR_CPU_FEATURES_MASKED"


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU. `compute_capability` is like "8.9"."""

    name: str
    compute_capability: str
    driver_version: str


def cpu_features() -> frozenset[str]:
    """Those of the features that matter to engines which this CPU has, by Linux's names, less the masked ones."""
    masked = os.environ.get(MASK_VARIABLE, "").replace(",", " ").split()
    return _all_cpu_features().difference(masked)


@cache
def _all_cpu_features() -> frozenset[str]:
    words = cpuinfo("flags", "Features").split()
    return frozenset(words) & frozenset(_FEATURES)


@cache
def gpu() -> Gpu | None:
    """The first NVIDIA GPU, or None where there is none or no driver."""
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return Gpu(pynvml.nvmlDeviceGetName(handle), f"{major}.{minor}", pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def package_version(package: str) -> str | None:
    """Version of an installed package, without importing it; None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing_package(module: str, extra: str) -> str | None:
    """None if `module` can be imported, else a sentence that says how to install it."""
    top = module.partition(".")[0]
    if importlib.util.find_spec(top) is not None and importlib.util.find_spec(module) is not None:
        return None
    return f"the Python package {module.replace('.', '-')} is not installed: {install_line(extra)}"


def require(module: str, extra: str) -> None:
    """Check that an optional package is there.

    Raises:
        IncompatibleError: it is not; says how to install it.
    """
    if missing := missing_package(module, extra):
        raise IncompatibleError(missing)


def describe() -> dict[str, Any]:
    """CPU and GPU of this machine, JSON-ready."""
    found = gpu()
    return {
        "cpu": cpu_model(),
        "cpu_features": sorted(cpu_features()),
        "gpu": None if found is None else found.__dict__,
    }
