"""A trained network at other image sizes: classifiers and last BNs tuned there (FixRes, arXiv 1906.06423).

Objects that look larger or smaller than in training shift the statistics of what is pooled, so an accurate network
loses at another size what a short tuning of its last layers gives back. Tuned is on training images as they are served
(no augmentation), after all BN statistics were estimated anew at the size; all other weights stay.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint, write_checkpoint
from rrrnet.data.dataset import load_arrays, select
from rrrnet.data.remembered import remembered_images
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import MAX_SIZE, MIN_SIZE, Preprocess, Uint8Array
from rrrnet.inference import load_model, probabilities
from rrrnet.network import architecture as shapes
from rrrnet.network.ensemble import RRRNet, export_weights
from rrrnet.training.devices import computes_in_bfloat16, find_device
from rrrnet.training.metrics import by_class, mean_of_members, score, score_mean
from rrrnet.training.recipes import ADAPT_EPOCHS, ADAPT_LR, RECIPES
from rrrnet.training.resuming import check_new
from rrrnet.training.train import Report, Training, TrainingPlan

# Everything of `quick` but what belongs to a whole training.
_RECIPE = replace(RECIPES["quick"], name="adapt", weight_decay=0.0, augmentation="none", bn_passes=0)
_TIMED_CALLS, _WARM_UP_CALLS = 15, 3
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AdaptOptions:
    """What `rrr adapt` is asked for; see its help for the meaning of each."""

    checkpoint: Path
    out: Path
    sizes: tuple[int, ...]
    data: Path | None = None
    epochs: int = ADAPT_EPOCHS
    lr: float = ADAPT_LR
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    command: str = "rrr adapt"

    def __post_init__(self) -> None:
        wrong_size = next((size for size in self.sizes if not MIN_SIZE <= size <= MAX_SIZE), None)
        for wrong, says in (
            (not self.sizes, "size: give one or more, like --size 96 --size 128"),
            (wrong_size is not None, f"size {wrong_size}: allowed are {MIN_SIZE} to {MAX_SIZE} pixels"),
            (self.epochs < 1, f"epochs {self.epochs}: allowed are 1 and more"),
            (not 0 < self.lr < 1, f"lr {self.lr}: allowed is a number between 0 and 1"),
            (not 0 <= self.seed < 2**32, f"seed {self.seed}: allowed are 0 to {2**32 - 1}"),
        ):
            if wrong:
                raise UsageError(f"--{says}")
        find_device(self.device)

    def outs(self) -> dict[int, Path]:
        """The checkpoint folder of each size: `out` itself for one size, else `out` with the size at its end."""
        sizes = tuple(dict.fromkeys(self.sizes))
        if len(sizes) == 1:
            return {sizes[0]: self.out}
        return {size: self.out.with_name(f"{self.out.name}-{size}") for size in sizes}


@dataclass(frozen=True)
class Adapted:
    """A written checkpoint of one size.

    Attributes:
        checkpoint: what was written.
        macs: multiply-accumulates of one image.
        milliseconds: of one image in PyTorch, the median of some calls in turns with the other sizes.
        before: accuracy of the network as it was at this size, on the images `val` (None without any) and `test`.
        after: the same after the tuning.
        tuned: whether the tuned weights were taken; they are unless the validation images are against it.
    """

    checkpoint: Checkpoint
    macs: int
    milliseconds: float
    before: dict[str, float | None]
    after: dict[str, float | None]
    tuned: bool

    @property
    def taken(self) -> dict[str, float | None]:
        """Accuracies of the weights that were taken."""
        return self.after if self.tuned else self.before

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        own = {"path": str(self.checkpoint.path), "size": self.checkpoint.preprocess.size}
        return own | {name: value for name, value in vars(self).items() if name != "checkpoint"}


def adapt(
    options: AdaptOptions,
    *,
    report: Report,
    stop: Callable[[], bool],
    say: Callable[[str], None],
    started: Callable[[int, int], None],
) -> list[Adapted]:
    """Write a checkpoint for each size; fewer than asked for if it was stopped.

    Args:
        options: what is asked for.
        report: called after each optimisation step.
        stop: asked after each step; true ends the work, and the size that is being tuned is not written.
        say: called with a line of text at each stage.
        started: called with epochs and steps per epoch before the first step of each size.

    Raises:
        UsageError, ArtifactError, NoSpaceError, CheckFailedError: see the message.
    """
    outs = options.outs()
    for out in outs.values():
        if out.resolve() == options.checkpoint.resolve():
            raise UsageError(f"--out {out} is the checkpoint that is adapted: give another name")
        check_new(out, overwrite=options.overwrite)
    source = read_checkpoint(options.checkpoint)
    if source.training.get("complete") is False:
        raise UsageError(f"{source.path} was stopped: finish it first by the same command with --resume")
    images, parts = remembered_images(source, options.data)
    if images.sha256 != source.training["data"]["sha256"]:
        say(f"note: the images in {images.root} are not, or not all, those {source.name} was trained on")
    sets = {part: select(images, parts, part) for part in ("train", "test")}
    sets["val"] = images.take(index for index, file in enumerate(images.files) if parts.get(file) == "val")
    if not sets["val"].files:
        say("no validation images are recorded: the tuned weights are taken whatever they are worth")
    device = find_device(options.device)
    found: list[Adapted] = []
    for size, out in outs.items():
        say(f"{size} pixels: reading {sum(len(part.files) for part in sets.values())} images")
        preprocess = at_size(source.preprocess, size)
        arrays = {part: load_arrays(chosen, preprocess) for part, chosen in sets.items()}
        network = load_model(source).to(device)
        before = accuracies(network, preprocess, arrays)
        training = Training(network, _plan(options, source, preprocess, network), *arrays["train"], arrays["val"])
        training.estimate_statistics(list(network.modules()), 1)
        started(options.epochs, training.steps_per_epoch)
        if not training.run(report, stop):
            break
        result = training.result().eval()
        after = accuracies(result, preprocess, arrays)
        tuned = before["val"] is None or (after["val"] or 0.0) >= before["val"]
        if not tuned:
            say(f"{size} pixels: tuned, it is worse on the validation images: the weights are left as they were")
            result = load_model(source).to(device)
        cost = shapes.cost(source.architecture, size)["total"]["macs"]
        adapted = Adapted(replace(source, path=out.absolute()), cost, 0.0, before, after, tuned)
        found.append(_write(options, source, adapted, preprocess, result, arrays["test"]))
    return timed(found, device)


def at_size(preprocess: Preprocess, size: int) -> Preprocess:
    """The same rule for another size; a crop is cut from as much larger an image as before."""
    if preprocess.resize_size is None:
        return replace(preprocess, size=size)
    return replace(preprocess, size=size, resize_size=round(preprocess.resize_size * size / preprocess.size))


def tuned_parts(model: RRRNet) -> tuple[str, ...]:
    """Names of what is tuned: each member's classifier and the last BN on the way to it, that of its last block."""
    names = {module: name for name, module in model.named_modules()}
    found = []
    for tail in model.tails():
        block = list(tail.get_submodule("layer4").children())[-1]
        last = [part for part in block.children() if isinstance(part, nn.BatchNorm2d)][-1]
        found += [names[tail.get_submodule("fc")], names[last]]
    return tuple(found)


def frozen_but(model: RRRNet, tuned: tuple[str, ...]) -> tuple[str, ...]:
    """Names of all modules without parts of their own but these: what `TrainingPlan.frozen` takes."""
    return tuple(name for name, module in model.named_modules() if name not in tuned and not list(module.children()))


def accuracies(
    model: RRRNet, preprocess: Preprocess, arrays: dict[str, tuple[Uint8Array, Labels]]
) -> dict[str, float | None]:
    """Accuracy of the ensemble on the parts `val` and `test`; None for a part without images."""
    found: dict[str, float | None] = {}
    for part in ("val", "test"):
        images, labels = arrays[part]
        answers = mean_of_members(probabilities(model, preprocess, images)) if len(labels) else None
        found[part] = None if answers is None else score_mean(answers, labels)["accuracy"]
    return found


def _plan(options: AdaptOptions, source: Checkpoint, preprocess: Preprocess, network: RRRNet) -> TrainingPlan:
    device = find_device(options.device)
    return TrainingPlan(
        recipe=replace(_RECIPE, epochs=options.epochs, lr=options.lr),
        epochs=options.epochs,
        seed=options.seed,
        frozen=frozen_but(network, tuned_parts(network)),
        preprocess=preprocess,
        device=device,
        mixed_precision=computes_in_bfloat16("auto", device),
        balance=source.training.get("balance", "none"),
    )


def timed(found: Sequence[Adapted], device: str) -> list[Adapted]:
    """The same with the time of one image, from host memory to host memory; all sizes are timed in turns."""
    networks = [load_model(one.checkpoint).to(device) for one in found]
    times: list[list[float]] = [[] for _ in found]
    for _ in range(_TIMED_CALLS):
        for one, network, row in zip(found, networks, times, strict=True):
            preprocess = one.checkpoint.preprocess
            image = np.zeros((1, preprocess.size, preprocess.size, 3), np.uint8)
            start = time.perf_counter()
            probabilities(network, preprocess, image)
            row.append(1000 * (time.perf_counter() - start))
    rows = zip(found, times, strict=True)
    return [replace(one, milliseconds=median(row[_WARM_UP_CALLS:])) for one, row in rows]


def _write(
    options: AdaptOptions,
    source: Checkpoint,
    adapted: Adapted,
    preprocess: Preprocess,
    network: RRRNet,
    test: tuple[Uint8Array, Labels],
) -> Adapted:
    """Write the checkpoint, which has the source's split and record, and what became of it here."""
    answers = probabilities(network, preprocess, test[0])
    metrics = {**score(answers, test[1]), **by_class(answers, test[1], source.labels)}
    origin = {"name": source.name, "size": source.preprocess.size, "sha256": sealed.sha256_of(source.path / DOCUMENT)}
    record = {"from": origin, "epochs": options.epochs, "lr": options.lr, "seed": options.seed}
    record |= {"tuned": adapted.tuned, "before": adapted.before, "after": adapted.after}
    path = adapted.checkpoint.path
    checkpoint = replace(
        source,
        path=path,
        name=path.name,
        preprocess=preprocess,
        training={**source.training, "metrics": {"test": metrics}, "adapted": record},
        command=options.command,
    )
    with sealed.staged(path, document=DOCUMENT) as folder:
        shutil.copyfile(source.path / SPLIT, folder / SPLIT)
        write_checkpoint(checkpoint, dict(export_weights(network)), folder)
    return replace(adapted, checkpoint=read_checkpoint(path))
