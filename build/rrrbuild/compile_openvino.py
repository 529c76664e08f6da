"""ONNX to OpenVINO's IR: `model.xml` and `model.bin`."""

import errno

import openvino as ov

from rrrbuild.job import Compiled, CompileJob


def compile_engine(job: CompileJob) -> Compiled:
    """Write the IR with FP32 weights and a free batch.

    Raises:
        OSError: the disk is full.
    """
    network = ov.Core().read_model(job.model)
    try:
        ov.save_model(network, job.path, compress_to_fp16=False)
    except RuntimeError as error:  # all that OpenVINO says of a failed write is "iostream error", without a number
        raise OSError(errno.ENOSPC, str(error), str(job.path)) from error
    return Compiled(["CPU"])
