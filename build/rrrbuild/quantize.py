"""FP32 to INT8 between export and compilation: calibrate, write Q/DQ nodes, and let accuracy decide how.

The quantised graph is run on held-out images before anything is compiled, Q/DQ pairs in float: that chooses among the
ways to quantise. So the gate holds for targets too whose engines cannot run on this machine; an engine that can is
verified again for what it is, by its own kernels.

Those of CPUs that sum 8-bit products in 16 bits overflow: with 8-bit weights OpenVINO's and ONNX Runtime's answers were
2.2 and 2.5 times as far from PyTorch's as the same graphs in exact arithmetic, with 7-bit weights just as far, and no
slower (letters, 64 pixels, AVX2). There weights get 7 bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from rrrbuild import machine
from rrrbuild.activations import Activation, encodings, observe, open_session
from rrrbuild.calibration import Calibration
from rrrbuild.heldout import HeldOut
from rrrbuild.job import Report
from rrrbuild.plan_runner import Probabilities
from rrrbuild.qdq import DIALECTS, SEVEN_BITS, Dialect, find_sites, write_qdq
from rrrbuild.sensitivity import noise_to_signal
from rrrbuild.targets import Target, int8_kernels
from rrrbuild.verify import compare
from rrrnet.errors import CheckFailedError

# Images on which the convolutions are compared; their order settles long before.
_SENSITIVITY_IMAGES = 16


@dataclass(frozen=True)
class Method:
    """One way to quantise.

    Attributes:
        name: for people and the manifest.
        clip: span the range of least mean square error instead of everything seen.
        float_share: the share of convolutions, the most sensitive ones, that stay in float.
    """

    name: str
    clip: bool = False
    float_share: float = 0.0


# Tried in this order until one passes; the faster and simpler ones come first.
METHODS = (
    Method("full range"),
    Method("least square error", clip=True),
    Method("least square error, 10 % in float", clip=True, float_share=0.1),
    Method("least square error, 30 % in float", clip=True, float_share=0.3),
)


class Quantiser:
    """Quantises the plans of one network for one target, and remembers how."""

    def __init__(
        self, target: Target, calibration: Calibration, held_out: HeldOut, *, max_drop: float, report: Report
    ) -> None:
        self._target, self._calibration, self._held_out = target, calibration, held_out
        self._max_drop, self._report = max_drop, report
        self._dialect = dialect_here(target)
        self._plans: dict[str, dict[str, Any]] = {}
        self._done: dict[bytes, tuple[bytes, dict[str, Any]]] = {}  # some plans share a graph
        self._reference: Probabilities | None = None

    def quantise(self, exported: bytes, plan: str, order: Sequence[int] | None = None) -> bytes:
        """The exported FP32 model in INT8; the same model and images give the same bytes on the same machine.

        Args:
            exported: the model.
            plan: its name.
            order: in which its output has the members; None for the checkpoint's.

        Raises:
            CheckFailedError: every method loses more than is allowed; says what was measured and what to try.
        """
        if exported not in self._done:
            self._done[exported] = self._quantise(exported, plan, order)
        quantised, self._plans[plan] = self._done[exported]
        return quantised

    def _quantise(self, exported: bytes, plan: str, order: Sequence[int] | None) -> tuple[bytes, dict[str, Any]]:
        """The model and how it was done."""
        model = onnx.load_from_string(exported)
        if self._reference is None:  # every plan computes the same function; `sequential` or `merged` comes first
            self._reference = open_session(model)(self._held_out.images)[0]
        reference = self._reference if order is None else self._reference[:, list(order)]
        attempt = _Attempts(model, self._dialect, self._calibration)
        self._report(f"calibrating plan {plan} on {len(self._calibration.images)} images ({self._calibration.source})")
        tried: list[dict[str, Any]] = []
        for method in METHODS:
            quantised, in_float = attempt.write(method)
            found = open_session(quantised)(self._held_out.images)[0]
            record: dict[str, Any] = {"method": method.name, "float_convolutions": in_float}
            try:
                result = compare(found, reference, self._held_out, self._target, max_drop=self._max_drop)
            except CheckFailedError as error:
                tried.append(record | {"failed": str(error)})
                self._report(f"INT8 by {method.name} does not pass: {error}")
                continue
            keys = ("images", "accuracy", "reference_accuracy", "label_agreement", "max_abs_error", "mean_abs_error")
            record |= {**{key: result[key] for key in keys}, "failed_methods": tried}
            self._report(f"INT8 by {method.name}: {_accuracies(result)}")
            return bytes(quantised.SerializeToString(deterministic=True)), record
        count = len(self._calibration.images)
        raise CheckFailedError(
            f"{tried[0]['failed']}. {len(METHODS) - 1} other ways to quantise failed too, the last "
            f"({METHODS[-1].name}) with: {tried[-1]['failed']}. Try more calibration images (--calibration-images, "
            f"now {count}), a larger --max-drop, or {_alternative(self._target)}"
        )

    def record(self) -> dict[str, Any]:
        """What the manifest keeps as `quantisation`."""
        calibration = self._calibration
        return {
            "calibration": {
                "images": len(calibration.images),
                "source": calibration.source,
                "choice": "evenly spread over the training split",
                "sha256": calibration.sha256,
            },
            "weight_bits": 7 if self._dialect.weight_limit == SEVEN_BITS else 8,
            "plans": self._plans,
        }


def dialect_here(target: Target) -> Dialect:
    """How INT8 is written for `target`: weights get 7 bits for a CPU such as this one if it would overflow."""
    dialect = DIALECTS[target.family]
    overflows = not target.on_gpu and int8_kernels(machine.cpu_features()) != "exact"
    return replace(dialect, weight_limit=SEVEN_BITS) if overflows else dialect


class _Attempts:
    """One model and what was seen of it; calibrates once for all methods."""

    def __init__(self, model: onnx.ModelProto, dialect: Dialect, calibration: Calibration) -> None:
        self._model, self._dialect = model, dialect
        self._images = calibration.images
        self._sites = find_sites(model, self._dialect)

    @cached_property
    def _seen(self) -> dict[str, Activation]:
        return observe(self._model, self._sites.tensors, self._images)

    @cached_property
    def _most_sensitive(self) -> list[str]:
        """Convolutions, the noisiest first."""
        chosen = encodings(self._seen, self._sites, unsigned=self._dialect.unsigned, clip=True)
        means = {name: seen.means for name, seen in self._seen.items()}
        few = self._images[:: max(1, len(self._images) // _SENSITIVITY_IMAGES)]
        noise = noise_to_signal(self._model, self._sites, chosen, means, few, self._dialect.weight_limit)
        return sorted(noise, key=noise.__getitem__, reverse=True)

    def write(self, method: Method) -> tuple[onnx.ModelProto, list[str]]:
        """The quantised model, and the outputs of the convolutions left in float."""
        count = int(np.ceil(method.float_share * len(self._sites.convolutions)))
        in_float = sorted(self._most_sensitive[:count]) if count else []
        sites = find_sites(self._model, self._dialect, in_float)
        chosen = encodings(self._seen, sites, unsigned=self._dialect.unsigned, clip=method.clip)
        means = {name: seen.means for name, seen in self._seen.items()}
        quantised = write_qdq(self._model, sites, chosen, means, self._dialect.weight_limit)
        onnx.checker.check_model(quantised, full_check=True)
        return quantised, in_float


def _accuracies(result: dict[str, Any]) -> str:
    return (
        f"accuracy {result['accuracy']:.2%} after {result['reference_accuracy']:.2%} in FP32, "
        f"{result['label_agreement']:.2%} of labels equal, on {result['images']} held-out images"
    )


def _alternative(target: Target) -> str:
    return f"--target {target.name.removesuffix('int8')}{'fp16' if target.on_gpu else 'fp32'}"
