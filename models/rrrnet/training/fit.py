"""One training from data folder to checkpoint folder: reads, splits, builds, trains, scores, writes."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from rrrnet import sealed
from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint, write_checkpoint
from rrrnet.data.dataset import ImageSet, load_arrays, write_split
from rrrnet.data.labels import in_order, read_labels
from rrrnet.data.training_data import TrainingData, read_training_data
from rrrnet.inference import probabilities
from rrrnet.network.architecture import Architecture
from rrrnet.network.ensemble import RRRNet, export_weights
from rrrnet.training import budget, curve, planning, teacher, training_state
from rrrnet.training.balance import warning as balance_warning
from rrrnet.training.budget import Choice, Counts
from rrrnet.training.distill import picture_rule
from rrrnet.training.metrics import by_class, score
from rrrnet.training.options import Options
from rrrnet.training.resuming import check_out, restore
from rrrnet.training.settle import settle_weights
from rrrnet.training.train import Report, Training, TrainingPlan
from rrrnet.weights.importing import import_network
from rrrnet.weights.repositories import repository_of, told_by
from rrrnet.weights.start import Origin, start

SAVE_EVERY_SECONDS = 120
_RANDOM_NETWORK_BATCHES = 8


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
    repository = told_by(options.weights, read_checkpoint(options.out) if options.resume else None)
    if repository is not None:
        options = planning.as_told(options, repository, say)
    order = None if options.labels is None else read_labels(options.labels)
    rule = planning.preprocess_of(options, repository)
    if options.data is None:
        return Outcome(import_network(options, order or (), rule, repository, say), complete=True)
    loaded = teacher.load_teacher(options, say)
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
    elif repository is not None and planning.keeps_labels(options, repository, data.images):
        order = repository.labels
        say(f"labels are in the order of {options.weights}; --labels FILE gives another")
        data = replace(data, images=in_order(data.images, order, options.weights))
    if not first:
        options = settle_weights(options, say)
    images = data.images
    sets = {which: _part(images, data.parts, which) for which in ("train", "val", "test")}
    counts = Counts(*(len(part.files) for part in sets.values()))
    if told := balance_warning(images.classes, images.labels, sets["train"].labels, options.balance):
        say(told)

    teaching = teacher.meet(loaded, options, data, rule, say)
    architecture = planning.choose_architecture(options, len(images.classes))
    ordered, trained = order is not None, options.epochs != 0

    def begin(choice: Choice) -> tuple[_Job, Training]:
        """The training as chosen, before its first step."""
        plan = planning.plan_of(options, rule, choice, counts, teaching)
        preprocess, seen = plan.preprocess, picture_rule(plan.preprocess, teaching)
        say(f"images: {preprocess.describe()}")
        torch.manual_seed(options.seed)
        model = RRRNet(architecture)
        source = Origin(
            options.weights,
            options.weights_key,
            images.classes,
            ordered,
            trained,
            preprocess,
            "--labels" if options.labels is not None else options.weights,
            repository is not None and repository.preprocess is not None,
            options.slices,
        )
        origin, fresh = ("", 0) if options.resume else start(model, source, say)
        again = planning.repeating_command(options, rule, choice)
        job = _Job(options, data, architecture, origin, fresh, choice, again)
        training = Training(
            model,
            plan,
            *load_arrays(sets["train"], seen),
            held_back=load_arrays(sets["val"], preprocess),
            unlabelled=load_arrays(teaching.unlabelled, seen)[0] if teaching and teaching.unlabelled else None,
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

    job, training = begin(planning.choose(options, rule, architecture, counts, time.monotonic() - began, teaching))
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


def _faster(job: _Job, training: Training, counts: Counts, passed: float) -> Choice | None:
    """After an epoch: what to start again with, where `--minutes` leave time for many more epochs than were chosen."""
    progress, plan, minutes = training.progress, training.plan, job.options.minutes
    if minutes is None or job.choice.step_seconds is None or progress.step or not progress.history:
        return None
    step = (progress.history[-1]["seconds"] or 0.0) / training.steps_per_epoch
    left = budget.seconds_left(minutes, passed)
    return budget.better(job.choice, step, left, plan.recipe, counts, frozen=bool(plan.frozen))


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
            "teacher": teacher.document(plan.teaching),
            "seed": options.seed,
            "frozen": list(plan.frozen),
            "weights": {
                "origin": job.origin,
                "fresh_tensors": job.fresh,
                "slices": options.slices if job.architecture.members > 1 else None,
                "repository": repository_of(options.weights, job.architecture.backbone),
            },
            "license": options.license,
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
                options.settings() | teacher.settings(plan.teaching),
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
