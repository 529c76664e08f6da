"""One training from data folder to checkpoint folder: reads, splits, builds, trains, scores, writes."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint, write_checkpoint
from rrrnet.data.dataset import ImageSet, load_arrays, write_split
from rrrnet.data.labels import in_order, read_labels
from rrrnet.data.training_data import TrainingData, read_training_data
from rrrnet.images.preprocess import Preprocess
from rrrnet.images.preprocess_options import choose_preprocess
from rrrnet.inference import probabilities
from rrrnet.network import architecture as shapes
from rrrnet.network.architecture import Architecture
from rrrnet.network.ensemble import RRRNet, export_weights
from rrrnet.training import budget, curve, training_state, validation
from rrrnet.training.balance import warning as balance_warning
from rrrnet.training.budget import Choice, Counts
from rrrnet.training.devices import computes_in_bfloat16, find_device
from rrrnet.training.metrics import by_class, score
from rrrnet.training.options import Options
from rrrnet.training.recipes import Method, augmentation_of, find_recipe
from rrrnet.training.resuming import check_out, restore
from rrrnet.training.settle import settle_weights
from rrrnet.training.train import Report, Training, TrainingPlan
from rrrnet.weights.importing import import_network
from rrrnet.weights.start import Origin, start
from rrrnet.weights.warm_start import frozen_in, is_checkpoint

SAVE_EVERY_SECONDS = 120
_RANDOM_NETWORK_BATCHES = 8
_STEM = ("conv1", "bn1", "layer1", "layer2")
_BACKBONE = (*_STEM, "layer3", "layer4")


@dataclass(frozen=True)
class Outcome:
    """A written checkpoint and whether its training is complete."""

    checkpoint: Checkpoint
    complete: bool


@dataclass(frozen=True)
class _Job:
    """What stays the same while a network is trained and saved."""

    options: Options
    data: TrainingData
    architecture: Architecture
    origin: str
    fresh: int
    choice: Choice
    command: str


def choose_architecture(options: Options, num_classes: int) -> Architecture:
    """The network that a method trains: [A], [B] the whole backbone, [C] 5 blocks, [D] 5 blocks in branches."""
    backbone = options.backbone or shapes.DEFAULT_BACKBONE
    if options.method in ("head", "full"):
        return shapes.full(num_classes, backbone=backbone)
    if options.method == "reduced":
        return shapes.reduced(num_classes, backbone=backbone)
    return shapes.ensemble(num_classes, options.members, aligned=options.aligned, backbone=backbone)


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
    began = time.monotonic()
    check_out(options)
    # What fails does so within seconds; but the number of images is told before a hub that is out of reach.
    first = options.weights_given or options.resume or options.data is None
    if first:
        options = settle_weights(options, say)
    order = None if options.labels is None else read_labels(options.labels)
    rule = _preprocess(options)
    if options.data is None:
        return Outcome(import_network(options, order or (), rule, say), complete=True)
    data = read_training_data(
        options.data,
        options.data_options,
        seed=options.seed,
        validate=options.epochs != 0,
        max_pixels=options.max_pixels,
        say=say,
    )
    if order is not None:
        data = replace(data, images=in_order(data.images, order, f"--labels {options.labels}"))
    if not first:
        options = settle_weights(options, say)
    images = data.images
    sets = {which: _part(images, data.parts, which) for which in ("train", "val", "test")}
    counts = Counts(*(len(part.files) for part in sets.values()))
    if told := balance_warning(images.classes, images.labels, sets["train"].labels, options.balance):
        say(told)

    architecture = choose_architecture(options, len(images.classes))
    ordered, trained = order is not None, options.epochs != 0

    def begin(choice: Choice) -> tuple[_Job, Training]:
        """The training as chosen, before its first step."""
        plan = _plan(options, rule, choice, counts)
        preprocess = plan.preprocess
        say(f"images: {preprocess.describe()}")
        torch.manual_seed(options.seed)
        model = RRRNet(architecture)
        source = Origin(options.weights, options.weights_key, images.classes, ordered, trained, preprocess)
        origin, fresh = ("", 0) if options.resume else start(model, source, say)
        job = _Job(options, data, architecture, origin, fresh, choice, _command(options, rule, choice))
        training = Training(
            model, plan, *load_arrays(sets["train"], preprocess), held_back=load_arrays(sets["val"], preprocess)
        )
        if options.resume:
            previous = restore(options, choice, images, training)
            first = previous.training["weights"]
            job = replace(job, origin=first["origin"], fresh=first["fresh_tensors"], command=previous.command)
            say(f"resumed after epoch {training.progress.epoch} of {plan.epochs}")
        if plan.epochs:
            _say_how_long(job, plan, counts, training.progress.epoch, say)
        started(plan.epochs, training.steps_per_epoch)
        return job, training

    job, training = begin(_choose(options, rule, architecture, counts, time.monotonic() - began))
    random = training.plan.epochs == 0 and options.weights == "none"
    if random:
        say("0 epochs: only BN statistics are set from the training images, so that random weights give sane numbers")
        training.estimate_statistics(list(training.model.modules()), 1, _RANDOM_NETWORK_BATCHES)
    last_save, faster = time.monotonic(), None

    def report_and_save(progress: training_state.Progress, steps: int) -> None:
        nonlocal last_save
        report(progress, steps)
        if time.monotonic() - last_save > SAVE_EVERY_SECONDS and progress.step < steps:
            _write(job, training, complete=False, metrics=None)
            last_save = time.monotonic()

    def stop_or_faster() -> bool:
        nonlocal faster
        stopped = stop()
        faster = None if stopped else _faster(job, training, counts, time.monotonic() - began)
        return stopped or faster is not None

    complete = training.run(report_and_save, stop_or_faster)
    while faster is not None:
        timed = job.choice.step_seconds or 0.0
        say(f"steps are faster than they were when they were timed ({timed:.2f} s): starting again")
        job, training = begin(faster)
        complete = training.run(report_and_save, stop_or_faster)
    metrics = None
    if complete and not random:
        plan = training.plan
        if plan.selects and training.progress.best_epoch:
            ended = f"{training.progress.epoch} of {plan.epochs} epochs"
            say(f"trained {ended}; the best on the validation images is kept: epoch {training.progress.best_epoch}")
        say("scoring on the test images")
        arrays, labels = load_arrays(sets["test"], plan.preprocess)
        found = probabilities(training.result().eval(), plan.preprocess, arrays)
        metrics = {**score(found, labels), **by_class(found, labels, images.classes)}
    return Outcome(_write(job, training, complete=complete, metrics=metrics, stopped=not complete), complete)


def _part(images: ImageSet, parts: tuple[str, ...], which: str) -> ImageSet:
    """The images of one part; there may be none to validate on."""
    return images.take(index for index, part in enumerate(parts) if part == which)


def _preprocess(options: Options) -> Preprocess:
    """How images become inputs: as in the checkpoint that is gone on from, where the options leave it open."""
    if options.resume:
        return read_checkpoint(options.out).preprocess
    source = read_checkpoint(Path(options.weights)).preprocess if is_checkpoint(options.weights) else None
    return choose_preprocess(options.preprocess, options.size, source)


def _choose(options: Options, rule: Preprocess, architecture: Architecture, counts: Counts, passed: float) -> Choice:
    """Size and epochs: those of the stopped training, or given, or by the images, or by the minutes that are left."""
    if options.resume:
        previous = read_checkpoint(options.out)
        return Choice(previous.preprocess.size, previous.training["epochs"], previous.training.get("chosen", ""))
    scratch, recipe = options.weights == "none", find_recipe(options.recipe)
    size = rule.size if rule.mode == "crop" else options.size
    choice = budget.choose(recipe, counts.train, scratch=scratch, size=size, epochs=options.epochs)
    if options.minutes is None:
        return choice
    plan = _plan(options, rule, choice, counts)
    sizes = budget.SCRATCH_SIZES if scratch and size is None else (choice.size,)
    seconds = budget.seconds_left(options.minutes, 2 * passed)  # the images that were read are read again
    return budget.fit_into(
        seconds,
        plan.recipe,
        counts,
        sizes,
        lambda size: budget.step_seconds(architecture, plan, size),
        frozen=bool(plan.frozen),
    )


def _faster(job: _Job, training: Training, counts: Counts, passed: float) -> Choice | None:
    """After an epoch: what to start again with, where `--minutes` leave time for many more epochs than were chosen."""
    progress, plan, minutes = training.progress, training.plan, job.options.minutes
    if minutes is None or job.choice.step_seconds is None or progress.step or not progress.history:
        return None
    step = (progress.history[-1]["seconds"] or 0.0) / training.steps_per_epoch
    left = budget.seconds_left(minutes, passed)
    return budget.better(job.choice, step, left, plan.recipe, counts, frozen=bool(plan.frozen))


def _command(options: Options, rule: Preprocess, choice: Choice) -> str:
    """The command line for `model.json`: the one given, or where something was chosen the one that repeats it."""
    if options.size is not None and options.epochs is not None:
        return options.command
    return budget.repeating(options.command, choice, options.weights, with_size=rule.mode == "squash")


def _say_how_long(job: _Job, plan: TrainingPlan, counts: Counts, done: int, say: Callable[[str], None]) -> None:
    """What was chosen and why, how long it will take here, and the command that repeats it."""
    if job.choice.why:
        say(f"chosen: {plan.preprocess.size} pixels, {plan.epochs} epochs: {job.choice.why}")
    steps = -(-counts.train // plan.recipe.batch_size)
    few = max(1, plan.epochs * steps // 20)  # a short training is not worth a long measurement
    step = job.choice.step_seconds or budget.step_seconds(job.architecture, plan, plan.preprocess.size, few)
    seconds = budget.training_seconds(plan.epochs - done, step, plan.recipe, counts, frozen=bool(plan.frozen))
    epochs = plan.epochs - done
    what = f"{epochs} epoch{'s' * (epochs != 1)} of {steps} steps at {plan.preprocess.size} pixels"
    say(f"{budget.about(seconds)}: {what}, {step:.2f} s a step here")
    if job.choice.why:
        say(f"the same again: {job.command}")


def _plan(options: Options, rule: Preprocess, choice: Choice, counts: Counts) -> TrainingPlan:
    """What the options make of their recipe for so many images."""
    recipe, device = find_recipe(options.recipe), find_device(options.device)
    warm = is_checkpoint(options.weights)
    frozen = frozen_in(options.weights) if warm else frozen_parts(options.method, options.weights)
    own = augmentation_of(recipe, choice.epochs, scratch=options.weights == "none")
    recipe = replace(
        recipe,
        batch_size=options.batch_size or recipe.batch_size,
        lr=options.lr or recipe.lr,
        augmentation=options.augmentation or own,  # type: ignore[arg-type]  # Options has checked the word
    )
    return TrainingPlan(
        recipe=recipe,
        epochs=choice.epochs,
        seed=options.seed,
        frozen=frozen,
        preprocess=replace(rule, size=choice.size),
        device=device,
        mixed_precision=computes_in_bfloat16(options.precision, device),
        balance=options.balance,
        selects=validation.decides(recipe, counts.val, wanted=options.early_stopping),
    )


def _write(
    job: _Job, training: Training, *, complete: bool, metrics: dict[str, Any] | None, stopped: bool = False
) -> Checkpoint:
    """Write the checkpoint as it stands; with what `--resume` needs, if the training is not complete.

    `stopped`: it was asked to stop, and is not just saved on its way.
    """
    options, images, plan = job.options, job.data.images, training.plan
    checkpoint = Checkpoint(
        path=options.out.absolute(),
        name=options.out.absolute().name,
        method=options.method,
        architecture=job.architecture,
        labels=images.classes,
        preprocess=plan.preprocess,
        training={
            "complete": complete,
            "stopped": stopped,
            "data": job.data.data_document(),
            "split": job.data.split_document(),
            "recipe": asdict(plan.recipe),
            "epochs": plan.epochs,
            "epochs_done": training.progress.epoch,
            "minutes": options.minutes,
            "chosen": job.choice.why,
            "balance": plan.balance,
            "selection": _selection(training),
            "seed": options.seed,
            "frozen": list(plan.frozen),
            "weights": {"origin": job.origin, "fresh_tensors": job.fresh},
            "device": plan.device,
            "mixed_precision": plan.mixed_precision,
            "metrics": {"test": metrics} if metrics else {},
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        },
        command=job.command,
    )
    with sealed.staged(options.out, document=DOCUMENT) as folder:
        write_split(folder / SPLIT, images, job.data.parts)
        test_accuracy = metrics["accuracy"] if metrics else None
        curve.write_curve(folder, checkpoint.name, training.progress.history, test_accuracy)
        if not complete:
            training_state.save_state(
                folder,
                training.model,
                training.average,
                training.optimizer,
                training.progress,
                options.settings(),
                training.best,
            )
        write_checkpoint(checkpoint, dict(export_weights(training.result())), folder)
    return checkpoint


def _selection(training: Training) -> dict[str, Any]:
    """Which epoch's weights are kept, and how good validation found them."""
    progress, selects = training.progress, training.plan.selects
    kept = progress.best_epoch if selects else progress.epoch
    return {
        "rule": "best epoch on the validation images" if selects else "average of the last epochs",
        "epoch": kept,
        "val_accuracy": progress.best_accuracy if selects and kept else progress.val_accuracy,
    }
