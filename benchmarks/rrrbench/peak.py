"""The machine's peak rate by precision: a large matrix product by the best libraries that are here.

OpenVINO's MatMul (oneDNN inside) and PyTorch's (oneDNN) take turns with the engines; a round's peak is the larger.
"""

from collections.abc import Callable

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op

ROWS, DEPTH = 4096, 2048
PRECISIONS = ("fp32", "bf16", "int8")


def gflop(rows: int = ROWS, depth: int = DEPTH) -> float:
    """10^9 operations of the product of (rows, depth) by (depth, depth)."""
    return 2e-9 * rows * depth * depth


def products(precision: str, *, rows: int = ROWS, depth: int = DEPTH) -> dict[str, Callable[[], object]]:
    """One matrix product by each library, in one precision: "fp32", "bf16" or "int8" (unsigned by signed 8 bit)."""
    return {
        "matmul-openvino": _openvino(precision, rows, depth),
        "matmul-torch": _torch(precision, rows, depth),
    }


def _openvino(precision: str, rows: int, depth: int) -> Callable[[], object]:
    random = np.random.default_rng(0)
    if precision == "int8":
        left = random.integers(0, 256, (rows, depth), dtype=np.uint8)
        images = op.parameter([rows, depth], np.uint8)
        # A FakeQuantize of 256 levels and weights that are scaled integers are what OpenVINO computes in 8 bit.
        limits = [op.constant(np.float32(limit)) for limit in (0, 255, 0, 255)]
        inputs = op.fake_quantize(op.convert(images, "f32"), *limits, 256)
        integers = op.constant(random.integers(-127, 128, (depth, depth), dtype=np.int8))
        weights = op.multiply(op.convert(integers, "f32"), op.constant(np.full((depth, 1), 0.01, np.float32)))
    else:
        left = random.normal(size=(rows, depth)).astype(np.float32)
        images = inputs = op.parameter([rows, depth], np.float32)
        weights = op.constant(random.normal(size=(depth, depth)).astype(np.float32))
    model = ov.Model([op.matmul(inputs, weights, False, True)], [images])
    hint = "bf16" if precision == "bf16" else "f32"
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer({0: left}, share_inputs=True, share_outputs=True)


def _torch(precision: str, rows: int, depth: int) -> Callable[[], object]:
    random = torch.Generator().manual_seed(0)
    if precision == "int8":
        left, right = (
            torch.randint(-127, 128, (height, depth), dtype=torch.int8, generator=random) for height in (rows, depth)
        )
        return lambda: torch._int_mm(left, right)  # oneDNN's product; torch has no public name for it
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    inputs, weights = (torch.randn((height, depth), generator=random).to(dtype) for height in (rows, depth))

    def call() -> object:
        with torch.inference_mode():
            return torch.nn.functional.linear(inputs, weights)

    return call
