"""Engines against each other, against PyTorch and against the machine's limit, timed in turns.

.venv/bin/python benchmarks/engine.py                       everything, minutes on 2 cores
.venv/bin/python benchmarks/engine.py --only ratios peak    some sections
.venv/bin/python benchmarks/engine.py --missing             what the result file lacks: goes on with a divided run

ratios     ResNet152, 8 members and 1 member at each size and batch
backbones  8 members beside ResNet50, 101 and 152, one image of the largest size
targets    8 members in each target beside the first one: what a precision gains on this CPU
members    1 to 32 members
batch      1 to 64 images, 8 members; ResNet152 up to 16
peak       ResNet152 and 8 members beside large matrix products of the same precision: the share of the limit
eager      ResNet152 in PyTorch as users have it, beside the 8 members in each target, at batch 1
layers     where OpenVINO's engines spend their time as members grow thinner, by kinds of layers
profile    the same for ResNet152 beside 8 members, by stages

Networks have random weights, which does not change their speed, and are built once into artifacts/benchmarks. All that
is compared takes turns in one process; the file keeps the milliseconds of every round. benchmarks/performance.py makes
the tables and plots of docs/internals/performance.md from it.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from rrrbench import layers, peak
from rrrbench.eager import load_eager
from rrrbench.environment import RESULTS, ResultFile
from rrrbench.layers import Groups
from rrrbench.names import BASELINE, ENSEMBLE, SINGLE, members_name
from rrrbench.networks import CACHE, Networks, architecture_named
from rrrbench.tables import bars, engine_tables
from rrrbench.turns import take_turns
from rrrbuild.heldout import generated_images
from rrrbuild.targets import TARGETS, run_obstacle, target_named
from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import CheckFailedError
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import BACKBONES, cost
from rrrnet.network.ensemble import normalise

SECTIONS = ("ratios", "backbones", "targets", "members", "batch", "peak", "eager", "layers", "profile")
# Beyond this batch size the ResNet152 takes seconds a call and no less for an image.
LARGEST_BASELINE_BATCH = 16
Timed = dict[str, Callable[[], object]]


def runnable_targets() -> list[str]:
    """Names of the CPU targets that run on this machine."""
    return [name for name, target in TARGETS.items() if not target.on_gpu and not run_obstacle(target)]


def engine_calls(networks: Networks, names: Iterable[str], pixels: int, target: str, batch: int) -> Timed:
    """One inference of each network; the same images for all."""
    images = generated_images(Preprocess(pixels), batch)

    def call(name: str) -> Callable[[], object]:
        engine = networks.engine(name, pixels, target)
        return lambda: engine(images)

    return {name: call(name) for name in names}


def eager(checkpoint: Checkpoint, *, channels_last: bool) -> Callable[[], object]:
    """A checkpoint in PyTorch on all cores, one image; decoding and copying are not counted."""
    model: torch.nn.Module = load_eager(checkpoint)
    images = normalise(torch.from_numpy(generated_images(checkpoint.preprocess, 1)), checkpoint.preprocess)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        images = images.contiguous(memory_format=torch.channels_last)
    else:
        images = images.contiguous()

    def call() -> object:
        with torch.inference_mode():
            return model(images).softmax(2)

    return call


class Measurements:
    """The sections; each measures its cases into the result file."""

    def __init__(self, options: argparse.Namespace, networks: Networks, result: ResultFile) -> None:
        self.options, self.networks, self.result = options, networks, result

    def _take_turns(self, calls: Timed) -> dict[str, Any]:
        return {"times_ms": take_turns(calls, seconds=self.options.seconds)}

    def _measure(self, section: str, key: dict[str, Any], names: Sequence[str]) -> None:
        for name in names:
            self.networks.engine_folder(name, key["pixels"], key["target"])

        def call() -> dict[str, Any]:
            calls = engine_calls(self.networks, names, key["pixels"], key["target"], key["batch"])
            return self._take_turns(calls)

        self._show(section, key, self.result.measure(section, key, call))

    def _show(self, section: str, key: dict[str, Any], case: dict[str, Any] | None) -> None:
        if case is None:
            return
        medians = ", ".join(f"{name} {sorted(times)[len(times) // 2]:.2f}" for name, times in case["times_ms"].items())
        where = ", ".join(f"{name} {value}" for name, value in key.items())
        print(f"{section}: {where}: {medians} ms ({case['seconds']:.0f} s)", flush=True)

    def ratios(self) -> None:
        """ResNet152, 8 members and 1 member, at each target, size and batch."""
        for target in self.options.target:
            for pixels in self.options.pixels:
                for batch in (1, 8):
                    key = {"target": target, "pixels": pixels, "batch": batch}
                    self._measure("ratios", key, (BASELINE, ENSEMBLE, SINGLE))

    def backbones(self) -> None:
        """8 members beside each backbone whole: what who owns a smaller one gains."""
        for target in self.options.target:
            key = {"target": target, "pixels": self.options.pixels[-1], "batch": 1}
            self._measure("backbones", key, (ENSEMBLE, *BACKBONES))

    def targets(self) -> None:
        """8 members in all targets that pass, at each size."""
        for pixels in self.options.pixels:
            passing = []
            for target in self.options.target:
                try:
                    self.networks.engine_folder(ENSEMBLE, pixels, target)
                    passing.append(target)
                except CheckFailedError as error:
                    print(f"{target} is left out: {error}", flush=True)
            for batch in (1, 8):
                key = {"pixels": pixels, "batch": batch}

                def call(pixels: int = pixels, batch: int = batch, passing: Sequence[str] = passing) -> dict[str, Any]:
                    calls: Timed = {}
                    for target in passing:
                        calls[target] = engine_calls(self.networks, (ENSEMBLE,), pixels, target, batch)[ENSEMBLE]
                    return self._take_turns(calls)

                self._show("targets", key, self.result.measure("targets", key, call))

    def members(self) -> None:
        """The cost of more members at the same parameters."""
        names = [members_name(members) for members in self.options.members]
        for target in self.options.target:
            for batch in (1, 8):
                self._measure("members", {"target": target, "pixels": self.options.pixels[-1], "batch": batch}, names)

    def batch(self) -> None:
        """Latency against the batch size."""
        for target in self.options.target:
            for batch in self.options.batch:
                key = {"target": target, "pixels": self.options.pixels[-1], "batch": batch}
                self._measure("batch", key, (BASELINE, ENSEMBLE) if batch <= LARGEST_BASELINE_BATCH else (ENSEMBLE,))

    def peak(self) -> None:
        """The share of the machine's limit, measured in the same rounds."""
        pixels, batch = self.options.pixels[-1], 8
        for target in self.options.target:
            precision = target_named(target).precision
            size = {"rows": 256, "depth": 256} if self.options.quick else {"rows": peak.ROWS, "depth": peak.DEPTH}

            def call(target: str = target, precision: str = precision, size: dict[str, int] = size) -> dict[str, Any]:
                products = peak.products(precision, **size)
                calls = engine_calls(self.networks, (BASELINE, ENSEMBLE), pixels, target, batch)
                work = {name: peak.gflop(**size) for name in products}
                for name in calls:
                    macs = cost(architecture_named(name, tiny=self.options.quick), pixels)["total"]["macs"]
                    work[name] = 2e-9 * macs * batch
                return {"precision": precision, "gflop": work, **self._take_turns({**products, **calls})}

            key = {"target": target, "pixels": pixels, "batch": batch}
            self._show("peak", key, self.result.measure("peak", key, call))

    def eager(self) -> None:
        """ResNet152 in PyTorch beside the ensemble in every target, one image."""
        pixels = self.options.pixels[-1]

        def call() -> dict[str, Any]:
            checkpoint = self.networks.checkpoint(BASELINE, pixels)
            calls: Timed = {
                "torch-eager": eager(checkpoint, channels_last=False),
                "torch-eager-channels-last": eager(checkpoint, channels_last=True),
            }
            for target in self.options.target:
                calls[target] = engine_calls(self.networks, (ENSEMBLE,), pixels, target, 1)[ENSEMBLE]
            return {"threads": torch.get_num_threads(), **self._take_turns(calls)}

        key = {"pixels": pixels, "batch": 1}
        self._show("eager", key, self.result.measure("eager", key, call))

    def layers(self) -> None:
        """Where the time goes as members grow thinner."""
        networks = {str(members): members_name(members) for members in self.options.members}
        for target in self.options.target:
            for batch in (1, 8):
                key = {"target": target, "pixels": self.options.pixels[-1], "batch": batch}
                self._divide("layers", key, networks, layers.KINDS)

    def profile(self) -> None:
        """Where the time goes beside ResNet152."""
        networks = {name: name for name in (BASELINE, ENSEMBLE)}
        for target in self.options.target:
            for pixels in self.options.pixels:
                for batch in (1, 8):
                    key = {"target": target, "pixels": pixels, "batch": batch}
                    self._divide("profile", key, networks, layers.STAGES)

    def _divide(self, section: str, key: dict[str, Any], networks: dict[str, str], groups: Groups) -> None:
        target, pixels = target_named(key["target"]), key["pixels"]
        if target.family != "openvino":  # the others' runtimes do not tell
            return

        def call() -> dict[str, Any]:
            rows = {}
            for label, name in networks.items():
                model = layers.model_file(self.networks.engine_folder(name, pixels, target.name), key["batch"])
                if model is not None:  # plan `split` has no graph of the whole
                    architecture = architecture_named(name, tiny=self.options.quick)
                    rows[label] = {
                        "ms": layers.milliseconds_by_group(model, groups, target.precision, pixels, key["batch"]),
                        "macs": layers.macs_by_group(architecture, groups, pixels),
                    }
            return {"rows": rows}

        self.result.measure(section, key, call)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to measure")
    parser.add_argument("--target", nargs="+", choices=runnable_targets(), default=runnable_targets())
    parser.add_argument("--pixels", type=int, nargs="+", default=[128, 224], help="the last is that of most sections")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=5, help="for each case; at least 5 rounds whatever it is")
    parser.add_argument("--missing", action="store_true", help="measure only what the result file lacks")
    parser.add_argument(
        "--rebuild", action="store_true", help="build the engines again, as after a change of rrr build"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoints and engines are kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "engine.json")
    parser.add_argument("--quick", action="store_true", help="tiny networks and short turns: a test of the steps")
    options = parser.parse_args()
    if options.quick:
        options.pixels, options.batch, options.members, options.seconds = [32], [1, 2], [1, 8], 0.05
    return options


def main() -> None:
    """Measure, save and print; the bars are printed whether they are met or not."""
    options = parse()
    networks = Networks(options.cache, tiny=options.quick, largest_batch=8 if options.quick else 32)
    if options.rebuild:
        networks.forget_engines()
    result = ResultFile(options.out, missing_only=options.missing)
    measurements = Measurements(options, networks, result)
    for section in options.only:
        getattr(measurements, section)()
    for title, table in engine_tables(result.document).items():
        print(f"\n{title}\n{table}")
    print(f"\n{bars(result.document)}\n\nwritten: {options.out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
