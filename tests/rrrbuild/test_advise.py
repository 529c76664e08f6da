"""`rrr advise` without training: how minutes are divided, and in which order work is done."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from rrrbuild.advise.plan import OWN, Candidate, Cost, Shares, candidates, divide, parse_members, with_teacher
from rrrbuild.advise.recommend import recommend
from rrrbuild.advise.rows import Row, Rows, read_rows, settle_asked
from rrrbuild.advise.run import Advising, Built, Trained
from rrrnet.errors import ArtifactError, CheckFailedError, UsageError

MINUTE = 60.0


# How the minutes are divided


def test_all_rows_get_the_same_epochs_and_ones_own_network_half_of_the_time_where_it_must_be_trained() -> None:
    rows = {"reduced": Cost(10, 2), "members-8": Cost(10, 3)}
    assert divide(100, None, rows, 150, taught=None) == Shares(0, 16, ("reduced", "members-8"))
    assert divide(200, Cost(20, 20), rows, 150, taught=None) == Shares(4, 16, ("reduced", "members-8"))
    assert divide(200, None, rows, 150, taught=Cost(10, 5)) == Shares(0, 17, ("reduced", "members-8"))


def test_nothing_gets_more_epochs_than_training_takes_by_itself_and_what_is_left_goes_to_ones_own_network() -> None:
    assert divide(10_000, Cost(20, 20), {"reduced": Cost(10, 2)}, 50, taught=None) == Shares(50, 50, ("reduced",))
    assert divide(700, Cost(20, 20), {"reduced": Cost(10, 2)}, 50, taught=None).own == 28  # (700 - 110 - 20) / 20


def test_where_time_is_short_the_row_with_a_teacher_goes_first_and_then_the_last_rows() -> None:
    rows = {"reduced": Cost(10, 2), "members-4": Cost(10, 2), "members-8": Cost(10, 3)}
    assert divide(40, None, rows, 150, taught=Cost(10, 5)) == Shares(0, 1, ("reduced", "members-4", "members-8"))
    assert divide(30, None, rows, 150, taught=None) == Shares(0, 2, ("reduced", "members-4"))
    assert divide(11, None, rows, 150, taught=None) == Shares(0, 0, ())
    assert divide(30, Cost(10, 20), rows, 150, taught=Cost(10, 5)).own == 0


def test_a_teacher_costs_a_forward_pass_of_it_in_each_step() -> None:
    assert with_teacher(Cost(10, 3), 500, 3500) == Cost(10, 3 * (1 + 7 / 3))


def test_members_are_numbers_and_one_is_the_reduced_network() -> None:
    assert [one.name for one in candidates(parse_members("1,4, 8,4"))] == [OWN, "reduced", "members-4", "members-8"]
    for wrong in ("", "0", "4,x", "257"):
        with pytest.raises(UsageError, match="give numbers of members from 1 to 256"):
            parse_members(wrong)


# The order of the work, with a clock that moves only where work is done


class FakeShop:
    """Work that takes so many seconds and gives what is asked for."""

    def __init__(self, *, fits: bool = True, slower: float = 1.0) -> None:
        self.fits, self.most_epochs, self.now, self.slower = fits, 50, 0.0, slower
        self.done: list[str] = []
        self.told: list[str] = []
        self.times = {OWN: 40.0, "reduced": 4.0, "members-4": 5.0, "members-8": 6.0}
        self.wrong = {OWN: 5, "reduced": 10, "members-4": 8, "members-8": 6, "members-8-taught": 5}
        self.engines: dict[str, Path] = {}
        self.refuses: set[str] = set()
        self.stops_at: str | None = None
        self.late: str | None = None
        self.trained_before: set[str] = set()
        self.validated: dict[str, float] = {}

    def clock(self) -> float:
        return self.now

    def say(self, text: str) -> None:
        self.told.append(text)

    def train(self, wanted: Candidate, epochs: int, until: float) -> Trained:
        if wanted.name == self.stops_at:
            raise KeyboardInterrupt
        if wanted.name not in self.trained_before:
            self.now += self.slower * (10 + epochs * (20 if wanted.name == OWN else 2))
        if wanted.name == self.late:
            self.now = until + 1
        self.done.append(f"train {wanted.name} {epochs}")
        command, accuracy = f"rrr train {wanted.name}", self.validated.get(wanted.name)
        return Trained(Path("models") / wanted.name, epochs, command, self.now <= until, accuracy)

    def untrained(self, wanted: Candidate) -> Path:
        self.now += 5
        return Path("untrained") / wanted.name

    def build(self, wanted: Candidate, checkpoint: Path, target: str | None, *, trained: bool) -> Built:
        self.now += 140 if trained and wanted.name in self.trained_before else 20
        self.done.append(f"build {wanted.name}{'' if trained else ' untrained'}")
        if trained and wanted.name in self.refuses:
            raise CheckFailedError("accuracy falls by 9 points")
        path = Path("engines") / wanted.name
        if trained:
            self.engines[wanted.name] = path
        macs = 3_500 if wanted.method == "full" else 500
        return Built(path, target or "openvino-int8", 8, 8, macs, f"rrr build {wanted.name}", 20)

    def kept(self, wanted: Candidate) -> tuple[Path, str] | None:
        engine = self.engines.get(wanted.name)
        return None if engine is None else (engine, "openvino-int8")

    def in_turns(self, engines: Mapping[str, Path]) -> dict[str, dict[str, float]]:
        self.now += 3 * len(engines)
        self.done.append(f"turns {len(engines)}")
        return {name: {"median": self.times.get(name, 7.0)} for name in engines}

    def cost(self, wanted: Candidate) -> Cost:
        if wanted.name in self.trained_before:
            return Cost(0, 0)
        return Cost(10, 20) if wanted.name == OWN else Cost(10, 2)

    def test(self, model: Path) -> tuple[int, tuple[str, ...]]:
        return 100, tuple(f"{index}.png" for index in range(self.wrong.get(model.name, 9)))


def advising(
    folder: Path, shop: FakeShop, *, minutes: float = 10, members: tuple[int, ...] = (1, 4, 8), more: bool = False
) -> Advising:
    until = shop.now + minutes * MINUTE
    return Advising(read_rows(folder), shop, members=members, more=more, target=None, until=until)


def test_speed_is_measured_first_then_all_are_trained_and_the_best_once_more_with_a_teacher(tmp_path: Path) -> None:
    shop = FakeShop()
    run = advising(tmp_path, shop)
    run.run()
    assert shop.done[:6] == [
        "train own 0",
        "build own",
        *(f"build {name} untrained" for name in ("reduced", "members-4", "members-8")),
        "turns 4",
    ]
    trained = [step for step in shop.done if step.startswith("train") and step != "train own 0"]
    assert trained == [
        f"train {name} {trained[0].split()[-1]}" for name in ("reduced", "members-4", "members-8", "members-8-taught")
    ]
    assert shop.done[-1] == "turns 5"
    assert [one.name for one in run.table()] == [OWN, "reduced", "members-4", "members-8", "members-8-taught"]
    assert [one.times_as_fast for one in run.table()] == [
        1,
        10,
        8,
        pytest.approx(6.67, abs=0.01),
        pytest.approx(5.7, abs=0.02),
    ]
    assert shop.now <= 10 * MINUTE


@pytest.mark.parametrize(("fits", "slower"), [(True, 1.0), (False, 1.0), (True, 1.7), (False, 1.7), (True, 0.5)])
@pytest.mark.parametrize("minutes", [3, 6, 15])
def test_all_ends_within_the_minutes_and_the_step_that_runs(
    tmp_path: Path, fits: bool, slower: float, minutes: float
) -> None:
    shop = FakeShop(fits=fits, slower=slower)
    run = advising(tmp_path, shop, minutes=minutes, more=True)
    run.run()
    assert shop.now <= minutes * MINUTE + 20 + 3 * len(run.table()), "a build and the last turns"
    assert all(one.images or one.note for one in run.table()), "what is missing is told"


def test_ones_own_network_is_trained_where_its_classifier_does_not_fit_or_only_its_speed_is_compared(
    tmp_path: Path,
) -> None:
    shop = FakeShop(fits=False)
    run = advising(tmp_path / "long", shop, minutes=15)
    run.run()
    assert shop.done[0] == "build own untrained"
    assert next(step for step in shop.done if step.startswith("train")).startswith("train own ")
    assert run.table()[0].images == 100
    short = advising(tmp_path / "short", FakeShop(fits=False), minutes=3)
    short.run()
    assert short.table()[0].note == "not trained: there is not time for one epoch, so only its speed is compared"
    assert short.table()[0].times_as_fast == 1


def test_what_is_not_faster_is_not_trained(tmp_path: Path) -> None:
    shop = FakeShop()
    shop.times["members-8"] = 41.0
    run = advising(tmp_path, shop)
    run.run()
    assert run.rows.by_name["members-8"].note == "not trained: it is not faster than your network"
    assert not any(step.startswith("train members-8") for step in shop.done)


def test_validation_images_choose_the_network_that_is_taught(tmp_path: Path) -> None:
    shop = FakeShop()  # of which test images find members-8 the best
    shop.validated = {"reduced": 0.9, "members-4": 0.95, "members-8": 0.8}
    run = advising(tmp_path, shop)
    run.run()
    assert [name for name in run.rows.by_name if name.endswith("-taught")] == ["members-4-taught"]
    assert read_rows(tmp_path).by_name["members-4"].val_accuracy == 0.95


def test_a_network_that_is_no_more_accurate_teaches_nothing(tmp_path: Path) -> None:
    shop = FakeShop()
    shop.wrong[OWN] = 70
    run = advising(tmp_path, shop)
    run.run()
    assert run.notes == ["nothing was trained with a teacher: your network is no more accurate than members-8"]


def test_an_engine_that_the_gate_refuses_is_a_row_without_accuracy(tmp_path: Path) -> None:
    shop = FakeShop()
    shop.refuses = {"members-4"}
    run = advising(tmp_path, shop)
    run.run()
    refused = run.rows.by_name["members-4"]
    assert (refused.images, refused.note) == (0, "openvino-int8 is refused: accuracy falls by 9 points")
    assert recommend(run.table()[1:], run.table()[0], 5.0).name != "members-4"
    shop = FakeShop(fits=False)
    shop.refuses = {OWN}
    run = advising(tmp_path / "own", shop, minutes=15)
    run.run()
    assert run.table()[0].images == 100
    assert run.table()[0].note.startswith(
        "its accuracy is that of PyTorch, for openvino-int8 is refused: accuracy falls"
    )


def test_other_numbers_of_members_are_tried_where_there_is_time(tmp_path: Path) -> None:
    shop = FakeShop()
    run = advising(tmp_path, shop, minutes=30, more=True)
    run.run()
    assert [one.candidate.members for one in run.table()[1:]] == [1, 2, 4, 8, 8, 16]


def test_a_number_of_members_that_time_stopped_is_told_until_the_same_command_finishes_it(tmp_path: Path) -> None:
    shop = FakeShop()
    shop.late = "members-16"
    told = "not trained: the time ended before its last epoch; the same command again goes on"
    for minutes in (30.0, 2.0):  # the second has time for nothing
        run = advising(tmp_path, shop, minutes=minutes, more=True)
        run.run()
        assert (run.table()[-1].name, run.table()[-1].note) == ("members-16", told)
    shop.late = None
    run = advising(tmp_path, shop, minutes=30, more=True)
    run.run()
    assert (run.table()[-1].name, run.table()[-1].note, run.table()[-1].images) == ("members-16", "", 100)


def test_an_engine_of_what_was_trained_before_says_nothing_of_how_slow_trainings_are(tmp_path: Path) -> None:
    shop = FakeShop()
    shop.trained_before = {"reduced"}
    advising(tmp_path, shop, minutes=15).run()
    trained = [step.split()[1:] for step in shop.done if step.startswith("train ")]
    assert trained[1:] == [[name, "50"] for name in ("reduced", "members-4", "members-8", "members-8-taught")]


def test_ctrl_c_keeps_what_was_measured_and_the_same_again_goes_on(tmp_path: Path) -> None:
    shop = FakeShop()
    shop.stops_at = "members-4"
    first = advising(tmp_path, shop)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    kept = read_rows(tmp_path).by_name
    assert [name for name, one in kept.items() if one.images] == [OWN, "reduced"]
    assert kept["members-8"].times_as_fast == pytest.approx(6.67, abs=0.01)
    shop.stops_at, shop.done = None, []
    again = Advising(read_rows(tmp_path), shop, members=(1, 4, 8), more=False, target=None, until=shop.now + 600)
    again.run()
    assert {"own: kept, as it was measured before", "reduced: kept, as it was measured before"} <= set(shop.told)
    assert not {"train own 0", "build reduced"} & set(shop.done)
    assert all(one.images for one in again.table())


def test_rows_of_another_question_are_not_mixed(tmp_path: Path) -> None:
    asked = {"weights": "mine.pth, sha256 ab", "data": "cd", "target": None}
    settle_asked(tmp_path, asked)
    settle_asked(tmp_path, asked | {"target": "openvino-int8"})
    assert settle_asked(tmp_path, asked)["target"] == "openvino-int8"
    with pytest.raises(UsageError, match="data was cd, now ef; choose another --out"):
        settle_asked(tmp_path, asked | {"data": "ef"})
    with pytest.raises(UsageError, match="target was openvino-int8, now openvino-fp32"):
        settle_asked(tmp_path, asked | {"target": "openvino-fp32"})


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    rows.write(Row(Candidate("reduced", "reduced", 1)))
    (path,) = (tmp_path / "rows").iterdir()
    path.write_text(path.read_text().replace('"images"', '"pictures"'))
    with pytest.raises(ArtifactError, match=r"reduced\.json is no row of rrr advise"):
        read_rows(tmp_path)
