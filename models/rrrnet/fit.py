"""One training from data folder to checkpoint folder: reads, splits, builds, trains, scores, writes."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rrrnet import architecture as shapes
from rrrnet import curve, sealed, training_state
from rrrnet.architecture import Architecture
from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint, write_checkpoint
from rrrnet.dataset import MAX_PIXELS, ImageSet, load_arrays, read_dataset, select, split_dataset, write_split
from rrrnet.edges import start_from_edges
from rrrnet.ensemble import RRRNet
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.inference import probabilities
from rrrnet.metrics import score
from rrrnet.preprocess import Preprocess
from rrrnet.preprocess_options import PreprocessOptions, choose_preprocess
from rrrnet.recipes import METHODS, Method, find_recipe
from rrrnet.reduce import check_pretrained, load_pretrained
from rrrnet.train import Report, Training, TrainingPlan, export_weights
from rrrnet.warm_start import frozen_in, is_checkpoint, load_checkpoint
from rrrnet.weights import check_source, read_pretrained

SAVE_EVERY_SECONDS = 120
_RANDOM_NETWORK_BATCHES = 8
_PRECISIONS = ("auto", "fp32", "bf16")
_DEVICES = ("auto", "cpu", "cuda")
_STEM = ("conv1", "bn1", "layer1", "layer2")
_BACKBONE = (*_STEM, "layer3", "layer4")


@dataclass(frozen=True)
class Options:
    """What `rrr train` is asked for; see its help for the meaning of each."""

    data: Path
    out: Path
    method: Method = "ensemble"
    members: int = 8
    aligned: bool = False
    weights: str = "imagenet"
    recipe: str = "quick"
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    size: int | None = None
    preprocess: PreprocessOptions = field(default_factory=PreprocessOptions)
    max_pixels: int = MAX_PIXELS
    seed: int = 0
    precision: str = "auto"
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    command: str = "rrr train"

    def __post_init__(self) -> None:
        most = shapes.MAX_MEMBERS
        for wrong, says in (
            (self.method not in METHODS, f"method {self.method}: no such method; allowed are {', '.join(METHODS)}"),
            (self.epochs is not None and self.epochs < 0, f"epochs {self.epochs}: allowed are 0 and more"),
            (
                self.batch_size is not None and self.batch_size < 2,
                f"batch-size {self.batch_size}: BN needs at least 2 images",
            ),
            (self.lr is not None and not 0 < self.lr < 1, f"lr {self.lr}: allowed is a number between 0 and 1"),
            (self.precision not in _PRECISIONS, f"precision {self.precision}: allowed are {', '.join(_PRECISIONS)}"),
            (self.device not in _DEVICES, f"device {self.device}: allowed are {', '.join(_DEVICES)}"),
            (self.max_pixels < 1, f"max-pixels {self.max_pixels}: allowed are 1 and more"),
            (
                not 1 <= self.members <= most,
                f"members {self.members}: members is {self.members}, allowed are 1 to {most}",
            ),
            (not 0 <= self.seed < 2**32, f"seed {self.seed}: allowed are 0 to {2**32 - 1}"),
        ):
            if wrong:
                raise UsageError(f"--{says}")
        choose_preprocess(self.preprocess, self.size)
        find_recipe(self.recipe)
        check_source(self.weights)
        _device(self.device)

    def settings(self) -> dict[str, Any]:
        """What a resumed training must have in common with the stopped one."""
        left_out = ("data", "out", "resume", "overwrite", "command", "precision", "device", "preprocess", "max_pixels")
        own = {key: value for key, value in asdict(self).items() if key not in left_out}
        return {**own, **asdict(self.preprocess)}


@dataclass(frozen=True)
class Outcome:
    """A written checkpoint and whether its training is complete."""

    checkpoint: Checkpoint
    complete: bool
    broken: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Job:
    """What stays the same while a network is trained and saved."""

    options: Options
    images: ImageSet
    parts: tuple[str, ...]
    architecture: Architecture
    origin: str
    fresh: int


def choose_architecture(options: Options, num_classes: int) -> Architecture:
    """The network that a method trains: [A], [B] the whole ResNet152, [C] 5 blocks, [D] 5 blocks in branches."""
    if options.method in ("head", "full"):
        return shapes.full(num_classes)
    if options.method == "reduced":
        return shapes.reduced(num_classes)
    return shapes.ensemble(num_classes, options.members, aligned=options.aligned)


def frozen_parts(method: Method, weights: str) -> tuple[str, ...]:
    """Prefixes of the modules that are not trained. From scratch everything is."""
    if weights == "none" or method == "full":
        return ()
    return _BACKBONE if method == "head" else _STEM


def fit(
    options: Options,
    *,
    report: Report,
    stop: Callable[[], bool],
    say: Callable[[str], None],
    started: Callable[[int, int], None],
) -> Outcome:
    """Train as `options` say and write the checkpoint to `options.out`.

    Args:
        options: see `rrr train --help`.
        report: called after each optimisation step.
        stop: asked after each step; true ends the training early with a checkpoint that can be resumed.
        say: called with a line of text at each stage.
        started: called with epochs and steps per epoch before the first step.

    Raises:
        UsageError, ArtifactError, NoSpaceError, CheckFailedError: see the message.
    """
    _check_out(options)
    images = read_dataset(options.data, max_pixels=options.max_pixels)
    for file, reason in images.broken:
        say(f"left out {file}: {reason}")
    parts = split_dataset(images, seed=options.seed)
    preprocess = _preprocess(options)
    train_set = select(images, dict(zip(images.files, parts, strict=True)), "train")
    say(f"{images.name}: {len(images.classes)} classes, {len(train_set.files)} training images of {len(images.files)}")
    say(f"images: {preprocess.describe()}")

    torch.manual_seed(options.seed)
    model = RRRNet(choose_architecture(options, len(images.classes)))
    origin, fresh = ("", 0) if options.resume else _start(model, options.weights, images.classes, say)
    job = _Job(options, images, parts, model.architecture, origin, fresh)
    arrays, labels = load_arrays(train_set, preprocess)
    training = Training(model, _plan(options, preprocess, len(labels)), arrays, labels)
    epochs = training.plan.epochs
    if options.resume:
        job = _resume(job, training)
        say(f"resumed after epoch {training.progress.epoch} of {epochs}")
    random = epochs == 0 and options.weights == "none"
    if random:
        say("0 epochs: only BN statistics are set from the training images, so that random weights give sane numbers")
        training.estimate_statistics(list(model.modules()), 1, _RANDOM_NETWORK_BATCHES)

    started(epochs, training.steps_per_epoch)
    last_save = time.monotonic()

    def report_and_save(progress: training_state.Progress, steps: int) -> None:
        nonlocal last_save
        report(progress, steps)
        if time.monotonic() - last_save > SAVE_EVERY_SECONDS and progress.step < steps:
            _write(job, training, complete=False, metrics=None)
            last_save = time.monotonic()

    complete = training.run(report_and_save, stop)
    metrics = None
    if complete and not random:
        say("scoring on the test images")
        test_set = select(images, dict(zip(images.files, parts, strict=True)), "test")
        arrays, labels = load_arrays(test_set, preprocess)
        metrics = score(probabilities(training.result().eval(), preprocess, arrays), labels)
    return Outcome(_write(job, training, complete=complete, metrics=metrics), complete, images.broken)


def _start(model: RRRNet, weights: str, classes: tuple[str, ...], say: Callable[[str], None]) -> tuple[str, int]:
    """Give `model` the weights it starts from; returns their origin in words, and how many tensors are fresh."""
    if is_checkpoint(weights):
        origin, fresh = load_checkpoint(model, weights, classes)
        say(f"starting from {origin.partition(',')[0]}, {fresh} tensors fresh")
        return origin, fresh
    if weights == "none":
        start_from_edges(model)
        say("--weights none: training starts from random weights and edge filters in conv1")
        return "none: random, conv1 edge filters", len(model.state_dict())
    pretrained, origin = read_pretrained(weights)
    check_pretrained(pretrained, weights)
    return origin, len(load_pretrained(model, pretrained))


def _preprocess(options: Options) -> Preprocess:
    """How images become inputs: as in the checkpoint that is gone on from, where the options leave it open."""
    if options.resume:
        return read_checkpoint(options.out).preprocess
    source = read_checkpoint(Path(options.weights)).preprocess if is_checkpoint(options.weights) else None
    return choose_preprocess(options.preprocess, options.size, source)


def _plan(options: Options, preprocess: Preprocess, images: int) -> TrainingPlan:
    """What the options make of their recipe for a training set of so many images."""
    recipe, device = find_recipe(options.recipe), _device(options.device)
    warm = is_checkpoint(options.weights)
    frozen = frozen_in(options.weights) if warm else frozen_parts(options.method, options.weights)
    return TrainingPlan(
        recipe=replace(recipe, batch_size=options.batch_size or recipe.batch_size, lr=options.lr or recipe.lr),
        epochs=recipe.epochs_for(images, preprocess.size) if options.epochs is None else options.epochs,
        seed=options.seed,
        frozen=frozen,
        preprocess=preprocess,
        device=device,
        mixed_precision=_mixed_precision(options.precision, device),
    )


def _check_out(options: Options) -> None:
    """Refuse to lose a trained network or to resume one that is not there, before any work is done."""
    exists = (options.out / DOCUMENT).exists()
    if options.resume and not (options.out / training_state.RESUME).exists():
        state = "is complete" if exists else "does not exist"
        raise UsageError(f"--resume: the checkpoint {options.out} {state}; only a stopped training can be resumed")
    if exists and not options.resume and not options.overwrite:
        resumable = (options.out / training_state.RESUME).exists()
        advice = "go on with --resume, or replace it with --overwrite" if resumable else "replace it with --overwrite"
        raise UsageError(f"{options.out} already holds a checkpoint: {advice}, or choose another --out")
    sealed.check_target(options.out, document=DOCUMENT)


def _resume(job: _Job, training: Training) -> _Job:
    """Load the stopped training's state; the settings and the data must be the same."""
    options = job.options
    previous = read_checkpoint(options.out)
    if training_state.RESUME not in previous.files:
        message = f"{options.out / training_state.RESUME} is not one of the checkpoint's sealed files"
        raise ArtifactError(f"{message}: remove it, and train again with --overwrite")
    settings = training_state.read_settings(options.out)
    wanted = options.settings()
    changed = [key for key in wanted if settings.get(key) != wanted[key]]
    if changed:
        differences = "; ".join(f"{key} was {settings.get(key)}, now {wanted[key]}" for key in changed)
        raise UsageError(f"--resume: {differences}; give the options of the stopped training: {previous.command}")
    if previous.training["data"]["sha256"] != job.images.sha256:
        raise UsageError(f"--resume: the images in {options.data} are not those of the stopped training")
    training.progress = training_state.load_state(options.out, training.model, training.average, training.optimizer)
    origin = previous.training["weights"]
    return _Job(options, job.images, job.parts, job.architecture, origin["origin"], origin["fresh_tensors"])


def _write(job: _Job, training: Training, *, complete: bool, metrics: dict[str, Any] | None) -> Checkpoint:
    """Write the checkpoint as it stands; with what `--resume` needs, if the training is not complete."""
    options, images, plan = job.options, job.images, training.plan
    checkpoint = Checkpoint(
        path=options.out.absolute(),
        name=options.out.absolute().name,
        method=options.method,
        architecture=job.architecture,
        labels=images.classes,
        preprocess=plan.preprocess,
        training={
            "complete": complete,
            "data": {
                "name": images.name,
                "path": str(images.root),
                "sha256": images.sha256,
                "images": len(images.files),
                "max_pixels": images.max_pixels,
                "left_out": [file for file, _ in images.broken],
            },
            "split": {
                "file": SPLIT,
                "seed": options.seed,
                "rule": "half of each class, ranked by a hash of seed, class and file name",
                "train_images": job.parts.count("train"),
                "test_images": job.parts.count("test"),
            },
            "recipe": asdict(plan.recipe),
            "epochs": plan.epochs,
            "epochs_done": training.progress.epoch,
            "seed": options.seed,
            "frozen": list(plan.frozen),
            "weights": {"origin": job.origin, "fresh_tensors": job.fresh},
            "device": plan.device,
            "mixed_precision": plan.mixed_precision,
            "metrics": {"test": metrics} if metrics else {},
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        },
        command=options.command,
    )
    with sealed.staged(options.out, document=DOCUMENT) as folder:
        write_split(folder / SPLIT, images, job.parts)
        test_accuracy = metrics["accuracy"] if metrics else None
        curve.write_curve(folder, checkpoint.name, training.progress.history, test_accuracy)
        if not complete:
            training_state.save_state(
                folder, training.model, training.average, training.optimizer, training.progress, options.settings()
            )
        write_checkpoint(checkpoint, dict(export_weights(training.result())), folder)
    return checkpoint


def _device(wanted: str) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _mixed_precision(wanted: str, device: str) -> bool:
    """bfloat16 where asked for, or where the hardware computes in it."""
    if wanted != "auto":
        return wanted == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
