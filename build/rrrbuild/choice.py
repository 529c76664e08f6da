"""The best target of this machine: all that run here are tried, and the fastest that passes its gate is built.

A trial is one plan, verified on few images and timed beside the others; the winner is then built in full. All but the
winner's files lie in a temporary folder, so one engine is left on disk.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from rrrbuild import lazy, machine
from rrrbuild.build import build_engine, check_limits, describe
from rrrbuild.calibration import Calibration, calibration_images
from rrrbuild.candidates import check, compile_plan, leaving_out
from rrrbuild.engine import Runner
from rrrbuild.heldout import HeldOut, held_out_images
from rrrbuild.job import BuildOrder, Report
from rrrbuild.manifest import BatchRange, Manifest
from rrrbuild.measure import measure_latency
from rrrbuild.plan_runner import Embeddings, Probabilities
from rrrbuild.plans import AUTO, check_embed, fastest, usual
from rrrbuild.targets import TARGETS, Target, build_obstacle, run_obstacle
from rrrbuild.trust import DEFAULT_TRUST, Trust
from rrrnet.checkpoint import Checkpoint, read_checkpoint
from rrrnet.errors import CheckFailedError, IncompatibleError, RRRError, UsageError, reporting_full_disk

_ORDER = ("int8", "bf16", "fp16", "fp32")
# Images of a trial: the build of the winner looks at all.
_TRIAL_IMAGES = 64
_JUDGED = ("images", "accuracy", "reference_accuracy", "label_agreement", "max_abs_error", "mean_abs_error")


@dataclass(frozen=True)
class Trial:
    """A target that was tried, or could not be.

    Attributes:
        target: its name.
        out: why it is not taken whatever its speed; empty if it passes.
        verified: errors, agreement and accuracies on the images of the trial; empty where it gave none.
        latency_ms: rows of `measure.measure_latency` by batch size; empty if it is out.
    """

    target: str
    out: str
    verified: Mapping[str, Any]
    latency_ms: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Choice:
    """The target that was taken, `why`, and all `trials` in the order of trying; they ran by `plan`."""

    target: str
    why: str
    plan: str
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def build_best(
    checkpoint_path: Path,
    *,
    plan: str,
    batch: BatchRange,
    max_drop: float,
    out: Path | None,
    data: Path | None,
    images: int,
    calibration_images: int,
    report: Report,
    trust: Trust = DEFAULT_TRUST,
    embed: bool = False,
) -> tuple[Manifest, Choice]:
    """Try every target that runs here and build the fastest that passes; arguments as of `build.build_engine`.

    Raises:
        UsageError: no images, or a plan that no target has.
        ArtifactError: the checkpoint is damaged.
        IncompatibleError: no target can be built and run here.
        CheckFailedError: none passes its gate.
    """
    check_limits(images, calibration_images, max_drop)
    trust.check(plan)
    if embed:
        check_embed(plan, None, cascade=trust.cascade)
    trials = _Trials(read_checkpoint(checkpoint_path), batch, max_drop, report, embed=embed)
    trials.run(plan, data, min(images, _TRIAL_IMAGES), calibration_images)
    while True:  # ends: each round without a return takes a target out
        choice = trials.choice()
        report(choice.why)
        try:
            manifest = build_engine(
                checkpoint_path,
                choice.target,
                plan=plan,
                batch=batch,
                max_drop=max_drop,
                out=out,
                data=data,
                images=images,
                calibration_images=calibration_images,
                trust=trust,
                embed=embed,
                report=_named(choice.target, report),
            )
        except CheckFailedError as error:  # passed on few images only
            report(f"{choice.target} is left out: {error}")
            trials.left_out[choice.target] = error
        else:
            return manifest, choice


def _named(target: str, report: Report) -> Report:
    return lambda step: report(f"{target}: {step}")


class _Trials:
    """The trials of one network."""

    def __init__(
        self, checkpoint: Checkpoint, batch: BatchRange, max_drop: float, report: Report, *, embed: bool
    ) -> None:
        self._checkpoint, self._batch, self._max_drop, self._report = checkpoint, batch, max_drop, report
        self._embed = embed
        # A target of a GPU is none of this machine's without one: `rrr targets` lists it. None gives embeddings.
        gpu = machine.gpu() is not None and not embed
        here = [target for target in TARGETS.values() if gpu or not target.on_gpu]
        self._targets = sorted(here, key=lambda target: _ORDER.index(target.precision))
        self._plan = ""
        self.left_out: dict[str, RRRError] = {}
        self._verified: dict[str, dict[str, Any]] = {}
        self._latency_ms: dict[str, dict[str, dict[str, float]]] = {}

    def run(self, plan: str, data: Path | None, images: int, calibration_images: int) -> None:
        """Try all targets by one plan; for `auto` by that which mostly wins."""
        self._plan = plan if plan != AUTO else usual(self._checkpoint.architecture)
        for target in self._targets:
            if obstacle := build_obstacle(target) or run_obstacle(target):
                self.left_out[target.name] = IncompatibleError(obstacle)
            elif self._plan not in [plan.name for plan in target.plans]:
                self.left_out[target.name] = UsageError(f"it has no plan {self._plan!r}")
        if not self._open:
            return
        machine.require("onnx", extra="build")
        machine.require("torch", extra="train")
        calibration, held_out = self._read_images(data, images, calibration_images)
        self._report(f"trying {', '.join(target.name for target in self._open)}, plan {self._plan}")
        reference = lazy.predictor(self._checkpoint)(held_out.images)
        embeddings = lazy.embedder(self._checkpoint)(held_out.images) if self._embed else None
        expected = reference, embeddings
        runners: dict[str, Runner] = {}
        with tempfile.TemporaryDirectory(prefix="rrr-build-") as scratch, reporting_full_disk(Path(scratch)):
            for target in self._open:
                with leaving_out(target.name, self.left_out, self._report):
                    tried = self._try(target, Path(scratch) / target.name, calibration, held_out, expected)
                    runners[target.name], self._verified[target.name] = tried
            if len(runners) > 1:
                self._report("measuring them in turns")
            sizes = self._batch.sizes()[:-1] or self._batch.sizes()  # the largest takes seconds a call
            self._latency_ms = measure_latency(runners, self._checkpoint.preprocess, sizes)

    @property
    def _open(self) -> list[Target]:
        return [target for target in self._targets if target.name not in self.left_out]

    def _read_images(self, data: Path | None, images: int, most: int) -> tuple[Calibration | None, HeldOut]:
        """Images to calibrate on and others to verify on; without the first, INT8 is out."""
        calibration = None
        try:
            calibration = calibration_images(self._checkpoint, data, limit=most)
        except UsageError as error:
            self.left_out |= {target.name: error for target in self._open if target.precision == "int8"}
        used = frozenset(calibration.files) if calibration else frozenset()
        return calibration, held_out_images(self._checkpoint, data, limit=images, without=used)

    def _try(
        self,
        target: Target,
        folder: Path,
        calibration: Calibration | None,
        held_out: HeldOut,
        expected: tuple[Probabilities, Embeddings | None],
    ) -> tuple[Runner, dict[str, Any]]:
        """Build by the plan and compare with what PyTorch gives of the images, which all targets share."""
        folder.mkdir()
        report = _named(target.name, self._report)
        order = BuildOrder(self._checkpoint, target, self._batch, folder, self._max_drop, report, self._embed)
        plan = next(plan for plan in target.plans if plan.name == self._plan)
        quantise = None
        if target.precision == "int8" and calibration is not None:
            quantise = lazy.quantiser(order, calibration, held_out).quantise
        compiled = compile_plan(order, plan, folder, quantise)
        manifest = replace(describe(order, folder), features=compiled.features)
        runner, verified = check(order, manifest, plan.name, held_out, *expected)
        return runner, {name: verified[name] for name in _JUDGED}

    def choice(self) -> Choice:
        """The fastest of those that are not left out.

        Raises:
            RRRError: none is left; says why of each.
        """
        measured = {name: rows for name, rows in self._latency_ms.items() if name not in self.left_out}
        if not measured:
            told = "; ".join(f"{name}: {error}" for name, error in self.left_out.items())
            failed = any(isinstance(error, CheckFailedError) for error in self.left_out.values())
            kind = CheckFailedError if failed else IncompatibleError
            raise kind(f"no target passes here: {told}" if failed else f"no target runs here: {told}")
        best = fastest(measured)
        trials = tuple(
            Trial(
                target.name,
                str(self.left_out.get(target.name, "")),
                self._verified.get(target.name, {}),
                measured.get(target.name, {}),
            )
            for target in self._targets
        )
        return Choice(best, _why(best, measured), self._plan, trials)


def _why(best: str, measured: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    others = {name: rows for name, rows in measured.items() if name != best}
    if not others:
        return f"taking {best}, the only target that runs and passes here"
    second = fastest(others)
    ratio = geometric_mean(others[second][size]["median"] / row["median"] for size, row in measured[best].items())
    sizes = " and ".join(measured[best])
    return (
        f"taking {best}, the fastest of {len(measured)} targets that run and pass here: "
        f"{ratio:.2f} times as fast as {second} (mean over batch {sizes})"
    )
