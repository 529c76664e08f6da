"""OpenVINO IRs as callables. Copied into Triton model repositories: imports numpy and OpenVINO only."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import openvino as ov

if TYPE_CHECKING:
    from rrrnet.processor import Threads

# What the CPU computes in where the IR says FP32. An INT8 IR says where it is INT8; the hint is for the rest.
_PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_ONE = {"min": 1, "opt": 1, "max": 1}


# An image of this size or more fills one core, and its activations fit that core's cache better than two would. Smaller
# ones go together: weights read anew for each cost more than the arithmetic (measured at 64, 128 and 224 pixels).
_LARGE_IMAGE_PIXELS = 192
_TRIES = 5  # of each way to do a batch, of which the best counts


def load(folder: Path, manifest: Mapping[str, Any], threads: "Threads") -> Callable[[npt.NDArray[np.uint8]], Any]:
    """Compile an IR for this CPU.

    One image is computed by all cores together. Several are shared out among streams of their own cores, which meet at
    the end of the batch and not of each layer.

    Args:
        folder: has `model.xml` and `model.bin`, checked already.
        manifest: gives `precision`, the `batch` sizes, the image size, and the shape of `outputs`.
        threads: of the CPU, for one inference.

    Returns:
        images (N, S, S, 3) uint8 -> probabilities (N, M, C) float32, for one caller at a time; with the output
        `embedding` -> a pair of these and embeddings (N, D) float32.
    """
    network = _Network(ov.Core(), folder / "model.xml", manifest, threads)
    (_, *shape), dtype = (manifest["outputs"][0][key] for key in ("shape", "dtype"))

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        output = np.empty((len(images), *shape), dtype)
        network(_writeable(images), output)
        return output

    def run_both(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        output = np.empty((len(images), *shape), dtype)
        embedding = np.empty((len(images), *manifest["outputs"][1]["shape"][1:]), np.float32)
        network(_writeable(images), output, embedding)
        return output, embedding

    chosen: Callable[[npt.NDArray[np.uint8]], Any] = run_both if len(manifest["outputs"]) > 1 else run
    network.settle(lambda count: chosen(np.zeros((count, *manifest["inputs"][0]["shape"][1:]), np.uint8)))
    return chosen


def load_cascade(
    folder: Path, manifest: Mapping[str, Any], threads: "Threads"
) -> tuple[
    Callable[[npt.NDArray[np.uint8]], tuple[npt.NDArray[np.float32], npt.NDArray[Any]]],
    Callable[[npt.NDArray[Any], Sequence[int]], npt.NDArray[np.float32]],
]:
    """Compile the parts of a cascade.

    Args:
        folder: has `first.xml` and `rest.xml`, checked already.
        manifest: gives `precision`, the `batch` sizes, the shape of `outputs`, the `features` and the `cascade`.
        threads: as of `load`.

    Returns:
        As `cascade_runner.Cascade` takes them: the first members, images -> probabilities (N, k, C) and features, which
        stand in memory that the next call uses again, and the rest, features and rows -> probabilities (R, M - k, C).
    """
    core, k = ov.Core(), manifest["cascade"]["k"]
    first, rest = (_Network(core, folder / f"{name}.xml", manifest, threads) for name in ("first", "rest"))
    members, classes = manifest["outputs"][0]["shape"][1:]
    # numpy has no BF16: its bits, which are only handed on.
    dtype = np.dtype(np.uint16 if manifest["precision"] == "bf16" else manifest["features"]["dtype"])
    shape = manifest["features"]["shape"][1:]
    features = np.empty((1, *shape), dtype)

    def run_first(images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        nonlocal features
        if len(features) < len(images):
            features = np.empty((len(images), *shape), dtype)
        output = np.empty((len(images), k, classes), np.float32)
        first(_writeable(images), output, features[: len(images)])
        return output, features[: len(images)]

    first.settle(lambda count: run_first(np.zeros((count, *manifest["inputs"][0]["shape"][1:]), np.uint8)))

    def run_rest(features: npt.NDArray[Any], rows: Sequence[int]) -> npt.NDArray[np.float32]:
        output = np.empty((len(rows), members - k, classes), np.float32)
        rest(features if len(rows) == len(features) else features[rows], output)
        return output

    return run_first, run_rest


def load_parts(
    folder: Path, manifest: Mapping[str, Any], threads: "Threads", member_threads: "Threads"
) -> tuple[Callable[[npt.NDArray[np.uint8]], ov.Tensor], Sequence[Callable[[ov.Tensor], npt.NDArray[np.float32]]]]:
    """Compile the parts of plan `split`. The members read the stem's output where it lies.

    Args:
        folder: has `stem.xml`, `member_0.xml` and so on, checked already.
        manifest: gives `precision`, the `batch` sizes and the shape of `outputs`.
        threads: for the stem.
        member_threads: for each member.

    Returns:
        The stem, images -> features, and the members, features -> probabilities (N, C); each for one caller at a time.
    """
    core = ov.Core()
    network = _part(core, folder / "stem.xml", manifest)
    output = network.output()
    stem_forms = _Forms(core, network, manifest, threads)
    members = [
        _Forms(core, _part(core, folder / f"member_{index}.xml", manifest), manifest, member_threads)
        for index in range(manifest["outputs"][0]["shape"][1])
    ]

    features_type, (_, *features_shape) = output.element_type, output.partial_shape
    features = ov.Tensor(features_type, ov.Shape([1, *(dim.get_length() for dim in features_shape)]))

    def stem(images: npt.NDArray[np.uint8]) -> ov.Tensor:
        nonlocal features
        images = _writeable(images)
        # Of ours, with a shape of its own: a request's own output tensor works its shape out at each look, which goes
        # wrong when several members look at the same time.
        if features.shape[0] != len(images):
            features = ov.Tensor(features_type, ov.Shape([len(images), *features.shape[1:]]))
        request = stem_forms.request(len(images))
        request.set_input_tensor(ov.Tensor(images, shared_memory=True))
        request.set_output_tensor(features)
        request.infer(share_outputs=True)
        return features

    def caller(forms: _Forms) -> Callable[[ov.Tensor], npt.NDArray[np.float32]]:
        def run(features: ov.Tensor) -> npt.NDArray[np.float32]:
            request = forms.request(features.shape[0])
            request.set_input_tensor(features)
            request.infer(share_outputs=True)
            return np.array(request.get_output_tensor().data, dtype=np.float32)

        return run

    return stem, [caller(forms) for forms in members]


class _Network:
    """A network, or a part of one, from rows to rows.

    One row is computed by all cores together. Several are shared out among streams of their own cores, which meet at
    the end of the batch and not of each layer.
    """

    def __init__(self, core: ov.Core, path: Path, manifest: Mapping[str, Any], threads: "Threads") -> None:
        network = _part(core, path, manifest)
        batch = manifest["batch"]
        self._streams = min(threads.count, batch["opt"])
        self._one_by_one = manifest["preprocess"]["size"] >= _LARGE_IMAGE_PIXELS
        self._left_alone = True
        self._shared = None
        if self._streams > 1:
            self._shared = _Streams(core, network, manifest, threads, self._streams, one_by_one=self._one_by_one)
        self._forms = _Forms(core, network, manifest if self._shared is None else {**manifest, "batch": _ONE}, threads)

    def settle(self, run: Callable[[int], object]) -> None:
        """Find out whether a row that is left over is done sooner by all cores together, or by the streams.

        Of large images by all cores; of small ones that depends on the machine: after the streams, all cores need up to
        a millisecond to begin (at 64 pixels three images took 6.0 ms so, and 5.4 ms by two streams).

        Args:
            run: calls this network with so many rows.
        """
        if self._shared is None or self._one_by_one:
            return
        seconds = {}
        for self._left_alone in (True, False):
            seconds[self._left_alone] = min(_seconds(run, self._streams + 1) for _ in range(_TRIES))
        self._left_alone = seconds[True] < seconds[False]

    def __call__(self, source: npt.NDArray[Any], *targets: npt.NDArray[Any]) -> None:
        """Write what becomes of the N rows of `source` into `targets`, arrays of N rows in the network's order."""
        if self._shared is None:
            _infer(self._forms.request(len(source)), source, targets)
            return
        # What is left over for at most half of the streams is done sooner by all cores together, where it is at all.
        left = len(source) % self._streams
        alone = left if len(source) == 1 or (self._left_alone and 2 * left <= self._streams) else 0
        together = len(source) - alone
        self._shared(source[:together], [target[:together] for target in targets])
        for index in range(together, len(source)):
            row = slice(index, index + 1)
            _infer(self._forms.request(1), source[row], [target[row] for target in targets])


def _seconds(run: Callable[[int], object], rows: int) -> float:
    start = time.perf_counter()
    run(rows)
    return time.perf_counter() - start


class _Forms:
    """A network compiled in two forms: of fixed batch 1, and of free batch for all other sizes.

    A free batch costs an ensemble 8 to 10 % at batch 1 (dispatch of a hundred small operators), and 0 to 5 % at batch
    8, where a fixed form for each size would hold the weights once per size.
    """

    def __init__(self, core: ov.Core, network: ov.Model, manifest: Mapping[str, Any], threads: "Threads") -> None:
        options = {**_options(manifest, threads), "PERFORMANCE_HINT": "LATENCY"}
        batch = manifest["batch"]
        self._any: Any = None
        self._single: Any = None
        if batch["max"] > 1:
            self._any = core.compile_model(network, "CPU", options).create_infer_request()
        if batch["min"] == 1:
            _fix_batch(network)
            self._single = core.compile_model(network, "CPU", options).create_infer_request()

    def request(self, size: int) -> Any:
        """The infer request for a batch of that size."""
        return self._single if size == 1 else self._any


class _Streams:
    """A network whose batches are cut into shares that run side by side, each stream on its own cores."""

    def __init__(
        self,
        core: ov.Core,
        network: ov.Model,
        manifest: Mapping[str, Any],
        threads: "Threads",
        streams: int,
        *,
        one_by_one: bool,
    ) -> None:
        self._streams, self._one_by_one = streams, one_by_one
        if one_by_one:
            _fix_batch(network)
        options = {**_options(manifest, threads), "NUM_STREAMS": streams}
        self._queue = ov.AsyncInferQueue(core.compile_model(network, "CPU", options), streams)
        self._queue.set_callback(_keep)

    def __call__(self, source: npt.NDArray[Any], targets: Sequence[npt.NDArray[Any]]) -> None:
        """See `_Network`."""
        count = len(source)
        parts = count if self._one_by_one else min(count, self._streams)
        bounds = [count * part // max(parts, 1) for part in range(parts + 1)]
        for start, stop in pairwise(bounds):
            request = self._queue[self._queue.get_idle_request_id()]
            _connect(request, source[start:stop], [target[start:stop] for target in targets])
            self._queue.start_async(userdata=targets[0][start:stop])
        self._queue.wait_all()


def _keep(request: ov.InferRequest, place: npt.NDArray[np.float32]) -> None:
    place[:] = request.get_output_tensor(0).data


def _writeable(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The images, copied if they may not be written to: OpenVINO shares no such memory, though it only reads it."""
    return images if images.flags.writeable else images.copy()


def _infer(request: Any, source: npt.NDArray[Any], targets: Sequence[npt.NDArray[Any]]) -> None:
    """Write the results for `source` into `targets`."""
    # Given to infer() instead, tensors cost 0.2 ms more: 5 % of an ensemble's time at 128 pixels.
    _connect(request, source, targets)
    request.infer(share_outputs=True)
    targets[0][:] = request.get_output_tensor(0).data


def _connect(request: Any, source: npt.NDArray[Any], targets: Sequence[npt.NDArray[Any]]) -> None:
    """Let a request read `source` and write its features, if it has any, where they lie: they are large."""
    request.set_input_tensor(_tensor(source, request.get_input_tensor().element_type))
    for index, target in enumerate(targets[1:], start=1):
        request.set_output_tensor(index, _tensor(target, request.get_output_tensor(index).element_type))


def _tensor(array: npt.NDArray[Any], kind: ov.Type) -> ov.Tensor:
    """An array as a tensor in the same memory."""
    if array.dtype == np.uint16:  # the bits of BF16
        return ov.Tensor(array, ov.Shape(array.shape), kind)
    return ov.Tensor(array, shared_memory=True)


def _options(manifest: Mapping[str, Any], threads: "Threads") -> dict[str, Any]:
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _PRECISION_HINTS[manifest["precision"]]}
    if threads.exact:
        # Without pinning: networks that run side by side would all be pinned to the first cores.
        options |= {"INFERENCE_NUM_THREADS": threads.count, "ENABLE_CPU_PINNING": False}
    return options


def _fix_batch(network: ov.Model) -> None:
    _, *shape = network.input().partial_shape
    network.reshape([1, *shape])


def _part(core: ov.Core, path: Path, manifest: Mapping[str, Any]) -> ov.Model:
    """Read a network or a part of one; where BF16 is computed in, features are handed on in BF16.

    That is half the bytes, and what the whole network does: handed on in FP32 they would be rounded later than there.
    """
    part = core.read_model(path)
    if manifest["precision"] != "bf16" or manifest["plan"] not in ("split", "cascade"):
        return part
    steps = ov.preprocess.PrePostProcessor(part)
    hands_on = any("features" in port.names for port in part.outputs)
    (steps.output("features") if hands_on else steps.input("features")).tensor().set_element_type(ov.Type.bf16)
    return steps.build()
