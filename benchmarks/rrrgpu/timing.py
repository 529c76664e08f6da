"""Milliseconds, their spread, the machine's peak, and what the machine is."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

_WARM_UP_ROUNDS = 3
_MEASUREMENT_MS = 10.0  # what the calls between two events shall take together
_FEWEST_CALLS, _MOST_CALLS = 3, 100

Launches = Mapping[str, Callable[[], Any]]
Times = dict[str, dict[str, float]]


def measure(launches: Launches, rounds: int, *, on_gpu: bool) -> tuple[Times, dict[str, Exception]]:
    """Milliseconds of each launch; a round measures all of them in turns.

    Returns:
        By name, `gpu_ms` and `host_ms`, each with quartiles and minimum, and `rounds`, of which they are; and what was
        raised instead. `gpu_ms` is the time per call of many that follow one another, between two events of the GPU;
        `host_ms` that of a single call on an idle GPU, by the host's clock, until the answer is there. Without a GPU
        both are the host's. If the GPU becomes unusable, the others keep the times they have; those without are in
        neither.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in launches}
    calls = dict.fromkeys(launches, 1)
    failed: dict[str, Exception] = {}
    for index in range(_WARM_UP_ROUNDS + rounds):
        for name in [name for name in launches if name not in failed]:
            try:
                found = _time_on_gpu(launches[name], calls[name]) if on_gpu else _time_on_cpu(launches[name])
            except Exception as error:  # whatever a runtime raises: the others go on
                failed[name] = error
                if not usable():
                    return _summaries(times, failed), failed
                continue
            if index >= _WARM_UP_ROUNDS:
                times[name].append(found)
            else:
                calls[name] = calls_for(found[0])
    return _summaries(times, failed), failed


def in_blocks(
    calls: Mapping[str, Callable[[int], Any]], blocks: int, per_block: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Exception]]:
    """Milliseconds of calls that differ, by the host's clock, in blocks; the order within a round rotates.

    Args:
        calls: what to time, by name; each is told the number of the call, 0 to `blocks * per_block` - 1, and returns
            when its answer is on the host.
        blocks: rounds, in which each has a block.
        per_block: calls of a block, after one that does not count.

    Returns:
        By name, `times_ms`, the mean of each block, and `p99_ms` of the calls; and what was raised instead. If the GPU
        becomes unusable, the others are in neither.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    failed: dict[str, Exception] = {}
    for block in range(blocks):
        names = list(calls)[block % len(calls) :] + list(calls)[: block % len(calls)]
        numbers = range(block * per_block, (block + 1) * per_block)
        for name in [name for name in names if name not in failed]:
            try:
                calls[name](numbers[0])
                took[name] += [_time_call(calls[name], number) for number in numbers]
            except Exception as error:  # whatever a runtime raises: the others go on
                failed[name] = error
                if not usable():
                    return {}, failed
    found = {}
    for name in [name for name in calls if name not in failed]:
        means = np.reshape(took[name], (blocks, per_block)).mean(axis=1)
        found[name] = {
            "times_ms": [round(float(mean), 5) for mean in means],
            "p99_ms": round(float(np.percentile(took[name], 99)), 5),
        }
    return found, failed


def calls_for(call_ms: float) -> int:
    """How many calls are timed together, if one takes about `call_ms`."""
    return max(_FEWEST_CALLS, round(_MEASUREMENT_MS / max(call_ms, _MEASUREMENT_MS / _MOST_CALLS)))


def usable() -> bool:
    """Whether the GPU, if it is in use, still takes work: after some errors every CUDA call of the process fails."""
    cuda: Any = torch.cuda  # untyped in part
    for _ in range(2):  # the first may report what the failed call left behind
        try:
            if cuda.is_initialized():
                cuda.synchronize()
            return True
        except RuntimeError:
            continue
    return False


def _time_on_gpu(launch: Callable[[], Any], calls: int) -> tuple[float, float]:
    event: Any = torch.cuda.Event  # untyped in PyTorch
    start, end = event(enable_timing=True), event(enable_timing=True)
    began = time.perf_counter()
    launch()
    end.record()
    end.synchronize()
    host_ms = 1000 * (time.perf_counter() - began)
    launch()  # keeps the GPU busy, so that its clock does not count how long the host takes for the next launch
    start.record()
    for _ in range(calls):
        launch()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls, host_ms


def _time_call(call: Callable[[int], Any], number: int) -> float:
    began = time.perf_counter()
    call(number)
    return 1000 * (time.perf_counter() - began)


def _time_on_cpu(launch: Callable[[], Any]) -> tuple[float, float]:
    began = time.perf_counter()
    launch()
    host_ms = 1000 * (time.perf_counter() - began)
    return host_ms, host_ms


def _summaries(times: Mapping[str, list[tuple[float, float]]], failed: Mapping[str, Exception]) -> Times:
    found: Times = {}
    for name, pairs in times.items():
        if pairs and name not in failed:
            gpu_ms, host_ms = ([pair[index] for pair in pairs] for index in (0, 1))
            found[name] = _spread("gpu_ms", gpu_ms) | _spread("host_ms", host_ms) | {"rounds": len(pairs)}
    return found


def _spread(name: str, times: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    found = {name: median, f"{name}_p25": low, f"{name}_p75": high, f"{name}_min": min(times)}
    return {key: round(value, 5) for key, value in found.items()}


def peak_tflops(dtype: torch.dtype, device: str, size: int) -> float:
    """What a product of two square matrices of `size` reaches, in 10^12 floating-point operations a second."""
    a, b = (torch.randn((size, size), device=device).to(dtype) for _ in range(2))
    times, failed = measure({"product": lambda: a @ b}, 20, on_gpu=device == "cuda")
    for error in failed.values():
        raise error
    return 2 * size**3 / times["product"]["gpu_ms"] / 1e9


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
