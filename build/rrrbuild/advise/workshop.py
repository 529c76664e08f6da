"""What `run.Shop` promises, by the functions of `rrr train`, `rrr build` and `rrr evaluate`."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from rrrbuild.advise.indifferent import make_indifferent
from rrrbuild.advise.own import Own
from rrrbuild.advise.plan import OWN, Candidate, Cost
from rrrbuild.advise.run import Built, Trained
from rrrbuild.build import DEFAULT_MAX_DROP, build_engine
from rrrbuild.choice import build_best
from rrrbuild.engine import load_engine
from rrrbuild.evaluation import open_model, predict
from rrrbuild.manifest import MANIFEST, BatchRange, read_engine
from rrrbuild.measure import measure_latency
from rrrbuild.plans import AUTO, usual
from rrrbuild.trust import Trust
from rrrnet import output
from rrrnet.checkpoint import DOCUMENT, Checkpoint, read_checkpoint
from rrrnet.data.training_data import TrainingData
from rrrnet.images.preprocess_options import choose_preprocess
from rrrnet.network.architecture import cost
from rrrnet.python_api import options_of
from rrrnet.stopping import Stopping
from rrrnet.training import budget
from rrrnet.training.bar import training_bar
from rrrnet.training.budget import Counts
from rrrnet.training.fit import fit
from rrrnet.training.metrics import mean_of_members
from rrrnet.training.options import Options
from rrrnet.training.planning import cost_here
from rrrnet.training.recipes import find_recipe

_NO_TRUST = Trust(cascade=False, calibrate=False)  # rrr build may find a cascade, which is faster still
# Random weights: their accuracy and labels say nothing about an engine's speed.
_UNTRAINED: dict[str, Any] = {"batch": BatchRange(1, 1, 1), "images": 32, "calibration_images": 32, "max_drop": 100.0}
_TRAINED: dict[str, Any] = {
    "batch": BatchRange(1, 8, 8),
    "images": 256,
    "calibration_images": 128,
    "max_drop": DEFAULT_MAX_DROP,
}


class Workshop:
    """Trains, builds, measures and tests, in the folder of the table.

    Attributes:
        fits: one's own network can be imported as it is.
        most_epochs: as many as `rrr train` takes by itself.
    """

    def __init__(
        self,
        own: Own,
        weights_key: str | None,
        data: TrainingData,
        root: Path,
        out: Path,
        flags: Mapping[str, Any],
        scratch: Path,
        requested: Stopping,
    ) -> None:
        """Nothing is trained yet.

        Args:
            own: one's own network.
            weights_key: which network in its file.
            data: the images.
            root: their folder, as it was given.
            out: the table's folder.
            flags: of `rrr train`, for all rows.
            scratch: a folder for what is not kept.
            requested: a signal that comes while a network is trained.
        """
        self.fits = not own.problem
        self._own, self._out, self._root, self._flags = own, out, root, dict(flags)
        self._from_file = {} if weights_key is None else {"weights_key": weights_key}
        self._classes = len(data.images.classes)
        self._scratch, self._requested = scratch, requested
        self._counts = Counts(*(data.parts.count(part) for part in ("train", "val", "test")))
        self._told: set[str] = set()
        options = self._options(Candidate(OWN, "full"), scratch, {})
        self.preprocess = choose_preprocess(options.preprocess, options.size)
        if self.preprocess.resize_size is None:
            self._flags["size"] = self.preprocess.size  # so that each command tells it
        chosen = budget.choose(
            find_recipe("quick"), self._counts.train, scratch=False, size=self.preprocess.size, epochs=None
        )
        self.most_epochs = chosen.epochs

    def clock(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def say(self, text: str) -> None:
        """A line on standard error, once: every training would tell the same of the images."""
        if text not in self._told:
            self._told.add(text)
            output.say(text)

    def _options(self, wanted: Candidate, out: Path, more: Mapping[str, Any]) -> Options:
        """What trains a network, in the words of `rrr train`."""
        weights = self._own.weights if wanted.method == "full" else self._own.body
        flags = {**wanted.flags(), "weights": weights, **self._from_file, **self._flags}
        if wanted.teacher:
            flags["teacher"] = self._out / "models" / OWN
        return options_of(self._root, out, {**flags, **more})

    def train(self, wanted: Candidate, epochs: int, until: float) -> Trained:
        """Train it into models/, or go on with what was stopped there.

        Raises:
            KeyboardInterrupt: a signal came; what was trained can be gone on with.
        """
        folder = self._out / "models" / wanted.name
        more: dict[str, Any] = {"epochs": epochs}
        if (before := self._before(wanted)) is not None:
            if before.training["complete"]:
                self.say(f"{wanted.name}: kept, as it was trained before")
                return _trained(before, folder)
            self.say(f"{wanted.name}: going on with the training that was stopped")
            more = {"epochs": before.training["epochs"], "resume": True}
        self.say(f"{wanted.name}: training" if epochs else f"{wanted.name}: importing your network")
        found = self._fit(self._options(wanted, folder, more), until)
        self._requested.check()
        return _trained(found.checkpoint, folder)

    def _before(self, wanted: Candidate) -> Checkpoint | None:
        """What an earlier run trained."""
        folder = self._out / "models" / wanted.name
        return read_checkpoint(folder) if (folder / DOCUMENT).is_file() else None

    def untrained(self, wanted: Candidate) -> Path:
        """A checkpoint of its shape with random weights, to be timed."""
        random = {"weights": "none", "backbone": self._own.backbone, "epochs": 0}
        self.say(f"{wanted.name}: random weights, to measure its speed")
        folder = self._scratch / wanted.name
        options = options_of(self._root, folder, {**wanted.flags(), **self._flags, **random})
        self._fit(options, float("inf"), told=False)
        make_indifferent(folder)
        return folder

    def _fit(self, options: Options, until: float, *, told: bool = True) -> Any:
        def stop() -> bool:
            return self._requested.stop or self.clock() > until

        say = self.say if told else lambda _: None
        with training_bar(self._requested, reads_images=True) as (started, report):
            return fit(options, report=report, stop=stop, say=say, started=started)

    def build(self, wanted: Candidate, checkpoint: Path, target: str | None, *, trained: bool) -> Built:
        """Its engine, of a trained network in engines/.

        Raises:
            CheckFailedError: it is not the network that was trained; says how far off it is.
            IncompatibleError: the target cannot be built here.
        """
        folder = self._engine(wanted.name) if trained else self._scratch / f"{wanted.name}.engine"
        architecture = read_checkpoint(checkpoint).architecture
        options: dict[str, Any] = {
            **(_TRAINED if trained else _UNTRAINED),
            "plan": AUTO if trained else usual(architecture),
            "out": folder,
            "data": None,
            "trust": _NO_TRUST,
        }
        began = self.clock()
        self.say(f"{wanted.name}: building its engine{'' if target else 's, to find the best target'}")
        with output.Working(wanted.name) as status:

            def report(step: str) -> None:
                status.update(escape(f"{wanted.name}: {step}"), said=False)

            if target is None:
                manifest, choice = build_best(checkpoint, **options, report=report)
                self.say(f"{wanted.name}: {choice.why}")
            else:
                manifest = build_engine(checkpoint, target, **options, report=report)
        seconds, tried = self.clock() - began, 0 if target else sum(bool(trial.latency_ms) for trial in choice.trials)
        costs = cost(architecture, manifest.preprocess.size)["total"]
        figures = (manifest.engine_bytes, costs["parameters"], costs["macs"])
        return Built(folder, manifest.target, *figures, manifest.command, seconds / (tried + 1))

    def _engine(self, name: str) -> Path:
        return self._out / "engines" / name

    def kept(self, wanted: Candidate) -> tuple[Path, str] | None:
        """The engine of an earlier run and its target.

        Raises:
            ArtifactError: it is damaged.
        """
        folder = self._engine(wanted.name)
        return (folder, read_engine(folder).target) if (folder / MANIFEST).is_file() else None

    def in_turns(self, engines: Mapping[str, Path]) -> dict[str, dict[str, float]]:
        """Milliseconds of a call at batch 1, by name."""
        runners = {name: load_engine(path).runner for name, path in engines.items()}
        return {name: rows["1"] for name, rows in measure_latency(runners, self.preprocess, (1,)).items()}

    def cost(self, wanted: Candidate) -> Cost:
        """By steps that are timed here; of what is left where it was trained before, which may be nothing."""
        left, before = 1.0, self._before(wanted)
        if before is not None:
            if before.training["complete"]:
                return Cost(0.0, 0.0)
            left -= before.training["epochs_done"] / before.training["epochs"]
        options = self._options(wanted, self._scratch, {"backbone": self._own.backbone, "epochs": 1})
        once, epoch = cost_here(options, self._counts, self._classes)
        return Cost(once, left * epoch)

    def test(self, model: Path) -> tuple[int, tuple[str, ...]]:
        """Number of test images, and the names of those that the engine or checkpoint answers wrongly."""
        found = predict(open_model(model), None, "test")
        answers = mean_of_members(found.probabilities).argmax(axis=1)
        wrong = tuple(
            file for file, answer, label in zip(found.files, answers, found.labels, strict=True) if answer != label
        )
        return len(found.files), wrong


def _trained(checkpoint: Checkpoint, folder: Path) -> Trained:
    """What is told of it; its command replaces it."""
    command = f"{checkpoint.command} --overwrite"
    training = checkpoint.training
    return Trained(folder, training["epochs"], command, training["complete"], training["selection"]["val_accuracy"])
