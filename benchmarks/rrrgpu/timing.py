"""Milliseconds, their spread, the machine's peak, and what the machine is."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

_WARM_UP_ROUNDS = 3


def measure(launches: Mapping[str, Callable[[], Any]], rounds: int, *, on_gpu: bool) -> dict[str, dict[str, float]]:
    """Milliseconds of each launch; a round calls all of them in turns.

    Returns:
        By name, `gpu_ms` between two events of the GPU and `host_ms` by the host's clock until the answer is there,
        each with quartiles and minimum. Without a GPU both are the host's.
    """
    times: dict[str, dict[str, list[float]]] = {name: {"gpu_ms": [], "host_ms": []} for name in launches}
    for index in range(_WARM_UP_ROUNDS + rounds):
        for name, launch in launches.items():
            gpu_ms, host_ms = _time_on_gpu(launch) if on_gpu else _time_on_cpu(launch)
            if index >= _WARM_UP_ROUNDS:
                times[name]["gpu_ms"].append(gpu_ms)
                times[name]["host_ms"].append(host_ms)
    return {
        name: _spread("gpu_ms", rows["gpu_ms"]) | _spread("host_ms", rows["host_ms"]) for name, rows in times.items()
    }


def _time_on_gpu(launch: Callable[[], Any]) -> tuple[float, float]:
    event: Any = torch.cuda.Event  # untyped in PyTorch
    start, end = event(enable_timing=True), event(enable_timing=True)
    began = time.perf_counter()
    start.record()
    launch()
    end.record()
    end.synchronize()
    host_ms = 1000 * (time.perf_counter() - began)
    return start.elapsed_time(end), host_ms


def _time_on_cpu(launch: Callable[[], Any]) -> tuple[float, float]:
    began = time.perf_counter()
    launch()
    host_ms = 1000 * (time.perf_counter() - began)
    return host_ms, host_ms


def _spread(name: str, times: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    found = {name: median, f"{name}_p25": low, f"{name}_p75": high, f"{name}_min": min(times)}
    return {key: round(value, 5) for key, value in found.items()}


def peak_tflops(dtype: torch.dtype, device: str, size: int) -> float:
    """What a product of two square matrices of `size` reaches, in 10^12 floating-point operations a second."""
    a, b = (torch.randn((size, size), device=device).to(dtype) for _ in range(2))
    times = measure({"product": lambda: a @ b}, 20, on_gpu=device == "cuda")["product"]
    return 2 * size**3 / times["gpu_ms"] / 1e9


def environment(*, on_gpu: bool) -> dict[str, Any]:
    """Hardware, driver and versions."""
    found: dict[str, Any] = {
        "host": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if on_gpu:
        query = "--query-gpu=name,driver_version,clocks.max.sm,power.limit,memory.total"
        found["nvidia_smi"] = _output("nvidia-smi", query, "--format=csv,noheader")
        found["gpu"] = torch.cuda.get_device_name()
        found["compute_capability"] = "{}.{}".format(*torch.cuda.get_device_capability())
        cudnn: Any = torch.backends.cudnn
        found |= {"cuda": torch.version.cuda, "cudnn": cudnn.version()}
    return found


def _output(*command: str) -> str:
    """What a command prints; where it is missing, as in some containers, that it is."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return f"no {command[0]} here"
