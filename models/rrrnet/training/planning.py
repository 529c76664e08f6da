"""What the options of a training make of its data and this machine: network, input, size, epochs, plan."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rrrnet.checkpoint import read_checkpoint
from rrrnet.data.dataset import ImageSet
from rrrnet.hub.told import Told
from rrrnet.images.preprocess import Preprocess
from rrrnet.images.preprocess_options import choose_preprocess
from rrrnet.names import spelled_as
from rrrnet.network import architecture as shapes
from rrrnet.network.architecture import Architecture
from rrrnet.training import budget, validation
from rrrnet.training.budget import Choice, Counts
from rrrnet.training.devices import computes_in_bfloat16, find_device
from rrrnet.training.distill import Teaching
from rrrnet.training.options import Options
from rrrnet.training.recipes import Method, augmentation_of, find_recipe
from rrrnet.training.train import TrainingPlan
from rrrnet.weights.warm_start import frozen_in, is_checkpoint

_STEM = ("conv1", "bn1", "layer1", "layer2")
_BACKBONE = (*_STEM, "layer3", "layer4")


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


def preprocess_of(options: Options, told: Told | None) -> Preprocess:
    """How images become inputs: as in what is gone on from, where the options leave it open."""
    if options.resume:
        return read_checkpoint(options.out).preprocess
    source = read_checkpoint(Path(options.weights)).preprocess if is_checkpoint(options.weights) else None
    if told is not None and (source := told.preprocess) is not None and options.size is not None:
        source = replace(source, mode="squash", resize_size=None)
    return choose_preprocess(options.preprocess, options.size, source)


def choose(
    options: Options,
    rule: Preprocess,
    architecture: Architecture,
    counts: Counts,
    passed: float,
    teaching: Teaching | None,
) -> Choice:
    """Size and epochs: those of the stopped training, or given, or by the images, or by the minutes that are left."""
    if options.resume:
        previous = read_checkpoint(options.out)
        return Choice(previous.preprocess.size, previous.training["epochs"], previous.training.get("chosen", ""))
    scratch, recipe = options.weights == "none", find_recipe(options.recipe)
    size = rule.size if rule.mode == "crop" else options.size
    choice = budget.choose(recipe, counts.train, scratch=scratch, size=size, epochs=options.epochs)
    if options.minutes is None:
        return choice
    plan = plan_of(options, rule, choice, counts, teaching)
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


def plan_of(
    options: Options, rule: Preprocess, choice: Choice, counts: Counts, teaching: Teaching | None
) -> TrainingPlan:
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
        teaching=teaching,
    )


def repeating_command(options: Options, rule: Preprocess, choice: Choice) -> str:
    """The command line for `model.json`: the one given, or where something was chosen the one that repeats it."""
    if options.size is not None and options.epochs is not None:
        return options.command
    return budget.repeating(options.command, choice, options.weights, with_size=rule.mode == "squash")


def cost_here(options: Options, counts: Counts, num_classes: int) -> tuple[float, float]:
    """Estimated seconds of a training before any of it is done, by steps that are timed: once, and of each epoch.

    Args:
        options: what would be trained; no file of weights is read, so that `backbone` has to be given.
        counts: of images.
        num_classes: of the network.
    """
    rule = preprocess_of(options, None)
    plan = plan_of(options, rule, Choice(rule.size, 1), counts, None)
    step = budget.step_seconds(choose_architecture(options, num_classes), plan, rule.size)
    none, one = (
        budget.training_seconds(epochs, step, plan.recipe, counts, frozen=bool(plan.frozen)) for epochs in (0, 1)
    )
    return none, one - none


def as_told(options: Options, told: Told, say: Callable[[str], None]) -> Options:
    """Say what the repository of the weights tells; the options with the size of a squashed image as it is there."""
    for note in told.notes:
        say(note)
    rule = told.preprocess
    if rule is None:
        return options
    if not options.resume:
        say(f"{options.weights} was trained on images so: {rule.describe()}; --size, --preprocess and others change it")
    squashed = rule.mode == "squash" and options.preprocess.preprocess != "crop" and options.preprocess.crop is None
    return replace(options, size=rule.size) if squashed and options.size is None else options


def keeps_labels(options: Options, told: Told, images: ImageSet) -> bool:
    """Whether the outputs of the repository's classifier go on to mean what they mean there."""
    if options.method not in ("head", "full") or not told.labels:
        return False
    return options.epochs == 0 or set(spelled_as(told.labels, images.classes)) == set(images.classes)
