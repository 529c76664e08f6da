"""What a build adds to a verified engine: a cascade where it pays, and what its answers are worth."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rrrbuild import lazy
from rrrbuild.cascade import DEFAULT_MAX_DROP, CascadeSearch, NoCascadeError, Proven, keep_cascade
from rrrbuild.confidence.fit import MIN_IMAGES, fit_confidence
from rrrbuild.engine import load_runner
from rrrbuild.heldout import HeldOut, unseen_images
from rrrbuild.job import BuildOrder
from rrrbuild.manifest import Manifest, to_document
from rrrbuild.plan_runner import CASCADE, Probabilities
from rrrbuild.plans import AUTO
from rrrbuild.verify import run_all
from rrrnet.errors import UsageError

if TYPE_CHECKING:
    from rrrbuild.quantize import Quantiser

# Enough to tell half a point of coverage; a ResNet152 without members needs them for one number only.
_MOST_IMAGES, _MOST_IMAGES_OF_ONE = 1000, 250


@dataclass(frozen=True)
class Trust:
    """What is wanted.

    Attributes:
        cascade: True takes one even where it does not pay, False none, None where it pays.
        max_drop: percentage points of accuracy that a cascade may lose against all members.
        calibrate: whether temperatures are fitted.
        calibration_data: images to choose on instead of the validation images of the training.
    """

    cascade: bool | None = None
    max_drop: float = DEFAULT_MAX_DROP
    calibrate: bool = True
    calibration_data: Path | None = None

    def check(self, plan: str) -> None:
        """Check what can be told without reading anything.

        Raises:
            UsageError: two wishes contradict each other.
        """
        if self.cascade and plan != AUTO:
            raise UsageError(f"--cascade runs members in a way of its own, and --plan is {plan}: leave one of them out")
        if self.max_drop < 0:
            raise UsageError(f"--cascade-max-drop is {self.max_drop}: at least 0 percentage points are needed")

    def options(self) -> list[tuple[str, object, object]]:
        """Flags of the command that builds it again: name, value, the value that need not be named."""
        return [
            ("--cascade-max-drop", self.max_drop, DEFAULT_MAX_DROP),
            ("--calibration-data", self.calibration_data, None),
        ]

    def flags(self) -> list[str]:
        """The same for flags without a value."""
        cascade = [] if self.cascade is None else ["--cascade" if self.cascade else "--no-cascade"]
        return [*cascade, *([] if self.calibrate else ["--no-calibrate"])]


DEFAULT_TRUST = Trust()


def with_confidence(
    order: BuildOrder,
    manifest: Manifest,
    held_out: HeldOut,
    quantiser: "Quantiser | None",
    trust: Trust,
    data: Path | None,
    *,
    wanted_plan: str,
) -> Manifest:
    """The manifest with a cascade and a confidence record, or with the reason why there is none.

    Args:
        order: what is built.
        manifest: of a verified engine, its plans lying in folders beside each other; they go where a cascade is kept.
        held_out: images to verify on.
        quantiser: of an INT8 target.
        trust: what is wanted.
        data: images in place of those that the checkpoint remembers.
        wanted_plan: what `--plan` says.
    """
    single = manifest.architecture.members == 1
    try:
        limit = _MOST_IMAGES_OF_ONE if single else _MOST_IMAGES
        images = unseen_images(order.checkpoint, data, trust.calibration_data, limit=limit)
        count = len(images.images)
        if count < MIN_IMAGES:
            raise UsageError(
                f"{count} {images.source} are too few to calibrate on (at least {MIN_IMAGES}): "
                "--calibration-data DIR gives more"
            )
    except UsageError as error:
        if trust.calibration_data is not None:
            raise
        reason = str(error)
        order.report(f"no cascade, temperature 1 and no sets: {reason}")
        return replace(manifest, cascade_reason=reason, confidence_reason=reason)
    order.report(f"asking PyTorch about {count} images to calibrate on ({images.source})")
    reference = lazy.predictor(order.checkpoint)(images.images)
    proven, reason = _cascade(order, manifest, images, reference, held_out, quantiser, trust, wanted_plan)
    if proven is None:
        order.report(f"no cascade: {reason}")
        keep_cascade(manifest.path, None)
        manifest = replace(manifest, cascade_reason=reason)
        found = _probabilities(order, manifest, images)
    else:
        keep_cascade(manifest.path, proven)
        latency_ms = {**manifest.latency_ms, CASCADE: proven.latency_ms}
        manifest = replace(
            manifest,
            plan=CASCADE,
            plan_by_batch={},
            cascade=proven.record,
            features=proven.compiled.features,
            verified=proven.verified,
            latency_ms=latency_ms,
            quantisation=None if quantiser is None else quantiser.record(),
        )
        found = proven.probabilities
    assert images.labels is not None  # noqa: S101 - `unseen_images` gives labelled ones
    confidence = fit_confidence(
        reference, found, images.labels, manifest.cascade, source=images.source, calibrate=trust.calibrate
    )
    return replace(manifest, confidence=confidence)


def _cascade(
    order: BuildOrder,
    manifest: Manifest,
    images: HeldOut,
    reference: Probabilities,
    held_out: HeldOut,
    quantiser: "Quantiser | None",
    trust: Trust,
    wanted_plan: str,
) -> tuple[Proven | None, str]:
    """The cascade, or why there is none."""
    if trust.cascade is False:
        return None, "--no-cascade"
    if order.embed:
        return None, "--embed gives the features of all members, and a cascade leaves some of them out"
    if manifest.architecture.members == 1:
        return None, "the network has one member"
    if wanted_plan != AUTO:
        return None, f"--plan {wanted_plan} asks all members"
    quantise = None if quantiser is None else quantiser.quantise
    try:
        search = CascadeSearch(order, manifest, images, reference, held_out, quantise, trust.max_drop)
        return search.best(always=trust.cascade is True), ""
    except NoCascadeError as error:
        return None, str(error)


def _probabilities(order: BuildOrder, manifest: Manifest, images: HeldOut) -> Probabilities:
    """Of the engine as it lies in the folder of its fastest plan."""
    document = {**to_document(manifest), "plan_by_batch": {}}
    runner = load_runner(manifest.path / manifest.plan, order.target, document, threads=None)
    return run_all(runner, images.images, order.batch)
