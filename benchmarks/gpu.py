"""What parallel members cost on an NVIDIA GPU: plans against each other, and against a ResNet152, in FP16.

python gpu.py --out gpu.json         # on a machine with a GPU, torch with CUDA, and numpy; nothing else is needed
python gpu.py --device cpu --smoke   # numbers only, tiny networks, in seconds: every plan against float64

Needs nothing of this project but the folder rrrgpu beside it, so the two can be copied to a machine that is lent for
minutes. Where onnx and tensorrt or tensorrt-rtx are installed, their engines are timed too. Cases come in the order of
their weight, nothing is prepared after --budget-seconds, and the result file is written after each case.
See docs/gpu.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

if find_spec("torch") is None:
    print("gpu.py: torch is missing: pip install torch numpy (a build with CUDA)", file=sys.stderr)
    raise SystemExit(4)

import torch

from rrrgpu import engines
from rrrgpu.network import Network
from rrrgpu.order import BASELINE, Variants, cases, every_plan
from rrrgpu.plans import Launch, prepare
from rrrgpu.shapes import REDUCED, RESNET152, count_macs
from rrrgpu.streams import new_stream
from rrrgpu.table import HEADER, line, problems, summary
from rrrgpu.timing import environment, measure, peak_tflops, usable

CHECKED_IMAGES = 2
NO_GPU = """gpu.py: torch finds no NVIDIA GPU here.
Copy gpu.py and the folder rrrgpu to a machine that has one, with its driver and a torch built with CUDA
(pip install torch numpy; onnx and tensorrt or tensorrt-rtx besides, to time their engines), and run it there.
Here, python gpu.py --device cpu --smoke checks the numbers of every plan that a CPU can run."""


class Run:
    """Networks, references and results of one run; networks are made when first needed, results kept as they come."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.on_gpu = options, options.device == "cuda"
        self.deadline = time.monotonic() + options.budget_seconds
        self.engines = engines.Engines()
        self.made: dict[Any, Any] = {}
        self.document: dict[str, Any] = {
            "settings": vars(options),
            "environment": environment(on_gpu=self.on_gpu),
            "peak_tflops": {},
            "rows": [],
            "left_out": [],
            "unusable": None,  # what made the GPU unusable, and thereby ended the run
        }

    def once(self, make: Callable[..., Any], *key: Any) -> Any:
        """What `make(*key)` gave the first time."""
        place = (make.__name__, *key)
        if place not in self.made:
            self.made[place] = make(*key)
        return self.made[place]

    def network(self, name: str, align: int) -> Network:
        """By name: a number of members, or the baseline."""
        if name == BASELINE:
            return Network(name, self.options.baseline_blocks, 1, self.options.classes, align)
        return Network(name, REDUCED, int(name), self.options.classes, align)

    def tensors(self, name: str, dtype: torch.dtype, layout: torch.memory_format) -> Network:
        """The network on the device."""
        network: Network = self.once(self.network, name, self.options.align)
        return network.to(dtype, self.options.device, layout)

    def reference(self, name: str, pixels: int) -> tuple[Any, Any]:
        """In float64 on the CPU, without padding, of the first images."""
        return self.network(name, 1).to(torch.float64, "cpu").run_sequential(images_of(pixels, CHECKED_IMAGES))

    def measure_peak(self, dtype: torch.dtype) -> None:
        """The limit that shares are of."""
        peak = peak_tflops(dtype, self.options.device, self.options.peak_size)
        self.document["peak_tflops"][str(dtype).removeprefix("torch.")] = round(peak, 3)

    def images(self, pixels: int, batch: int) -> Any:
        """On the device."""
        return images_of(pixels, batch).to(self.options.device)

    def case(self, engine: str, dtype: torch.dtype, variants: Variants, pixels: int, batch: int) -> None:
        """Prepare, check and time networks with plans, all of one size, in turns."""
        precision = str(dtype).removeprefix("torch.")
        launches: dict[str, Launch] = {}
        rows: dict[str, dict[str, Any]] = {}
        size = {"precision": precision, "pixels": pixels, "batch": batch}
        for network, plan in variants:
            row: dict[str, Any] = {"engine": engine, "network": network, "plan": plan, **size}
            if self.document["unusable"] or time.monotonic() > self.deadline:
                self.document["left_out"].append(row)
                continue
            key = f"{network} {plan}"
            rows[key] = row
            try:
                launch = self.launch(row, dtype, self.once(self.images, pixels, batch))
                row |= errors(launch, self.once(self.reference, network, pixels))
                launches[key] = launch
            except Exception as error:  # no memory, an engine refused, whatever a runtime raises: the others go on
                self.fail(row, error)
        if not self.document["unusable"]:
            self.time(launches, rows, self.document["peak_tflops"].get(precision))
        for row in rows.values():
            if not row.keys() & {"gpu_ms", "error"}:
                row["error"] = "not timed: the GPU was unusable before its turn"
        self.document["rows"] += rows.values()
        self.write()
        for row in rows.values():
            print(line(row), flush=True)

    def time(self, launches: dict[str, Launch], rows: dict[str, dict[str, Any]], peak: float | None) -> None:
        """Put times, or what was raised instead, into the rows."""
        times, failed = measure(launches, self.options.rounds, on_gpu=self.on_gpu)
        for key, found in times.items():
            row = rows[key]
            row |= found
            row["share_of_peak"] = round(2 * row["macs"] / found["gpu_ms"] / 1e9 / peak, 4) if peak else None
        for key, error in failed.items():
            self.fail(rows[key], error)

    def fail(self, row: dict[str, Any], error: Exception) -> None:
        """Say in the row what was raised; if it leaves the GPU unusable, nothing more is prepared or timed."""
        row["error"] = f"{type(error).__name__}: {error}"
        if not usable():
            self.document["unusable"] = row["error"]

    def launch(self, row: dict[str, Any], dtype: torch.dtype, images: Any) -> Launch:
        """What the row describes, ready to be called; the row gets its MACs and what is told about it."""
        network: Network = self.once(self.network, row["network"], self.options.align)
        shape = (network.blocks, network.widths, network.classes, network.members)
        row["macs"] = row["batch"] * count_macs(*shape, row["pixels"])
        if row["engine"] != "pytorch":
            return self.engines.launch(row["engine"], network, row["plan"], images, self.options.batch, row)
        layout = torch.contiguous_format if row["plan"].endswith("-nchw") else torch.channels_last
        tensors: Network = self.once(self.tensors, row["network"], dtype, layout)
        launch = prepare(tensors, row["plan"].removesuffix("-nchw"), images)
        row["separate_layers"] = len(tensors.separate)  # those whose ReLU cuDNN could not do in the same kernel
        return launch

    def write(self) -> None:
        """The result file, as far as it goes."""
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        self.options.out.write_text(json.dumps(self.document, indent=1, default=str) + "\n")


def images_of(pixels: int, batch: int) -> Any:
    """The first `batch` of an endless row of noise, (N, S, S, 3) uint8."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (batch, pixels, pixels, 3), np.uint8))


def errors(launch: Launch, reference: tuple[Any, Any]) -> dict[str, float]:
    """Largest differences from the reference, on the images that both have."""
    names = ("max_abs_error_logits", "max_abs_error_probabilities")
    pairs = zip(names, launch(), reference, strict=True)
    return {name: float((a[: len(b)].cpu().double() - b[: len(a)]).abs().max()) for name, a, b in pairs}


def smoke(run: Run) -> None:
    """Every plan in FP32 and BF16; ONNX and an engine built ahead of time where their packages are installed."""
    options = run.options
    run.measure_peak(torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        run.case("pytorch", dtype, every_plan([BASELINE, *options.members]), options.pixels[0], options.batch[0])
    checks = run.document["ahead_of_time"] = {}
    problem = engines.missing("tensorrt_rtx")
    network: Network = run.once(run.network, options.members[-1], options.align)
    for plan in engines.PLANS:
        if problem is None:
            built, lines = engines.build("tensorrt_rtx", network, plan, options.pixels[0], options.batch, "SM86")
            checks[plan] = {"bytes": len(built), "warnings": lines}
        else:
            checks[plan] = {"error": problem}
    run.write()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; `--smoke` replaces the sizes by tiny ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny networks: check numbers, time nothing of use")
    parser.add_argument("--members", type=positive, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 8, 32])
    parser.add_argument("--pixels", type=positive, nargs="+", default=[224, 128])
    parser.add_argument("--classes", type=positive, default=20)
    parser.add_argument("--align", type=positive, default=8, help="zero-pad members' channels to a multiple of it")
    parser.add_argument("--rounds", type=positive, default=30, help="measurements of each")
    parser.add_argument("--engines", nargs="*", choices=engines.FAMILIES, default=list(engines.FAMILIES))
    parser.add_argument("--budget-seconds", type=float, default=540.0, help="prepare nothing more after that long")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args(arguments, argparse.Namespace(baseline_blocks=RESNET152, peak_size=8192))
    if options.smoke:
        tiny = {"members": [1, 2], "batch": [2], "pixels": [32], "classes": 3, "rounds": 2}
        vars(options).update(tiny, baseline_blocks=(1, 2, 2, 1), peak_size=256)
    options.members = [str(members) for members in options.members]
    return options


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run, print the table, write the file; 1 if a number is wrong, nothing timed or the GPU lost, 4 without one."""
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 4
    if options.device == "cpu" and not options.smoke:
        print("gpu.py: on a CPU only --smoke says anything: add it, or leave --device out", file=sys.stderr)
        return 2
    torch.backends.cudnn.benchmark = True  # cuDNN times its kernels when a shape is first met
    run = Run(options)
    print(HEADER)
    with torch.inference_mode():
        if options.smoke and options.device == "cpu":
            smoke(run)
        else:
            # Neither events nor TensorRT like the default stream; to return to it may fail on a lost GPU.
            torch.cuda.set_stream(new_stream())
            run.measure_peak(torch.float16)
            for engine, variants, pixels, batch in cases(options):
                run.case(engine, torch.float16, variants, pixels, batch)
    print("\n".join(summary(run.document, options.out)), flush=True)
    found = problems(run.document)
    for problem in found:
        print(f"gpu.py: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
