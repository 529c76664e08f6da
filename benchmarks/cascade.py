"""A cascade against all its members, one member and ResNet152: speed, accuracy, calibration and sets.

.venv/bin/python benchmarks/cascade.py --train            letters and three ensembles first: an hour on 2 cores
.venv/bin/python benchmarks/cascade.py                    all sections with what is there
.venv/bin/python benchmarks/cascade.py --only speed       some of them
.venv/bin/python benchmarks/cascade.py --tables           the tables of docs/cascade.md; nothing is measured

accuracy     of the cascade less that of all members, on test images that chose nothing, for three seeds
speed        mean time of an image over test images in turns, at 64 pixels; ResNet152 has random weights
imposed      the same at 224 pixels, random weights, with the decisions that were taken at 64 pixels, batch 1 and 8
calibration  expected calibration error before and after, by effort, in PyTorch and in each target
coverage     of sets at 0.90 and 0.95 over 20 random splits

All that is compared takes turns in blocks of images; the file keeps the milliseconds of every block. A block's ratio is
that of its sums, so a cascade pays for every image that went on to the rest.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrrbench.cascade_tables import cascade_tables
from rrrbench.environment import RESULTS, ResultFile
from rrrbench.names import BASELINE, ENSEMBLE, SINGLE
from rrrbench.networks import CACHE, Networks
from rrrbuild import lazy
from rrrbuild.build import build_engine, describe
from rrrbuild.cascade import compile_cascade
from rrrbuild.cascade_runner import AUTO, EFFORTS, FAST, FULL, answered_by
from rrrbuild.confidence import conformal
from rrrbuild.confidence.temperature import fit_temperature, tempered
from rrrbuild.engine import Engine, load_engine, load_runner
from rrrbuild.heldout import held_out_images
from rrrbuild.job import BuildOrder
from rrrbuild.manifest import MANIFEST, BatchRange, to_document
from rrrbuild.plan_runner import CASCADE, ask
from rrrbuild.targets import TARGETS, run_obstacle, target_named
from rrrbuild.trust import Trust
from rrrnet.checkpoint import Checkpoint, read_checkpoint
from rrrnet.images.preprocess import Uint8Array
from rrrnet.training.metrics import mean_of_members, score_mean

SECTIONS = ("accuracy", "speed", "imposed", "calibration", "coverage")
FOLDER = CACHE / "cascade"
SEEDS = (0, 1, 2)
PIXELS, LARGE_PIXELS = 64, 224
BATCH = BatchRange(1, 8, 32)
RRR = Path(sys.executable).parent / "rrr"
_LIMIT = 2000
Rows = npt.NDArray[np.int64]
Call = Callable[[Uint8Array, Rows], object]


def train(folder: Path) -> None:
    """Letters of the demo's kind, and an ensemble of each seed, without a time budget."""
    letters = folder / "letters"
    if not letters.is_dir():
        options = ["--classes", "20", "--per-class", "500", "--size", str(PIXELS), "--seed", "21"]
        subprocess.run([str(RRR), "data", "glyphs", str(letters), *options], check=True)
    for seed in SEEDS:
        if not (folder / f"seed{seed}").is_dir():
            options = ["--method", "ensemble", "--members", "8", "--weights", "none", "--size", str(PIXELS)]
            options += ["--epochs", "4", "--batch-size", "32", "--test-fraction", "0.2", "--augmentation", "quick"]
            out = ["--seed", str(seed), "--out", str(folder / f"seed{seed}")]
            subprocess.run([str(RRR), "train", "--data", str(letters), *options, *out], check=True)


class Measurements:
    """The sections; each measures its cases into the result file."""

    def __init__(self, options: argparse.Namespace, result: ResultFile) -> None:
        self.options, self.result, self.folder = options, result, options.folder
        self.networks = Networks()
        self._images: dict[int, tuple[Uint8Array, npt.NDArray[np.int64]]] = {}

    def checkpoint(self, seed: int) -> Checkpoint:
        """A trained ensemble."""
        return read_checkpoint(self.folder / f"seed{seed}")

    def test_images(self, seed: int) -> tuple[Uint8Array, npt.NDArray[np.int64]]:
        """Images and labels that neither training nor the choice of the cascade has seen."""
        if seed not in self._images:
            held_out = held_out_images(self.checkpoint(seed), self.folder / "letters", limit=_LIMIT)
            assert held_out.labels is not None
            self._images[seed] = held_out.images, held_out.labels
        return self._images[seed]

    def engine(self, seed: int, target: str, *, cascade: bool) -> Engine:
        """A trained ensemble's engine, built by `rrr build`'s own steps if it is not there yet."""
        out = self.folder / f"seed{seed}.{target}.{'cascade' if cascade else 'all'}"
        if not (out / MANIFEST).is_file():
            print(f"building {out.name}", flush=True)
            trust = Trust(cascade=None if cascade else False)
            build_engine(
                self.checkpoint(seed).path,
                target,
                batch=BATCH,
                out=out,
                data=self.folder / "letters",
                trust=trust,
                report=lambda step: print(f"  {step}", flush=True),
            )
        return load_engine(out)

    def accuracy(self) -> None:
        """Of the cascade less that of all members."""
        for target in self.options.target:
            for seed in SEEDS:
                self.result.measure("accuracy", {"target": target, "seed": seed}, partial(self._accuracy, target, seed))

    def _accuracy(self, target: str, seed: int) -> dict[str, Any]:
        engine = self.engine(seed, target, cascade=True)
        images, labels = self.test_images(seed)
        full = engine(images, effort=FULL)
        record = engine.manifest.cascade
        if record is None:
            return {"refused": engine.manifest.cascade_reason}
        row: dict[str, Any] = {"images": len(images), "k": record["k"], "tau": record["tau"]}
        for effort in EFFORTS:
            answered = answered_by(full, record, effort)
            mean = mean_of_members(answered)
            row[effort] = {
                **score_mean(mean, labels),
                "members_used": float(np.isfinite(answered[:, :, 0]).sum(axis=1).mean()),
            }
        row["share_early"] = float(np.isnan(answered_by(full, record, AUTO)[:, record["order"][-1], 0]).mean())
        row["drop_points"] = 100 * (row[FULL]["accuracy"] - row[AUTO]["accuracy"])
        return row

    def speed(self) -> None:
        """Mean time of an image at the size that was trained for."""
        for target in self.options.target:
            self.result.measure("speed", {"target": target, "batch": 1}, partial(self._speed, target))

    def _speed(self, target: str) -> dict[str, Any]:
        engines = {
            BASELINE: self.networks.engine(BASELINE, PIXELS, target),
            "all": self.engine(0, target, cascade=False),
            CASCADE: self.engine(0, target, cascade=True),
            SINGLE: self.networks.engine(SINGLE, PIXELS, target),
        }
        images, _ = self.test_images(0)
        calls: dict[str, Call] = {name: _all_rows(engine) for name, engine in engines.items()}
        return in_blocks(calls, images, np.arange(len(images)), batch=1, seconds=self.options.seconds)

    def imposed(self) -> None:
        """At 224 pixels with the decisions of 64 pixels."""
        for target in self.options.target:
            for batch in (1, 8):
                key = {"target": target, "batch": batch}
                self.result.measure("imposed", key, partial(self._imposed, target, batch))

    def _imposed(self, target: str, batch: int) -> dict[str, Any]:
        small = self.engine(0, target, cascade=True)
        record = small.manifest.cascade
        if record is None:
            return {"refused": small.manifest.cascade_reason}
        images, _ = self.test_images(0)
        early = np.isnan(small(images)[:, record["order"][-1], 0])
        efforts = np.where(early, FAST, FULL)
        large = np.random.default_rng(0).integers(0, 256, (64, LARGE_PIXELS, LARGE_PIXELS, 3), dtype=np.uint8)
        engines = {
            BASELINE: self.networks.engine(BASELINE, LARGE_PIXELS, target),
            "all": self.networks.engine(ENSEMBLE, LARGE_PIXELS, target),
            SINGLE: self.networks.engine(SINGLE, LARGE_PIXELS, target),
        }
        with tempfile.TemporaryDirectory() as scratch:
            runner = self._large_cascade(target, record, Path(scratch))

            def cascade(_: Uint8Array, rows: Rows) -> object:
                return ask(runner, large[: len(rows)], [str(efforts[row]) for row in rows])

            calls: dict[str, Call] = {name: _all_rows(engine, large) for name, engine in engines.items()}
            calls[CASCADE] = cascade
            found = in_blocks(calls, images, np.arange(len(images)), batch=batch, seconds=self.options.seconds)
        return {"share_early": float(early.mean()), "k": record["k"], **found}

    def _large_cascade(self, target: str, record: Mapping[str, Any], scratch: Path) -> Any:
        """A cascade of the random ensemble at 224 pixels, with the first members of the trained one."""
        checkpoint = self.networks.checkpoint(ENSEMBLE, LARGE_PIXELS)
        order = BuildOrder(checkpoint, target_named(target), BATCH, scratch, 100.0, print)
        quantise = None
        if target_named(target).precision == "int8":
            from rrrbuild.calibration import calibration_images

            calibration = calibration_images(checkpoint, None, limit=32)
            quantise = lazy.quantiser(order, calibration, held_out_images(checkpoint, None, limit=32)).quantise
        compiled = compile_cascade(order, record["order"], record["k"], scratch / CASCADE, quantise)
        manifest = replace(describe(order, scratch), plan=CASCADE, cascade=dict(record), features=compiled.features)
        runner: Any = load_runner(scratch / CASCADE, target_named(target), to_document(manifest), threads=None)
        runner.warm_up(np.zeros((BATCH.opt, LARGE_PIXELS, LARGE_PIXELS, 3), np.uint8))
        return runner

    def calibration(self) -> None:
        """Calibration error on test images, by effort."""
        for name in ("pytorch", *self.options.target):
            self.result.measure("calibration", {"target": name}, partial(self._calibration, name))

    def _calibration(self, name: str) -> dict[str, Any]:
        engine = self.engine(0, self.options.target[0] if name == "pytorch" else name, cascade=True)
        images, labels = self.test_images(0)
        full = lazy.predictor(self.checkpoint(0))(images) if name == "pytorch" else engine(images, effort=FULL)
        confidence, record = engine.manifest.confidence, engine.manifest.cascade
        assert confidence is not None
        rows: dict[str, Any] = {"images": len(images)}
        for effort in EFFORTS if record else (FULL,):
            mean = mean_of_members(full if record is None else answered_by(full, record, effort))
            calibrated = confidence.mean(mean, effort)
            same = (calibrated.argmax(axis=1) == mean.argmax(axis=1)).mean()
            rows[effort] = {
                "temperature": confidence.temperature[effort],
                "before": score_mean(mean, labels),
                "after": score_mean(calibrated, labels),
                "labels_unchanged": float(same),
            }
        return rows

    def coverage(self) -> None:
        """Of sets over random splits of validation and test images."""
        self.result.measure("coverage", {"target": self.options.target[0]}, self._coverage)

    def _coverage(self) -> dict[str, Any]:
        engine = self.engine(0, self.options.target[0], cascade=True)
        images, labels = self.test_images(0)
        mean = mean_of_members(engine(images, effort=FULL))
        random, found = np.random.default_rng(0), {}
        for nominal in (0.9, 0.95):
            held, sizes = [], []
            for _ in range(20):
                order = random.permutation(len(labels))
                fitted, fresh = order[: len(order) // 2], order[len(order) // 2 :]
                temperature = fit_temperature(mean[fitted], labels[fitted])
                scores = conformal.scores_of(tempered(mean[fitted], temperature), labels[fitted])
                sets = conformal.in_set(tempered(mean[fresh], temperature), conformal.threshold(scores, nominal))
                held.append(float(sets[np.arange(len(fresh)), labels[fresh]].mean()))
                sizes.append(float(sets.sum(axis=1).mean()))
            error = float(np.std(held, ddof=1) / len(held) ** 0.5)
            found[f"{nominal:.2f}"] = {
                "coverage": float(np.mean(held)),
                "standard_error": error,
                "mean_size": float(np.mean(sizes)),
            }
        return {"images": len(labels), "splits": 20, **found}


def _all_rows(engine: Engine, images: Uint8Array | None = None) -> Call:
    """An engine that is given the images as they come, or as many of others."""
    return lambda few, _: engine(few if images is None else images[: len(few)])


def in_blocks(
    calls: Mapping[str, Call], images: Uint8Array, rows: Rows, *, batch: int, seconds: float
) -> dict[str, Any]:
    """Time calls in blocks of images, each block by one after the other; the order rotates.

    Args:
        calls: what to time, by name; each takes a batch and its rows.
        images: shape (N, S, S, 3).
        rows: to choose from, at random.
        batch: images of a call.
        seconds: time to spend; 8 blocks at least.

    Returns:
        `times_ms`: milliseconds an image by name and block; `p99_ms`: of single calls, by name.
    """
    random, names = np.random.default_rng(0), list(calls)
    per_block = max(1, 24 // batch)
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    single_ms: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        for _ in range(3):
            calls[name](images[:batch], rows[:batch])
    deadline, blocks = time.perf_counter() + seconds, 0
    while blocks < 8 or time.perf_counter() < deadline:
        chosen = random.choice(rows, (per_block, batch), replace=True)
        first = blocks % len(names)
        for name in names[first:] + names[:first]:
            calls[name](images[chosen[0]], chosen[0])  # another runtime's threads may still spin
            took = []
            for few in chosen:
                pixels = images[few]
                start = time.perf_counter()
                calls[name](pixels, few)
                took.append(1000 * (time.perf_counter() - start))
            single_ms[name] += took
            times_ms[name].append(sum(took) / (per_block * batch))
        blocks += 1
    return {
        "times_ms": times_ms,
        "p99_ms": {name: float(np.percentile(took, 99)) for name, took in single_ms.items()},
        "calls": {name: len(took) for name, took in single_ms.items()},
    }


def main() -> None:
    """Measure what the command line asks for, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    here = [name for name, target in TARGETS.items() if not target.on_gpu and not run_obstacle(target)]
    parser.add_argument("--target", nargs="+", default=here)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each case that is timed")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="letters, checkpoints and engines")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--missing", action="store_true", help="measure what the result file lacks")
    parser.add_argument("--tables", action="store_true", help="print the tables of docs/cascade.md")
    parser.add_argument("--out", type=Path, default=RESULTS / "cascade.json")
    options = parser.parse_args()
    result = ResultFile(options.out, missing_only=options.missing)
    if options.train:
        train(options.folder)
    if not options.tables:
        measurements = Measurements(options, result)
        for section in options.only:
            getattr(measurements, section)()
    print("\n\n".join(cascade_tables(result.document)))


if __name__ == "__main__":
    main()
