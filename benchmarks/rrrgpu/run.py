"""One run: networks, references and results. What fails is told in its row, and the others go on."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rrrgpu.cascade import CASCADE, Cascade, imposed, largest_error, prepare_cascade
from rrrgpu.engines import Engines
from rrrgpu.network import Network
from rrrgpu.order import BASELINE, Variants, cascade_batches
from rrrgpu.plans import Launch, prepare
from rrrgpu.shapes import REDUCED, count_macs
from rrrgpu.table import line
from rrrgpu.timing import environment, in_blocks, measure, peak_tflops, usable

CHECKED_IMAGES = 2


class Run:
    """Networks, references and results of one run; networks are made when first needed, results kept as they come."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.on_gpu = options, options.device == "cuda"
        self.deadline = time.monotonic() + options.budget_seconds
        self.engines = Engines()
        self.made: dict[Any, Any] = {}
        self.document: dict[str, Any] = {
            "settings": vars(options),
            "environment": environment(on_gpu=self.on_gpu),
            "peak_tflops": {},
            "rows": [],
            "cascades": [],
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

    def halves(self, name: str) -> tuple[Network, Network]:
        """The members that a cascade asks first, and the others."""
        network: Network = self.once(self.network, name, self.options.align)
        return network.some(slice(self.options.first)), network.some(slice(self.options.first, None))

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
        launches, rows = self.prepare(engine, dtype, variants, pixels, batch)
        if not self.document["unusable"]:
            self.time(launches, rows, self.document["peak_tflops"].get(precision))
        self.keep("rows", rows, "gpu_ms")
        for row in rows.values():
            print(line(row), flush=True)

    def cascade_case(self, engine: str, dtype: torch.dtype, variants: Variants, pixels: int, batch: int) -> None:
        """The same for a cascade and what it is compared with: until the answer is on the host, in blocks of calls."""
        launches, rows = self.prepare(engine, dtype, variants, pixels, batch)
        if launches and not self.document["unusable"]:
            blocks, per_block = self.options.rounds, self.options.block_calls
            left_open = imposed(self.options.share_early, blocks * per_block, batch)
            calls = {key: answering(launch, left_open) for key, launch in launches.items()}
            times, failed = in_blocks(calls, blocks, per_block)
            for key, found in times.items():
                rows[key] |= found
            for key, error in failed.items():
                self.fail(rows[key], error)
        self.keep("cascades", rows, "times_ms")

    def prepare(
        self, engine: str, dtype: torch.dtype, variants: Variants, pixels: int, batch: int
    ) -> tuple[dict[str, Launch], dict[str, dict[str, Any]]]:
        """Launches that were checked, and a row for each variant that the time is left for."""
        launches: dict[str, Launch] = {}
        rows: dict[str, dict[str, Any]] = {}
        size = {"precision": str(dtype).removeprefix("torch."), "pixels": pixels, "batch": batch}
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
        return launches, rows

    def keep(self, section: str, rows: dict[str, dict[str, Any]], timed: str) -> None:
        """Put rows into the document; those without what was `timed` say so."""
        for row in rows.values():
            if not row.keys() & {timed, "error"}:
                row["error"] = "not timed: the GPU was unusable before its turn"
        self.document[section] += rows.values()
        self.write()

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
        if row["plan"] == CASCADE:
            return self.cascade(row, dtype, images)
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

    def cascade(self, row: dict[str, Any], dtype: torch.dtype, images: Any) -> Cascade:
        """The cascade that the row describes."""
        first, rest = self.once(self.halves, row["network"])
        row |= {"first": self.options.first, "share_early": self.options.share_early}
        if row["engine"] == "pytorch":
            device = self.options.device
            return prepare_cascade(first.to(dtype, device), rest.to(dtype, device), images)
        return self.engines.cascade(row["engine"], first, rest, images, cascade_batches(self.options.batch), row)

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
    pairs = zip(names, launch()[:2], reference, strict=True)
    found = {name: float((a[: len(b)].cpu().double() - b[: len(a)]).abs().max()) for name, a, b in pairs}
    if isinstance(launch, Cascade):  # by its rows too
        alone = largest_error(launch, reference[1][: len(launch()[1])])
        found[names[1]] = float(np.max([found[names[1]], alone]))  # NaN where either is
    return found


def answering(launch: Launch, left_open: Sequence[Sequence[int]]) -> Callable[[int], Any]:
    """A call by its number, until its answer is on the host; a cascade is told what it leaves open."""
    if isinstance(launch, Cascade):
        return lambda number: launch.ask(left_open[number])
    return lambda _: launch()[1].cpu()
