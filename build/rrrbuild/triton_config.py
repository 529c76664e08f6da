"""`config.pbtxt` of a model, written by and parsed back with Triton's own protobuf message."""

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from rrrbuild import triton_tensorrt
from rrrbuild.manifest import Manifest
from rrrbuild.repository_document import PYTHON_BACKEND
from rrrbuild.targets import Target

CONFIG = "config.pbtxt"
# Each backend's name for the threads of one inference on the CPU.
THREADS_PARAMETER = {
    PYTHON_BACKEND: "threads",
    "openvino": "INFERENCE_NUM_THREADS",
    "onnxruntime": "intra_op_thread_count",
}
TYPES = {
    "uint8": pb.TYPE_UINT8,
    "int8": pb.TYPE_INT8,
    "int32": pb.TYPE_INT32,
    "float16": pb.TYPE_FP16,
    "float32": pb.TYPE_FP32,
}
# A request waits for companions only as long as the last batch runs: with a delay, one that finds the server idle
# would wait all of it in vain.
_QUEUE_DELAY_MICROSECONDS = 0


def model_config(name: str, manifest: Manifest, target: Target, *, backend: str, threads: int | None) -> Any:
    """The ModelConfig message of an engine.

    Args:
        name: the model's name in Triton.
        manifest: the engine's.
        target: the engine's.
        backend: `python` or the target's native backend.
        threads: CPU threads for one inference; None leaves the choice to the runtime.
    """
    (images,) = manifest.inputs
    native_gpu = target.on_gpu and backend != PYTHON_BACKEND
    config = pb.ModelConfig(
        name=name,
        backend=backend,
        max_batch_size=manifest.batch.max,
        default_model_filename="model.py" if backend == PYTHON_BACKEND else target.files[0],
        input=[pb.ModelInput(**described(images))],
        output=[pb.ModelOutput(**described(output)) for output in manifest.outputs],
        # The Python backend's process is a CPU instance for Triton, whatever the runtime in it uses.
        instance_group=[
            pb.ModelInstanceGroup(
                count=1, kind=pb.ModelInstanceGroup.KIND_GPU if native_gpu else pb.ModelInstanceGroup.KIND_CPU
            )
        ],
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        # No default_queue_policy: with any timeout or size in it, Triton (2.51 at least) sends a batch only when it
        # knows of an idle instance, and where that news is missed, at its next poll, half a second later. One request
        # in a hundred was. The front bounds how long a request may take.
        dynamic_batching=pb.ModelDynamicBatching(max_queue_delay_microseconds=_QUEUE_DELAY_MICROSECONDS),
        model_warmup=[
            pb.ModelWarmup(
                name=f"batch-{size}", batch_size=size, count=1, inputs={images["name"]: _warm_up_input(images)}
            )
            for size in warm_up_sizes(manifest.batch.max)
        ],
    )
    if target.on_gpu:
        triton_tensorrt.complete(config, manifest, native=native_gpu)
    for key, value in _parameters(target, backend, threads).items():
        config.parameters[key].string_value = value
    return config


def warm_up_sizes(largest: int) -> list[int]:
    """1, 2, 4, ... and the largest: a runtime prepares each batch size when it first meets it."""
    sizes = [1 << power for power in range(largest.bit_length())]
    return sorted({*sizes, largest})


def _warm_up_input(tensor: dict[str, Any]) -> Any:
    """Random bytes for images. Random bytes as floating point numbers would be NaN here and there."""
    _, *dims = tensor["shape"]
    kind = TYPES[tensor["dtype"]]
    random = kind == pb.TYPE_UINT8
    return pb.ModelWarmup.Input(data_type=kind, dims=dims, **{"random_data" if random else "zero_data": True})


def described(tensor: dict[str, Any]) -> dict[str, Any]:
    """A manifest's tensor in the words of Triton's messages, which leave the batch out."""
    return {"name": tensor["name"], "data_type": TYPES[tensor["dtype"]], "dims": tensor["shape"][1:]}


def _parameters(target: Target, backend: str, threads: int | None) -> dict[str, str]:
    """Each backend's own names for precision and threads."""
    hints = {"PERFORMANCE_HINT": "LATENCY", "HINT_BF16": "YES"} if backend == "openvino" else {}
    if threads is None or target.on_gpu:
        return hints
    return {**hints, THREADS_PARAMETER[backend]: str(threads)}


def write_config(config: Any, path: Path) -> None:
    """Write the message as text and parse it back.

    Raises:
        RuntimeError: what was read differs, so Triton would see another configuration than was meant.
    """
    path.write_text(text_format.MessageToString(config), encoding="utf-8")
    if read_config(path) != config:
        raise RuntimeError(f"{path} does not read back as it was written")


def read_config(path: Path) -> Any:
    """The ModelConfig message in a text file."""
    return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
