"""`rrrnet.train` takes what `rrr train` takes, and leaves the command that does the same."""

import inspect
import shlex
from pathlib import Path
from typing import Any

import pytest

import rrrnet
from rrrnet.commands import train as command
from rrrnet.errors import UsageError
from rrrnet.training import fit


def test_every_flag_of_the_command_is_an_argument_of_the_function() -> None:
    flags = set(inspect.signature(command.train).parameters) - {"data", "out", "as_json"}
    assert set(rrrnet.TrainingOptions.__annotations__) == flags


def test_arguments_become_the_options_of_the_command_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    (tmp_path / "model.json").touch()  # all that is asked of a teacher before anything is read

    def fit_(options: Any, **_: Any) -> fit.Outcome:
        seen.append(options)
        return fit.Outcome(None, complete=True)  # type: ignore[arg-type]

    monkeypatch.setattr(fit, "fit", fit_)
    rrrnet.train(
        tmp_path,
        "out",
        weights="none",
        labels="labels.txt",
        teacher=str(tmp_path),
        teacher_weight=0.5,
        resize=256,
        crop=224,
        bgr=False,
        strict=True,
        aligned=False,
        early_stopping=False,
        min_per_class=3,
    )
    (options,) = seen
    assert (options.data, options.out, options.labels) == (tmp_path, Path("out"), Path("labels.txt"))
    assert (options.weights, options.weights_given, options.early_stopping) == ("none", True, False)
    assert (options.preprocess.resize, options.preprocess.crop, options.preprocess.bgr) == (256, 224, False)
    assert (options.data_options.strict, options.data_options.min_per_class) == (True, 3)
    assert (options.teacher, options.teacher_weight, options.unlabelled) == (tmp_path, 0.5, None)
    flags = f"--weights none --labels labels.txt --teacher {shlex.quote(str(tmp_path))} --teacher-weight 0.5"
    flags += " --resize 256 --crop 224 --rgb --strict --no-early-stopping"
    assert options.command == f"rrr train --data {shlex.quote(str(tmp_path))} --out out {flags} --min-per-class 3"
    assert rrrnet.train(tmp_path, "out") is None
    assert (seen[1].weights, seen[1].weights_given) == ("imagenet", False)


def test_an_option_that_there_is_not_or_a_value_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="epoch: no such option; rrr train --help"):
        rrrnet.train(tmp_path, "out", epoch=3)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="--members 0"):
        rrrnet.train(tmp_path, "out", members=0)
