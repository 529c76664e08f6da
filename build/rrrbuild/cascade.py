"""Whether a cascade pays: its members ordered, its parts compiled, verified and timed, its threshold chosen.

Everything is chosen on images that no gradient step saw. What few images cannot show is not claimed: then there is no
cascade, and a sentence says why.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from rrrbuild import candidates, lazy, machine
from rrrbuild.cascade_runner import Cascade
from rrrbuild.confidence import thresholds
from rrrbuild.confidence.order import greedy_order
from rrrbuild.engine import load_runner
from rrrbuild.heldout import HeldOut
from rrrbuild.job import BuildOrder, Compiled, CompileJob
from rrrbuild.manifest import Manifest, to_document
from rrrbuild.measure import in_turns
from rrrbuild.plan_runner import CASCADE, Images, Probabilities
from rrrbuild.targets import Plan
from rrrbuild.verify import compare, run_all
from rrrnet.errors import RRRError
from rrrnet.network.architecture import cost
from rrrnet.training.metrics import mean_of_members, score_mean

DEFAULT_MAX_DROP = 0.1
# One member agrees with itself whatever it sees: its images lost twice as much accuracy, for a time hardly shorter.
_LEAST_FIRST, _MOST_FIRST = 2, 4
_SHORTLIST = 2
_PAYS = 0.97  # expected time against that of all members, above which it is not worth two engines


class NoCascadeError(Exception):
    """There is none; says why."""


@dataclass(frozen=True)
class Proven:
    """A cascade that stands in a folder of its own.

    Attributes:
        folder: holds its parts.
        compiled: what the compiler told.
        record: what the manifest keeps as `cascade`.
        verified: what it keeps as `verified`.
        probabilities: of all members on the calibration images, shape (N, M, C).
        runner: its parts, loaded.
        latency_ms: rows of all members through both parts, by batch size; measured of the one that is taken.
    """

    folder: Path
    compiled: Compiled
    record: dict[str, Any]
    verified: dict[str, Any]
    probabilities: Probabilities
    runner: Cascade
    latency_ms: dict[str, Any] = field(default_factory=dict)


class CascadeSearch:
    """The search for the cascade of one engine.

    Args:
        order: what is built.
        manifest: of the engine as it is without one, its plans lying in folders beside each other.
        images: to choose on, with labels.
        reference: PyTorch's probabilities of all members on them, shape (N, M, C).
        held_out: images to verify on.
        quantise: makes an exported model INT8; None for other precisions.
        max_drop: percentage points of accuracy that it may lose, as the estimate.
    """

    def __init__(
        self,
        order: BuildOrder,
        manifest: Manifest,
        images: HeldOut,
        reference: Probabilities,
        held_out: HeldOut,
        quantise: candidates.Quantise | None,
        max_drop: float,
    ) -> None:
        if images.labels is None:
            raise NoCascadeError("the calibration images have no labels")
        self._order, self._manifest, self._quantise = order, manifest, quantise
        self._images, self._labels, self._held_out = images.images, images.labels, held_out
        self._source, self._reference, self._max_drop = images.source, reference, max_drop

    def best(self, *, always: bool) -> Proven:
        """The cascade of least expected time.

        Args:
            always: take it even where it does not pay.

        Raises:
            NoCascadeError: none keeps the accuracy, or none pays.
        """
        members = self._order.checkpoint.architecture.members
        count = len(self._labels)
        if count < thresholds.MIN_IMAGES:
            raise NoCascadeError(
                f"{count} calibration images ({self._source}): at least {thresholds.MIN_IMAGES} are needed, and "
                "--calibration-data DIR gives more"
            )
        order = greedy_order(self._reference, self._labels)
        most = min(_MOST_FIRST, members - 1)
        steps = {k: self._best_step(self._reference, order, k) for k in range(min(_LEAST_FIRST, most), most + 1)}
        ranked = sorted((k for k, step in steps.items() if step.share_early), key=lambda k: self._macs(k, steps[k]))
        if not ranked:
            raise NoCascadeError(self._refusal(order))
        told, found = [], []
        left_out: dict[str, RRRError] = {}
        for k in ranked[:_SHORTLIST]:
            with candidates.leaving_out(f"a cascade of {k} and {members - k} members", left_out, self._order.report):
                proven = self._prove(order, k)
                saving = self._expected_share(proven)
                told.append(f"{k} of {members} members first: {saving:.2f} times the time of all")
                if proven.record["share_early"]:
                    found.append((saving, proven))
        if not found:
            raise NoCascadeError("; ".join([*(f"{name}: {error}" for name, error in left_out.items()), *told]))
        saving, proven = min(found, key=lambda one: one[0])
        found.clear()  # the other's runner, and its memory
        if saving > _PAYS and not always:
            raise NoCascadeError(f"it would not pay: {'; '.join(told)} (--cascade takes it all the same)")
        self._order.report(f"taking the cascade ({'; '.join(told)})")
        with candidates.leaving_out("the cascade that was chosen", left_out, self._order.report):
            return replace(proven, latency_ms=self._latency_ms(proven.runner))
        raise NoCascadeError("; ".join(f"{name}: {error}" for name, error in left_out.items()))

    @cached_property
    def _expected(self) -> Probabilities:
        """PyTorch's answers to the images to verify on: every candidate is compared with them."""
        return lazy.predictor(self._order.checkpoint)(self._held_out.images)

    def _best_step(self, probabilities: Probabilities, order: Sequence[int], k: int) -> thresholds.Step:
        return thresholds.best_step(thresholds.steps(probabilities, self._labels, order, k), self._max_drop)

    def _macs(self, k: int, step: thresholds.Step) -> float:
        """Expected multiply-accumulates of an image, by which candidates are ranked before anything is compiled."""
        checkpoint = self._order.checkpoint
        costs = cost(checkpoint.architecture, checkpoint.preprocess.size)
        rest = (1 - step.share_early) * (checkpoint.architecture.members - k)
        return costs["stem"]["macs"] + (k + rest) * costs["member"]["macs"]

    def _refusal(self, order: Sequence[int]) -> str:
        """Why no threshold is allowed, with the figures of the highest one."""
        count = len(self._labels)
        least = thresholds.drop_bound_points(0, 0, count)
        if least > thresholds.BOUND_POINTS:
            return (
                f"{count} calibration images ({self._source}) cannot show that a cascade loses at most "
                f"{thresholds.BOUND_POINTS:g} point of accuracy (at 95 %; {least:.2f} even where no label changes): "
                "--calibration-data DIR gives more"
            )
        step = thresholds.steps(self._reference, self._labels, order, 2)[1:2]
        figures = f"; at tau {step[0].tau:.3f} two lose {step[0].drop_points:.2f} points" if step else ""
        return f"the first members lose accuracy whenever they may answer alone, on {count} images{figures}"

    def _prove(self, order: Sequence[int], k: int) -> Proven:
        build, manifest = self._order, self._manifest
        folder = manifest.path / f"{CASCADE}-{k}"
        compiled = compile_cascade(build, order, k, folder, self._quantise)
        # Any tau will do until it is chosen: to verify and to time asks for all members, or for one part.
        draft = {"k": k, "tau": 1.01, "order": list(order)}
        draft_manifest = replace(manifest, plan=CASCADE, plan_by_batch={}, cascade=draft, features=compiled.features)
        runner: Any = load_runner(folder, build.target, to_document(draft_manifest), threads=None)
        found = run_all(runner, self._held_out.images, build.batch)
        verified = compare(found, self._expected, self._held_out, build.target, max_drop=build.max_drop)
        build.report(f"timing a cascade of {k} and {len(order) - k} members")
        costs_ms = self._measure(runner)
        probabilities = run_all(runner, self._images, build.batch)
        steps = thresholds.steps(probabilities, self._labels, order, k)
        step = thresholds.best_step(steps, self._max_drop)
        costs_ms["expected"] = _worded(
            thresholds.expected_cost_ms(_numbered(costs_ms["first"]), _numbered(costs_ms["rest"]), step.share_early)
        )
        crossed = thresholds.cross_fitted(probabilities, self._labels, k, self._max_drop)
        both = {"with": crossed, "without": probabilities}
        scores = {name: score_mean(mean_of_members(answer), self._labels) for name, answer in both.items()}
        record = {
            **draft,
            **asdict(step),
            "images": len(self._labels),
            "source": self._source,
            "max_drop_points": self._max_drop,
            **{name: {key: row[key] for key in ("accuracy", "nll")} for name, row in scores.items()},
            "share_early_cross_fitted": float(np.isnan(crossed[:, order[-1], 0]).mean()),
            "cost_ms": costs_ms,
            "curve": [asdict(point) for point in thresholds.curve(steps)],
        }
        proof = {**verified, "cpu": machine.cpu_model(), "cpu_features": sorted(machine.cpu_features())}
        return Proven(folder, compiled, record, proof, probabilities, runner)

    def _measure(self, runner: Cascade) -> dict[str, Any]:
        """Milliseconds of the parts and of all members by batch size, in turns.

        All members run by the plan that is the fastest for the size, for without a cascade they would be served by it.
        """
        manifest, batch = self._manifest, self._order.batch
        folder = manifest.path if manifest.plan_by_batch else manifest.path / manifest.plan
        usual = load_runner(folder, self._order.target, to_document(manifest), threads=None)
        sizes = [size for size in batch.sizes() if size <= batch.opt]
        costs: dict[str, dict[str, float]] = {"first": {}, "rest": {}, "all": {}}
        images = self._images_of(batch.opt)
        counts = sorted({*sizes, *(1 << power for power in range(batch.opt.bit_length()))})
        for size in counts:
            few = images[:size]
            calls: dict[str, Callable[[], object]] = {"rest": partial(runner.rest, runner.first(few)[1], range(size))}
            if size in sizes:
                calls = {"all": partial(usual, few), "first": partial(runner.first, few), **calls}
            for name, row in in_turns(calls).items():
                costs[name][str(size)] = row["median"]
        return costs

    def _latency_ms(self, runner: Cascade) -> dict[str, Any]:
        sizes = self._order.batch.sizes()
        return {str(size): in_turns({"": partial(runner, self._images_of(size))})[""] for size in sizes}

    def _images_of(self, count: int) -> Images:
        return np.resize(self._images, (count, *self._images.shape[1:]))

    @staticmethod
    def _expected_share(proven: Proven) -> float:
        costs = proven.record["cost_ms"]
        return geometric_mean(costs["expected"][size] / costs["all"][size] for size in costs["expected"])


def compile_cascade(
    order: BuildOrder, members: Sequence[int], k: int, folder: Path, quantise: candidates.Quantise | None
) -> Compiled:
    """Export and compile the two parts of a cascade into a new folder.

    Args:
        order: what is built.
        members: in the order of asking.
        k: how many are asked first.
        folder: is made.
        quantise: see `CascadeSearch`.
    """
    checkpoint, target = order.checkpoint, order.target
    align = next(plan.align for plan in target.plans if plan.graph == "merged")
    order.report(f"exporting a cascade of {k} and {len(members) - k} members")
    groups = (tuple(members[:k]), tuple(members[k:]))
    model = lazy.export_onnx(checkpoint, target, Plan(CASCADE, align), groups)
    if quantise is not None:
        model = quantise(model, folder.name, members)
    parts, features = lazy.cut_cascade(model, k)
    folder.mkdir()
    for part, onnx_model in parts.items():
        job = CompileJob(onnx_model, folder, target, order.batch, part)
        compiled = lazy.compiler(target)(job)
    return replace(compiled, features=features)


def keep_cascade(folder: Path, proven: Proven | None) -> None:
    """Remove all other engines from `folder`, or all cascades where none is kept."""
    for path in [path for path in folder.iterdir() if path.is_dir()]:
        if path.name.startswith(f"{CASCADE}-") != (proven is not None) or (proven and path != proven.folder):
            shutil.rmtree(path)
    if proven is not None:
        proven.folder.rename(folder / CASCADE)


def _numbered(row: Mapping[str, float]) -> dict[int, float]:
    return {int(size): value for size, value in row.items()}


def _worded(row: Mapping[int, float]) -> dict[str, float]:
    return {str(size): round(value, 4) for size, value in row.items()}
