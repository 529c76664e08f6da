"""Where a training computes, and in which precision."""

import torch

from rrrnet.errors import UsageError
from rrrnet.processor import cpuinfo


def find_device(wanted: str) -> str:
    """The device that `--device` means.

    Raises:
        UsageError: it is not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def computes_in_bfloat16(wanted: str, device: str) -> bool:
    """bfloat16 where asked for, or where the hardware computes in it."""
    if wanted != "auto":
        return wanted == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    flags = cpuinfo("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
