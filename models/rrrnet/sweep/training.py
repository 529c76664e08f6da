"""One cell, trained by the code of `rrr train`: what a child process or a machine of a cluster does."""

import platform
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rrrnet import __version__
from rrrnet.errors import ArtifactError, RRRError
from rrrnet.network.architecture import cost
from rrrnet.processor import cores, cpu_model
from rrrnet.training.fit import Outcome, fit
from rrrnet.training.options import Options
from rrrnet.training.training_state import Progress

Tell = Callable[[float, str], None]


@dataclass(frozen=True)
class Request:
    """What a cell is trained with.

    Attributes:
        options: of each learning rate that is tried, one or more; they write below `stage`.
        out: where the checkpoint goes, if it is kept.
        stage: a folder of this cell's own; it is made, and removed at the end.
        settings: are put into the result.
        threads: of torch; None leaves them as they are.
    """

    options: tuple[Options, ...]
    out: Path | None
    stage: Path
    settings: dict[str, Any]
    threads: int | None = None


@dataclass(frozen=True)
class Result:
    """What came of it.

    Attributes:
        document: what was measured, JSON-ready; None if the training failed.
        reason: of the failure.
        said: all lines of the training.
    """

    document: dict[str, Any] | None
    reason: str = ""
    said: tuple[str, ...] = ()


def attempt(request: Request, tell: Tell | None = None) -> Result:
    """Train a cell; an error becomes the result's reason.

    Args:
        request: what is trained.
        tell: called after each step with the share of the work that is done, and a few words.
    """
    said: list[str] = []
    try:
        if request.threads is not None:
            torch.set_num_threads(request.threads)
        return Result(_train(request, tell or _silent, said.append), said=tuple(said))
    except RRRError as error:
        return Result(None, str(error), tuple(said))
    except Exception as error:  # whatever it is, the other cells go on, and the file tells it
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Result(None, f"{error!r} in {Path(where.filename).name}, line {where.lineno}", tuple(said))
    finally:
        shutil.rmtree(request.stage, ignore_errors=True)


def _silent(_share: float, _text: str) -> None:
    pass


def _train(request: Request, tell: Tell, say: Callable[[str], None]) -> dict[str, Any]:
    tried: list[tuple[Outcome, float]] = []
    for number, options in enumerate(request.options):
        start = time.monotonic()
        outcome = _fit(options, say, _part(tell, number, len(request.options)))
        tried.append((outcome, time.monotonic() - start))
    trials = [_trial(outcome, seconds) for outcome, seconds in tried]
    best = choose(trials)
    outcome, _ = tried[best]
    if request.out is not None:
        shutil.rmtree(request.out, ignore_errors=True)
        request.out.parent.mkdir(parents=True, exist_ok=True)
        outcome.checkpoint.path.rename(request.out)
    return {**_measured(outcome), **trials[best], "trials": trials if len(trials) > 1 else [], **_here(request)}


def _fit(options: Options, say: Callable[[str], None], tell: Tell) -> Outcome:
    total = 1

    def started(epochs: int, steps: int) -> None:
        nonlocal total
        total = max(1, epochs * steps)

    def report(progress: Progress, steps: int) -> None:
        text = f"epoch {progress.epoch + 1}, loss {progress.loss:.3f}, accuracy {progress.accuracy:.3f}"
        tell((progress.epoch * steps + progress.step) / total, text)

    return fit(options, report=report, stop=lambda: False, say=say, started=started)


def _part(tell: Tell, number: int, count: int) -> Tell:
    """Tells of one of several trainings as a part of all."""
    return lambda share, text: tell((number + share) / count, text if count == 1 else f"lr {number + 1}, {text}")


def choose(trials: list[dict[str, Any]]) -> int:
    """Which of several trainings is taken: the best on the validation images, of equal ones that of the lowest lr.

    Raises:
        ArtifactError: there are several, and no validation images.
    """
    if len(trials) > 1 and any(trial["val_accuracy"] is None for trial in trials):
        raise ArtifactError(
            "several --lr are chosen from on validation images, and there are none: give one, or more images of a class"
        )
    return max(range(len(trials)), key=lambda index: (trials[index]["val_accuracy"] or 0.0, -trials[index]["lr"]))


def _trial(outcome: Outcome, seconds: float) -> dict[str, Any]:
    training = outcome.checkpoint.training
    return {
        "lr": training["recipe"]["lr"],
        "val_accuracy": training["selection"]["val_accuracy"],
        "epochs": training["epochs"],
        "seconds": round(seconds, 1),
    }


def _measured(outcome: Outcome) -> dict[str, Any]:
    checkpoint = outcome.checkpoint
    training, network = checkpoint.training, checkpoint.architecture
    test = training["metrics"]["test"]
    members = [member["accuracy"] for member in test["members"]]
    total = cost(network, checkpoint.preprocess.size)["total"]
    return {
        "accuracy": test["accuracy"],
        "correct": round(test["accuracy"] * test["images"]),
        "images": test["images"],
        **{figure: test[figure] for figure in ("nll", "ece", "brier", "balanced_accuracy")},
        "members_accuracy": sum(members) / len(members),
        "train_images": training["split"]["train_images"],
        "val_images": training["split"]["val_images"],
        "size": checkpoint.preprocess.size,
        **total,
        "architecture": network.to_json(),
        "weights": training["weights"]["origin"],
        "data_sha256": training["data"]["sha256"],
        "command": checkpoint.command,
    }


def _here(request: Request) -> dict[str, Any]:
    return {
        "settings": request.settings,
        "machine": {"cpu": cpu_model(), "cores": cores(), "threads": torch.get_num_threads()},
        "versions": {"rrr": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }
