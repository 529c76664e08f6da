"""ONNX to OpenVINO's IR: `model.xml` and `model.bin`."""

from typing import Any

import openvino as ov

from rrrbuild.job import CompileJob


def compile_engine(job: CompileJob) -> dict[str, Any]:
    """Write the IR with FP32 weights and a free batch.

    Returns:
        What the engine was built for, for the manifest.
    """
    ov.save_model(ov.Core().read_model(job.model), job.folder / job.target.files[0], compress_to_fp16=False)
    return {"built_for": ["CPU"]}
