"""TensorRT engines in Triton: CUDA graphs, batch sizes, profiles and warm-up, so that the first request is a fast one.

The reasons stand in docs/internals/gpu.md ("TensorRT in Triton"); they were read in the sources of Triton's core
(dynamic_batch_scheduler.cc) and TensorRT backend (instance_state.cc).
"""

from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from rrrbuild.manifest import BatchRange, Manifest

# One instance copies images in while the other computes. The backend cannot overlap these within one instance: with a
# CUDA graph it learns that the images were read only when the whole graph has run.
_INSTANCES = 2
# The backend captures each batch size twice, for its two sets of events, and takes them in turns; in the Python
# backend the first call captures and the second is the first that launches. So the second call of a size is as slow
# as the first.
_WARM_UP_CALLS = 2


def preferred_batch_sizes(batch: BatchRange) -> list[int]:
    """What the batcher cuts a long queue into: multiples of the size that the engine is tuned for, and the largest.

    A size below `opt` must not be among them: Triton would cut a short queue into pieces of it.
    """
    return sorted({*range(batch.opt, batch.max + 1, batch.opt), batch.max})


def formed_batch_sizes(batch: BatchRange) -> list[int]:
    """Every batch size that the batcher can form of single images: any below `opt`, then the preferred ones."""
    return [*range(1, batch.opt), *preferred_batch_sizes(batch)]


def complete(config: Any, manifest: Manifest, *, native: bool) -> None:
    """Add to a ModelConfig what a model on a GPU needs.

    Args:
        config: the message with any warm-up, whose tensor is kept; batch sizes, warm-up and, for the native backend,
            instances and optimisation are set.
        manifest: the engine's.
        native: served by Triton's TensorRT backend, not by the Python backend with our runtime.
    """
    (images,) = manifest.inputs  # or what the stem of plan split hands on
    (sample,) = config.model_warmup[0].inputs.values()
    config.dynamic_batching.preferred_batch_size.extend(preferred_batch_sizes(manifest.batch))
    warm_ups = [
        pb.ModelWarmup(name=f"batch-{size}", batch_size=size, count=_WARM_UP_CALLS, inputs={images["name"]: sample})
        for size in formed_batch_sizes(manifest.batch)
    ]
    del config.model_warmup[:]
    config.model_warmup.extend(warm_ups)
    if not native:
        return
    (group,) = config.instance_group
    group.count = _INSTANCES
    # compile_tensorrt writes one optimisation profile for each of these sizes; Triton takes the one tuned nearest.
    group.profile.extend(str(index) for index, _ in enumerate(manifest.batch.sizes()))
    cuda = config.optimization.cuda
    cuda.graphs = True
    cuda.busy_wait_events = True
    cuda.output_copy_stream = True
    for size in formed_batch_sizes(manifest.batch):
        spec = cuda.graph_spec.add(batch_size=size)
        spec.input[images["name"]].dim.extend(images["shape"][1:])
