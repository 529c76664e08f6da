"""ONNX to ONNX Runtime's engine, which is the exported file itself.

A file optimised offline loads 0.1 s (ResNet152: 0.4 s) faster but runs no faster, and holds kernels' layouts for
the CPU that made it; so the portable file is kept and optimised at load.
"""

from typing import Any

from rrrbuild.job import CompileJob


def compile_engine(job: CompileJob) -> dict[str, Any]:
    """Write the ONNX model.

    Returns:
        What the engine was built for, for the manifest.
    """
    job.path.write_bytes(job.model)
    return {"built_for": ["CPU"]}
