"""A pre-trained backbone where no hub is in reach: learned from drawn letters, for `rrr train --weights FILE`.

    .venv/bin/python benchmarks/method/pretrain.py --backbone resnet50 --minutes 60
    .venv/bin/python benchmarks/method/pretrain.py --backbone resnet152 --hub    # where there is a network

Letters of many scripts are drawn (rrr data glyphs) into a memory-mapped file, as many as are seen once, by all cores;
then the network learns to tell them apart, in one pass. Killed at any moment it goes on by the same command, two
minutes back at most. Writes FILE, with torchvision's names, and FILE.json: how long, on what, how accurate.
"""

import argparse
import json
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from safetensors.numpy import save_file

from rrrbench.environment import environment, rounded
from rrrbench.glyph_pool import GlyphPool
from rrrnet import output
from rrrnet.errors import RRRError, UsageError
from rrrnet.files import make_readable, write_atomically
from rrrnet.glyphs.options import SCRIPTS, GlyphOptions
from rrrnet.glyphs.picture import render_glyph
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import BACKBONES, Architecture, cost, full
from rrrnet.network.edges import start_from_edges
from rrrnet.network.ensemble import RRRNet, export_weights
from rrrnet.processor import cores
from rrrnet.sealed import sha256_of
from rrrnet.stopping import stop_requested
from rrrnet.training import budget, training_state
from rrrnet.training.devices import computes_in_bfloat16, find_device
from rrrnet.training.recipes import find_recipe
from rrrnet.training.train import Training, TrainingPlan
from rrrnet.training.training_state import RESUME, Progress
from rrrnet.weights.imagenet import hub_weights

# Not the letters that networks are judged on in docs/method.md: printed Latin, Georgian (both alphabets), Thai, Tamil.
# No font at hand has the last two; Lao is left out as the kin of Thai.
LEFT_OUT = ("latin", "georgian", "asomtavruli", "lao")
TAKEN = tuple(script for script in SCRIPTS if script not in LEFT_OUT)
_MOST_DRAWN = 400_000  # pictures on disk, 12 kB each at 64 pixels; what is to be seen beyond is seen again
_HELD_OUT = 4096
_SAVE_SECONDS = 120.0
_TIMED_PICTURES = 200
_PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What is trained; kept beside the state, so that a run that goes on has the same.

    Attributes:
        drawn: different training pictures.
        passes: over them.
        held_out: pictures of the same letters to validate on.
    """

    backbone: str
    size: int
    batch_size: int
    lr: float
    seed: int
    scripts: tuple[str, ...]
    bfloat16: bool
    drawn: int
    passes: int
    held_out: int

    def glyphs(self) -> GlyphOptions:
        """The letters, in the generator's words."""
        return glyph_options(self.scripts, self.size, self.seed)

    def architecture(self) -> Architecture:
        """The network."""
        return full(self.glyphs().classes, backbone=self.backbone)

    def training(self) -> TrainingPlan:
        """The recipe `quick` in the trainer's words."""
        recipe = replace(find_recipe("quick"), batch_size=self.batch_size, lr=self.lr)
        return TrainingPlan(
            recipe=recipe,
            epochs=self.passes,
            seed=self.seed,
            frozen=(),
            preprocess=Preprocess(size=self.size),
            device=find_device("auto"),
            mixed_precision=self.bfloat16,
        )


def glyph_options(scripts: tuple[str, ...], size: int, seed: int) -> GlyphOptions:
    """All letters of some scripts."""
    classes = sum(len(SCRIPTS.get(script, "")) for script in scripts)
    return GlyphOptions(classes=max(2, classes), size=size, seed=seed, scripts=scripts)


def make_plan(options: argparse.Namespace) -> Plan:
    """Settle how many pictures are drawn and seen, by the time of a picture and of a step here if minutes are given."""
    plan = Plan(
        backbone=options.backbone,
        size=options.size,
        batch_size=options.batch_size,
        lr=options.lr,
        seed=options.seed,
        scripts=tuple(options.scripts.split(",")),
        bfloat16=computes_in_bfloat16(options.precision, find_device("auto")),
        drawn=options.images or 0,
        passes=1,
        held_out=0,
    )
    images = options.images
    if images is None:
        drawing, step = (
            picture_seconds(plan.glyphs()),
            budget.step_seconds(plan.architecture(), plan.training(), plan.size),
        )
        learning = step / plan.batch_size
        images = int(60 * options.minutes / (learning + drawing))
        output.say(
            f"here a picture takes {1e3 * drawing:.2f} ms to draw and {1e3 * learning:.2f} ms to learn from: {images}"
        )
    if images < plan.batch_size:
        raise UsageError(
            f"{images} pictures are fewer than a step of {plan.batch_size}: give more --minutes or --images"
        )
    passes = -(-images // _MOST_DRAWN)
    return replace(plan, drawn=images // passes, passes=passes, held_out=min(_HELD_OUT, max(64, images // 20)))


def picture_seconds(glyphs: GlyphOptions) -> float:
    """Seconds of one picture, on all cores together."""
    letters = [letter for letter, _ in glyphs.letters()]
    chosen = [letters[index % len(letters)] for index in range(_TIMED_PICTURES)]
    for letter in letters:
        render_glyph(letter, glyphs, 0)  # looks the fonts up, which is done once
    start = time.perf_counter()
    for letter in chosen:
        render_glyph(letter, glyphs, 1)
    return (time.perf_counter() - start) / len(chosen) / cores()


class Saved:
    """The state of a training in its work folder, replaced whole."""

    def __init__(self, folder: Path, training: Training) -> None:
        """Take up the state that is there, if any."""
        self._folder, self._training = folder, training
        self.seconds, self._begun = 0.0, time.monotonic()
        self._last = self._begun
        if (folder / RESUME).is_file():
            self.seconds = float(training_state.read_settings(folder)["seconds"])
            progress, _ = training_state.load_state(folder, training.model, training.average, training.optimizer)
            training.progress = progress

    def passed(self) -> float:
        """Seconds of training, those before a kill included."""
        return self.seconds + time.monotonic() - self._begun

    def save(self, *, now: bool = False) -> None:
        """Write it if the last time is long enough ago."""
        if not now and time.monotonic() - self._last < _SAVE_SECONDS:
            return
        it, stage = self._training, self._folder / "next"
        stage.mkdir(exist_ok=True)
        settings = {"seconds": self.passed()}
        training_state.save_state(stage, it.model, it.average, it.optimizer, it.progress, settings, it.best)
        (stage / RESUME).replace(self._folder / RESUME)
        self._last = time.monotonic()


def teller(bar: Any, total: int, batch: int) -> Callable[[Progress, int], None]:
    """Tells loss and accuracy of the last steps, not of all since the beginning, and images a second."""
    task = bar.add_task("learning", total=total, text="")
    window: deque[tuple[float, int, float, int, int]] = deque(maxlen=100)

    def report(progress: Progress, steps: int) -> None:
        done = progress.epoch * steps + progress.step
        if progress.step <= 1:
            window.clear()
        window.append((time.monotonic(), done, progress.loss_sum, progress.correct, progress.answers))
        first, last = window[0], window[-1]
        text = ""
        if len(window) > 1 and last[4] > first[4]:
            rate = (last[1] - first[1]) * batch / (last[0] - first[0])
            loss = (last[2] - first[2]) / (last[1] - first[1])
            text = f"loss {loss:.3f}  accuracy {(last[3] - first[3]) / (last[4] - first[4]):.3f}  {rate:.1f} images/s"
        bar.update(task, completed=done, text=text)

    return report


def learn(plan: Plan, work: Path, stop: Callable[[], bool]) -> tuple[Training, float, bool]:
    """Draw and train; the training, its seconds, and whether it is complete."""
    pool = GlyphPool(work, plan.glyphs(), plan.drawn + plan.held_out)
    with output.progress_bar() as bar:
        task = bar.add_task("drawing letters", total=pool.images, text="")
        for drawn in pool.draw():
            bar.update(task, completed=drawn)
            if stop():
                raise KeyboardInterrupt
    torch.manual_seed(plan.seed)
    seen, held_out = slice(0, plan.drawn), slice(plan.drawn, None)
    network = RRRNet(plan.architecture())
    start_from_edges(network)
    training = Training(
        network,
        plan.training(),
        pool.array[seen],
        pool.labels[seen],
        held_back=(pool.array[held_out], pool.labels[held_out]),
    )
    if plan.passes == 1:  # each picture is a new one
        training.augment = lambda images: images
    saved = Saved(work, training)
    with output.progress_bar() as bar:
        report = teller(bar, plan.passes * training.steps_per_epoch, plan.batch_size)

        def report_and_save(progress: Progress, steps: int) -> None:
            report(progress, steps)
            saved.save()

        complete = training.run(report_and_save, stop)
    saved.save(now=True)
    return training, saved.passed(), complete


def work_folder(path: Path) -> Path:
    """Where pictures and state lie until the file is there."""
    return path.with_name(f"{path.name}.work")


def write(path: Path, training: Training, plan: Plan, seconds: float) -> dict[str, Any]:
    """The file of weights, and beside it what it is."""
    stage = work_folder(path)
    save_file(dict(export_weights(training.result())), stage / path.name, metadata={"format": "pt"})
    make_readable(stage)
    (stage / path.name).replace(path)
    accuracy = training.progress.val_accuracy
    document = {
        "what": f"{plan.backbone}, pre-trained on drawn letters",
        "sha256": sha256_of(path),
        "val_accuracy": accuracy,
        "val_images": plan.held_out,
        "val_correct": None if accuracy is None else round(accuracy * plan.held_out),
        "classes": plan.glyphs().classes,
        "scripts_left_out": [script for script in SCRIPTS if script not in plan.scripts],
        "images_seen": plan.drawn * plan.passes,
        "seconds": seconds,
        "images_per_second": plan.drawn * plan.passes / seconds,
        "plan": asdict(plan),
        **cost(plan.architecture(), plan.size)["total"],
        "environment": environment(),
    }
    write_document(path, document)
    return document


def write_document(path: Path, document: dict[str, Any]) -> None:
    """What a file of weights is, beside it."""
    text = json.dumps(rounded(document), indent=1, ensure_ascii=False)
    write_atomically(path.with_name(f"{path.name}.json"), f"{text}\n".encode())


def copy_of_hub(backbone: str, path: Path) -> None:
    """Put the hub's file in the place of a pre-trained one."""
    shutil.copyfile(hub_weights(output.say, backbone), path)
    what = f"{backbone} of the Hugging Face hub, trained on ImageNet"
    write_document(path, {"what": what, "sha256": sha256_of(path), "environment": environment()})


def pretrain(options: argparse.Namespace) -> int:
    """Draw, learn, write; exit code 130 if it was stopped."""
    path: Path = options.out or Path("artifacts/pretrained") / f"{options.backbone}.safetensors"
    if path.exists() and not options.overwrite:
        raise UsageError(f"{path} is there already: give --overwrite to replace it, or another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.hub:
        copy_of_hub(options.backbone, path)
    else:
        work = work_folder(path)
        kept = work / _PLAN
        if kept.is_file():
            plan = Plan(**{**json.loads(kept.read_text()), "scripts": tuple(json.loads(kept.read_text())["scripts"])})
            output.say(f"going on with {work}; remove it to begin anew")
        else:
            plan = make_plan(options)
            work.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, json.dumps(asdict(plan)).encode())
        classes, again = plan.glyphs().classes, "" if plan.passes == 1 else f", each {plan.passes} times"
        output.say(f"{plan.backbone} at {plan.size} pixels: {plan.drawn} pictures of {classes} letters{again}")
        with stop_requested("stopping; the same command goes on") as requested:
            requested.running = True
            training, seconds, complete = learn(plan, work, lambda: requested.stop)
        if not complete:
            return 130
        document = write(path, training, plan, seconds)
        output.say(f"{document['val_correct']} of {plan.held_out} held-out pictures right, {seconds:.0f} s of training")
        shutil.rmtree(work)
    output.print_line(f"weights: {path}, what they are: {path}.json")
    backbone = ["--backbone", options.backbone]
    output.next_step("rrr", "sweep", "DATA", "--weights", path, *backbone, "--out", "artifacts/sweep")
    return 0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="resnet50")
    parser.add_argument("--out", type=Path, help="file to write [artifacts/pretrained/BACKBONE.safetensors]")
    parser.add_argument("--minutes", type=float, default=60.0, help="of drawing and learning, about [60]")
    parser.add_argument("--images", type=int, help="pictures to learn from, instead of --minutes")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels [64]")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW [1e-3]")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--scripts", default=",".join(TAKEN), help=f"with commas between, of {', '.join(SCRIPTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hub", action="store_true", help="take the hub's ImageNet weights, train nothing")
    parser.add_argument("--overwrite", action="store_true")
    try:
        return pretrain(parser.parse_args())
    except RRRError as error:
        output.say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
