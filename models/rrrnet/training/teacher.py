"""`--teacher CHECKPOINT`: what is refused, read, said and recorded of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rrrnet.checkpoint import DOCUMENT, SPLIT, Checkpoint, read_checkpoint
from rrrnet.data import split
from rrrnet.data.copies import copies, used_files
from rrrnet.data.labels import in_order
from rrrnet.data.training_data import TrainingData
from rrrnet.data.unlabelled import read_unlabelled
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Preprocess
from rrrnet.inference import load_model
from rrrnet.sealed import sha256_of
from rrrnet.training.devices import find_device
from rrrnet.training.distill import Teaching
from rrrnet.weights.warm_start import is_checkpoint

if TYPE_CHECKING:
    from rrrnet.training.options import Options

Say = Callable[[str], None]

TEMPERATURE, WEIGHT = 2.0, 0.9
_HIGHEST_TEMPERATURE = 100


def check_teacher(options: "Options") -> None:
    """Refuse what cannot be meant, before anything is read.

    Raises:
        UsageError: says what to give instead.
    """
    teacher, temperature, weight = options.teacher, options.teacher_temperature, options.teacher_weight
    if teacher is None:
        asked = {"teacher-temperature": temperature, "teacher-weight": weight, "unlabelled": options.unlabelled}
        for flag, value in asked.items():
            if value is not None:
                raise UsageError(f"--{flag} {value} is for a teacher: give --teacher CHECKPOINT, or leave it out")
        return
    for wrong, says in (
        (
            not is_checkpoint(str(teacher)),
            f"teacher {teacher}: no checkpoint lies there; give the folder of one that rrr train wrote",
        ),
        (
            teacher.resolve() == options.out.resolve(),
            f"teacher {teacher} is --out, which this training writes: give another --out",
        ),
        (options.epochs == 0, f"teacher {teacher}: --epochs 0 trains nothing; leave out one of them"),
        (
            temperature is not None and not 0 < temperature <= _HIGHEST_TEMPERATURE,
            f"teacher-temperature {temperature}: allowed is a number above 0, of at most {_HIGHEST_TEMPERATURE}",
        ),
        (
            weight is not None and not 0 < weight <= 1,
            f"teacher-weight {weight}: allowed is a number above 0, of at most 1 (the labels have the rest)",
        ),
        (
            options.unlabelled is not None and not options.unlabelled.is_dir(),
            f"unlabelled {options.unlabelled}: there is no such folder; give one of images, at any depth",
        ),
    ):
        if wrong:
            raise UsageError(f"--{says}")


def load_teacher(options: "Options", say: Say) -> Teaching | None:
    """The teacher that is asked for, before any image is read; None without one.

    Raises:
        ArtifactError: its checkpoint is damaged.
    """
    if options.teacher is None:
        return None
    checkpoint = read_checkpoint(options.teacher)
    scores = checkpoint.training.get("metrics", {}).get("test")
    accuracy = f"{100 * scores['accuracy']:.1f} % of its test images right" if scores else "its accuracy is not known"
    say(f"teacher: {checkpoint.name} ({checkpoint.method}), {accuracy}; {checkpoint.preprocess.describe()}")
    return Teaching(
        checkpoint=checkpoint,
        sha256=sha256_of(checkpoint.path / DOCUMENT),
        network=load_model(checkpoint).to(find_device(options.device)),
        temperature=options.teacher_temperature or TEMPERATURE,
        weight=options.teacher_weight or WEIGHT,
    )


def meet(
    teaching: Teaching | None, options: "Options", data: TrainingData, rule: Preprocess, say: Say
) -> Teaching | None:
    """The teacher before the images of this training: it knows their classes; what is unlabelled is read.

    Args:
        teaching: as loaded.
        options: what is asked for.
        data: the labelled images.
        rule: how the members see images.
        say: is told what weakens the teacher, or flatters the members.

    Raises:
        UsageError, ArtifactError: it knows other classes, or there are no unlabelled images.
    """
    if teaching is None:
        return None
    checkpoint, images = teaching.checkpoint, data.images
    theirs = in_order(images, checkpoint.labels, f"--teacher {options.teacher}").classes
    for place, (there, here) in enumerate(zip(theirs, images.classes, strict=True), 1):
        if there != here:
            raise UsageError(
                f"--teacher {options.teacher} has the same classes in another order: output {place} is {there!r} there "
                f"and {here!r} here; give --labels FILE with the teacher's order, one a line: {', '.join(theirs[:5])}"
                + (", ..." if len(theirs) > 5 else "")
            )
    if (flags := _framing(checkpoint.preprocess)) != _framing(rule):
        say(f"note: the teacher was trained on images framed otherwise than here; {flags} frames these as those were")
    tested = trained_on_tested(checkpoint, data)
    if tested is None:
        say("note: what the teacher was trained on is not recorded; if test images were, their accuracy flatters")
    elif tested:
        say(
            f"warning: the teacher was trained on {len(tested)} of the {data.parts.count(split.TEST)} test images "
            f"({', '.join(tested[:3])}{', ...' if len(tested) > 3 else ''}): their accuracy flatters; train both on "
            f"the same --data with the same --seed (the teacher's is {checkpoint.training['seed']})"
        )
    unlabelled = None
    if options.unlabelled is not None:
        unlabelled = read_unlabelled(options.unlabelled, data, max_pixels=options.max_pixels, say=say)
    return replace(teaching, unlabelled=unlabelled, trained_on_tested=None if tested is None else len(tested))


def trained_on_tested(checkpoint: Checkpoint, data: TrainingData) -> list[str] | None:
    """Test images that a teacher was trained on: of the same bytes, or, where its images are gone, of the same name.

    Returns:
        Their names; None where it is not recorded what the teacher was trained on.
    """
    if SPLIT not in checkpoint.files or not checkpoint.training["epochs"]:
        return None
    used = used_files(checkpoint, (split.TRAIN,))
    test = data.images.take(index for index, part in enumerate(data.parts) if part == split.TEST)
    known = copies(test, used).keys() | {name for path, name in used.items() if not path.is_file()}
    return [file for file in test.files if file in known]


def settings(teaching: Teaching | None) -> dict[str, Any]:
    """What a resumed training must have in common with the stopped one."""
    if teaching is None:
        return {}
    unlabelled = teaching.unlabelled
    return {
        "teacher": f"{teaching.checkpoint.name}, sha256 {teaching.sha256}",
        "teacher_temperature": teaching.temperature,
        "teacher_weight": teaching.weight,
        "unlabelled": unlabelled and f"{len(unlabelled.files)} images, sha256 {unlabelled.sha256}",
    }


def document(teaching: Teaching | None) -> dict[str, Any] | None:
    """What model.json holds as `training.teacher`; None without one."""
    if teaching is None:
        return None
    checkpoint, unlabelled = teaching.checkpoint, teaching.unlabelled
    return {
        "name": checkpoint.name,
        "sha256": teaching.sha256,
        "path": str(checkpoint.path),
        "method": checkpoint.method,
        "temperature": teaching.temperature,
        "weight": teaching.weight,
        "trained_on_test_images": teaching.trained_on_tested,
        "unlabelled": unlabelled
        and {
            "path": str(unlabelled.root),
            "images": len(unlabelled.files),
            "sha256": unlabelled.sha256,
            "left_out_by_kind": dict(Counter(lost.kind for lost in unlabelled.left_out)),
        },
    }


def _framing(rule: Preprocess) -> str:
    """The flags that frame images so, whatever the network's size."""
    return "--preprocess squash" if rule.resize_size is None else f"--resize {rule.resize_size} --crop {rule.size}"
