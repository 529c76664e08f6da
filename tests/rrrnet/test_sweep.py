"""A sweep: cells with a file each, what waits for what, and how it ends."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import typer

from rrrnet.commands import sweep as command
from rrrnet.errors import ArtifactError, UsageError
from rrrnet.glyphs.generate import generate_glyphs
from rrrnet.glyphs.options import GlyphOptions
from rrrnet.sweep.cells import Cell, Folder, check_settings
from rrrnet.sweep.plan import Plan, read_lrs
from rrrnet.sweep.run import run
from rrrnet.sweep.runners import Event
from rrrnet.sweep.table import summarise
from rrrnet.sweep.training import Request, Result, attempt, choose

TRAINING = {"weights": "none", "epochs": 1, "size": 32, "batch_size": 8, "precision": "fp32"}
MEASURED = {"accuracy": 0.5, "correct": 1, "images": 2, "seconds": 1.0, "lr": 0.001}
MEASURED |= {"nll": 0.5, "ece": 0.1, "epochs": 1, "size": 32, "parameters": 8e6, "macs": 1e8}


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "letters"
    generate_glyphs(folder, GlyphOptions(classes=2, per_class=12, size=32))
    return folder


def plan(letters: Path, out: Path, **options: Any) -> Plan:
    given: dict[str, Any] = {"methods": ("full", "reduced"), "seeds": 2, "training": TRAINING}
    return Plan((letters,), Folder(out), **given | options)


def test_ensembles_of_matched_slices_are_columns_of_their_own(letters: Path, tmp_path: Path) -> None:
    weights = tmp_path / "backbone.safetensors"
    weights.write_bytes(bytes(64))
    training = TRAINING | {"weights": str(weights), "backbone": "resnet50"}
    asked = plan(
        letters, tmp_path, methods=("full", "ensemble"), seeds=1, slices="matched", teacher="full", training=training
    )
    assert [cell.method for cell in asked.cells()] == ["full", "ensemble-matched-taught"]
    full, taught = asked.cells()
    assert (taught.trained_by, taught.matched, taught.taught, full.matched) == ("ensemble", True, True, False)
    untaught = replace(asked, teacher=None)
    options = untaught.options(untaught.cells()[1], None, tmp_path / "out")
    assert options.slices == "matched"
    assert "--slices matched" in options.command
    with pytest.raises(UsageError, match="--slices last: no such ones; allowed are first, matched"):
        plan(letters, tmp_path, slices="last")


@dataclass
class FakeRunner:
    """Ends each cell at once, in the order they were started; those named fail."""

    failing: frozenset[str] = frozenset()
    images: str = "same"
    slots: int = 1
    started: list[str] = field(default_factory=list)
    lrs: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    waiting: list[tuple[Cell, Request]] = field(default_factory=list)

    def start(self, cell: Cell, request: Request) -> None:
        self.started.append(str(cell))
        self.lrs[str(cell)] = tuple(options.lr for options in request.options)
        self.waiting.append((cell, request))

    def poll(self, seconds: float) -> Iterator[Event]:
        cell, request = self.waiting.pop(0)
        found = Result({**MEASURED, "data_sha256": self.images, "settings": request.settings})
        yield Event(cell, 1.0, result=Result(None, "out of luck") if str(cell) in self.failing else found)

    def stop(self) -> None:
        self.waiting.clear()


def swept(asked: Plan, runner: FakeRunner, *, cells: int | None = None) -> bool:
    """Run what is left; stop after so many cells if given."""
    todo = asked.to_run(asked.folder.results())
    stop = lambda: cells is not None and len(runner.started) >= cells  # noqa: E731  read beside what it is for
    return run(asked, todo, runner, stop=stop, show=lambda done, text: None, say=lambda line: None)


def test_cells_go_data_set_by_data_set_and_in_it_seed_by_seed(letters: Path, tmp_path: Path) -> None:
    assert [str(cell) for cell in plan(letters, tmp_path).cells()] == [
        "letters/full-seed0",
        "letters/reduced-seed0",
        "letters/full-seed1",
        "letters/reduced-seed1",
    ]


def test_each_cell_leaves_a_file_and_is_not_trained_again(letters: Path, tmp_path: Path) -> None:
    asked, first, second = plan(letters, tmp_path), FakeRunner(), FakeRunner()
    assert not swept(asked, first, cells=3), "a stop is no end"
    assert swept(asked, second)
    assert (len(first.started), second.started) == (3, ["letters/reduced-seed1"])
    document = json.loads((tmp_path / "cells/letters/reduced-seed1.json").read_text())
    assert (document["method"], document["seed"], document["accuracy"]) == ("reduced", 1, 0.5)


def test_a_failed_cell_is_a_file_with_the_reason_and_is_tried_again(letters: Path, tmp_path: Path) -> None:
    asked = plan(letters, tmp_path)
    failure = tmp_path / "cells/letters/full-seed0.failed.json"
    assert swept(asked, FakeRunner(failing=frozenset({"letters/full-seed0"}))), "the others go on"
    assert json.loads(failure.read_text())["reason"] == "out of luck"
    again = FakeRunner()
    assert swept(asked, again)
    assert (again.started, failure.exists()) == (["letters/full-seed0"], False)


def test_failures_of_cells_that_are_not_asked_for_now_neither_count_nor_are_promised(
    letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unlucky = FakeRunner(failing=frozenset({"letters/full-seed0"}))
    monkeypatch.setattr(command, "_runner", lambda ray, cores: nullcontext(unlucky))
    asked: dict[str, Any] = {"seeds": 1, "weights": "none", "size": 32}
    with pytest.raises(typer.Exit) as ended:
        command.sweep([letters], tmp_path, methods="full,reduced", **asked)
    assert ended.value.exit_code == 1
    assert "1 cell failed; the same command tries again: letters/full-seed0" in capsys.readouterr().err
    command.sweep([letters], tmp_path, methods="reduced", **asked)
    assert "failed" not in capsys.readouterr().err
    assert json.loads((tmp_path / "sweep.json").read_text())["failed"] == {"letters/full-seed0": "out of luck"}


def test_a_data_set_that_has_changed_ends_its_cells_with_the_first_and_leaves_the_table_of_the_rest(
    letters: Path, tmp_path: Path
) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    other.mkdir()
    assert swept(plan(letters, out), FakeRunner(), cells=1) is False
    asked, runner = replace(plan(letters, out, keep=True), data=(letters, other)), FakeRunner(images="changed")
    asked.folder.model(Cell("letters", "reduced", 0)).mkdir(parents=True)
    assert swept(asked, runner), "the other data set goes on"
    assert runner.started[:2] == ["letters/reduced-seed0", "other/full-seed0"]
    reasons = {str(cell): document["reason"] for cell, document in asked.folder.failures().items()}
    assert reasons.keys() == {"letters/reduced-seed0", "letters/full-seed1", "letters/reduced-seed1"}
    assert reasons["letters/reduced-seed0"].startswith("letters/reduced-seed0 was trained on other images than")
    assert reasons["letters/full-seed1"] == "its images have changed, as letters/reduced-seed0 told"
    assert not asked.folder.model(Cell("letters", "reduced", 0)).exists()
    assert [row["method"] for row in summarise(asked.folder.results())["rows"]] == ["full", "full", "reduced"]


def test_of_several_learning_rates_the_first_seed_tries_all_and_the_others_take_its_choice(
    letters: Path, tmp_path: Path
) -> None:
    runner = FakeRunner(slots=4)
    assert swept(plan(letters, tmp_path, lrs={"full": (1e-4, 1e-3)}), runner)
    assert runner.lrs["letters/full-seed0"] == (1e-4, 1e-3)
    assert runner.lrs["letters/full-seed1"] == (MEASURED["lr"],)
    assert runner.lrs["letters/reduced-seed1"] == (None,)


def test_what_needs_a_failed_cell_fails_and_says_so(letters: Path, tmp_path: Path) -> None:
    runner = FakeRunner(failing=frozenset({"letters/full-seed0"}), slots=4)
    assert swept(plan(letters, tmp_path, lrs={"full": (1e-4, 1e-3)}), runner)
    assert "letters/full-seed1" not in runner.started
    failures = {str(cell): document["reason"] for cell, document in Folder(tmp_path).failures().items()}
    assert failures["letters/full-seed1"] == "it needs letters/full-seed0, which failed"


def test_a_teacher_is_trained_before_its_students_and_again_where_its_checkpoint_is_gone(
    letters: Path, tmp_path: Path
) -> None:
    asked = plan(letters, tmp_path, methods=("ensemble",), seeds=1, teacher="full")
    teacher, student = Cell("letters", "full", 0), Cell("letters", "ensemble-taught", 0)
    assert (asked.cells(), asked.needs(student)) == ([teacher, student], [teacher])
    assert (asked.keeps(teacher), asked.keeps(student)) == (True, False)
    assert asked.to_run({teacher: {}}) == [teacher, student]
    asked.folder.model(teacher).mkdir(parents=True)
    assert asked.to_run({teacher: {}}) == [student]
    assert asked.to_run({teacher: {}, student: {}}) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": ("fulll",)}, "--methods fulll: no such method; allowed are head, full, reduced, ensemble"),
        ({"methods": ("head", "full")}, "from scratch is the same as full: give --weights FILE, or --methods full"),
        ({"seeds": 0}, "--seeds 0: allowed are 1 and more"),
        ({"lrs": {"full": (2.0,)}}, "--lr 2.0: allowed is a number between 0 and 1"),
        ({"training": {**TRAINING, "epochs": 0}}, "--epochs 0 trains nothing"),
        ({"methods": ("full",), "teacher": "full"}, "--teacher teaches reduced and ensemble"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_trained(
    letters: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        plan(letters, tmp_path, **options)


def test_two_data_sets_of_one_name_are_refused(letters: Path, tmp_path: Path) -> None:
    other = tmp_path / "letters"
    other.mkdir()
    with pytest.raises(UsageError, match="rename the folder"):
        replace(plan(letters, tmp_path), data=(letters, other))


def test_learning_rates_are_given_by_method() -> None:
    assert read_lrs(["full=1e-4,3e-4", "head=0.01"]) == {"full": (1e-4, 3e-4), "head": (0.01,)}
    with pytest.raises(UsageError, match=r"--lr full: allowed is METHOD=VALUE\[,VALUE...\]"):
        read_lrs(["full"])


def test_cells_of_other_settings_are_not_put_into_one_table() -> None:
    measured = {Cell("letters", "full", 0): {"settings": {"size": 64, "lr": [0.001]}}}
    check_settings(measured, {"size": 64}, {Cell("letters", "full", 0): {"lr": [0.001]}})
    with pytest.raises(UsageError, match="letters/full-seed0 was measured with size 64, now it is 128"):
        check_settings(measured, {"size": 128}, {})
    with pytest.raises(UsageError, match=r"with lr 0\.001, now it is not given"):
        check_settings(measured, {"size": 64}, {Cell("letters", "full", 0): {"lr": None}})
    with pytest.raises(UsageError, match="with size 64, now it is not given"):
        check_settings(measured, {}, {})


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    path = Folder(tmp_path).result(Cell("letters", "full", 0))
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(ArtifactError, match=r"full-seed0\.json is no result of rrr sweep .* remove it"):
        Folder(tmp_path).results()


def test_validation_images_choose_and_equals_go_to_the_lower_rate() -> None:
    trials = [{"lr": 1e-3, "val_accuracy": 0.5}, {"lr": 1e-4, "val_accuracy": 0.7}, {"lr": 3e-4, "val_accuracy": 0.7}]
    assert choose(trials) == 1
    assert choose([{"lr": 1e-3, "val_accuracy": None}]) == 0
    with pytest.raises(ArtifactError, match="there are none"):
        choose([{"lr": 1e-3, "val_accuracy": None}] * 2)


def test_a_cell_tells_counts_costs_and_the_command_that_repeats_it(letters: Path, tmp_path: Path) -> None:
    asked = plan(letters, tmp_path, lrs={"reduced": (1e-4,)})
    cell, told = Cell("letters", "reduced", 0), list[float]()
    stage = tmp_path / "stage"
    options = tuple(asked.options(cell, lr, stage / str(lr) / "net") for lr in asked.lrs_of(cell))
    request = Request(options, asked.folder.model(cell), stage, asked.shared_settings())
    result = attempt(request, lambda share, text: told.append(share))
    assert result.document is not None, result.reason
    found = result.document
    assert (found["images"], found["train_images"], found["val_images"]) == (12, 10, 2)
    assert found["correct"] == round(12 * found["accuracy"])
    assert (found["lr"], found["epochs"], found["trials"]) == (1e-4, 1, [])
    assert found["command"].startswith("rrr train --data")
    assert "--method reduced --seed 0" in found["command"]
    assert (found["parameters"], found["settings"]["size"]) == (8020034, 32)
    assert told == [0.5, 1.0], "two steps"
    assert asked.folder.model(cell).is_dir()
    assert not stage.exists()


def test_an_error_of_a_training_is_its_reason(letters: Path, tmp_path: Path) -> None:
    asked = plan(letters, tmp_path)
    options = replace(asked.options(Cell("letters", "reduced", 0), None, tmp_path / "net"), data=tmp_path / "nothing")
    result = attempt(Request((options,), None, tmp_path / "stage", {}))
    assert result.document is None
    assert "nothing" in result.reason
