"""Where a measurement was made: the machine and the versions of what took part."""

from functools import cache
from typing import Any

from rrrbuild import machine
from rrrnet import __version__
from rrrnet.processor import cores

SERVING_PACKAGES = ("bentoml", "tritonclient", "starlette", "uvicorn", "prometheus-client", "protobuf", "pillow")
RUNTIME_PACKAGES = ("numpy", "nvidia-pytriton", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx")
TRAINING_PACKAGES = ("torch", "kornia", "onnx", "safetensors")


@cache
def describe() -> dict[str, Any]:
    """`machine` (CPU, its features, GPU, usable cores) and `versions` of rrr and its packages, JSON-ready.

    Nothing is imported to find out. It is looked up once: it cannot change under a running process.
    """
    packages = SERVING_PACKAGES + RUNTIME_PACKAGES + TRAINING_PACKAGES
    return {
        "machine": {**machine.describe(), "cores": cores()},
        "versions": {"rrr": __version__, **{name: machine.package_version(name) for name in packages}},
    }
