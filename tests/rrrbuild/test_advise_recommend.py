"""What `rrr advise` recommends, how sure it is, and its table."""

import pytest

from rrrbuild.advise.plan import OWN, Candidate
from rrrbuild.advise.recommend import accuracy, difference, recommend, visible_points
from rrrbuild.advise.rows import Row
from rrrbuild.advise.table import document, lines_of, table_of


def row(name: str, *, faster: float | None = None, wrong: int = 0, images: int = 100, from_image: int = 0) -> Row:
    """A measured network that answers some images in a row wrongly."""
    names = tuple(f"{index}.png" for index in range(from_image, from_image + wrong))
    speed = None if faster is None else {"median": 40 / faster}
    return Row(
        Candidate(name, "ensemble", 4),
        parameters=8_000_000,
        macs=500_000_000,
        engine_bytes=8_000_000,
        speed=speed,
        times_as_fast=faster,
        epochs=20,
        images=images,
        wrong=names,
        command=f"rrr train --out {name}",
    )


# What is recommended


def test_accuracies_are_compared_image_by_image() -> None:
    own, other = row(OWN, wrong=5), row("members-4", wrong=5, from_image=2)
    assert [round(figure, 3) for figure in accuracy(own)[:3]] == [0.95, 0.888, 0.978]  # Wilson
    found = difference(other, own)
    assert found.value == 0
    # The same number of mistakes on other images is less sure than on the same ones.
    same = difference(row("members-8", wrong=5), own)
    assert found.high - found.low > 2 * (same.high - same.low) > 0


@pytest.mark.parametrize(("images", "points"), [(12, 33), (36, 14), (100, 5), (1000, 0.5)])
def test_few_images_show_only_large_differences(images: int, points: float) -> None:
    assert visible_points(images) == pytest.approx(points, abs=0.6)


def test_the_fastest_that_is_shown_to_be_good_enough_is_recommended() -> None:
    own = row(OWN, faster=1, wrong=50, images=2000)
    rows = [
        row("reduced", faster=9, wrong=160, images=2000),
        row("members-4", faster=8, wrong=53, images=2000),
        row("members-8", faster=7, wrong=52, images=2000),
    ]
    advice = recommend(rows, own, 1.0)
    assert (advice.name, advice.sure) == ("members-4", True)
    assert advice.why.startswith(
        "members-4, 8.0 times as fast as your network, loses no more than 1 point of accuracy: -0.1 "
    )


def test_of_several_networks_one_is_surely_good_enough_only_if_that_is_no_chance_among_them() -> None:
    own = row(OWN, faster=1, wrong=50, images=2000)
    good = row("members-8", faster=7, wrong=55, images=2000, from_image=20)
    bad = [row(f"members-{number}", faster=9, wrong=400, images=2000) for number in range(10, 14)]
    low = difference(good, own, 0.05 / 5).low
    assert difference(good, own).low >= -1 > low
    assert recommend([good], own, 1.0).sure
    among = recommend([good, *bad], own, 1.0)
    assert (among.name, among.sure) == ("members-8", False)
    assert f"-0.2 points ({low:+.1f} to " in among.why


def test_nothing_is_sure_where_ones_own_network_was_trained_on_test_images() -> None:
    own = row(OWN, faster=1, wrong=50, images=2000)
    advice = recommend([row("members-8", faster=7, wrong=52, images=2000)], own, 1.0, flattered=True)
    assert (advice.name, advice.sure) == ("members-8", False)
    assert advice.why.endswith("; that is not sure, for your network was trained on some of the test images")


def test_what_seems_good_enough_is_recommended_with_what_cannot_be_seen() -> None:
    own = row(OWN, faster=1, wrong=1, images=12)
    advice = recommend([row("reduced", faster=9, wrong=1, images=12, from_image=5)], own, 1.0)
    assert (advice.name, advice.sure) == ("reduced", False)
    assert "seems to lose no more than 1 point" in advice.why
    assert "12 test images: differences below 33 points cannot be seen" in advice.why


def test_where_nothing_is_good_enough_or_faster_ones_own_network_is_kept() -> None:
    own = row(OWN, faster=1, wrong=2)
    advice = recommend([row("reduced", faster=9, wrong=30), row("members-8", faster=7, wrong=20)], own, 1.0)
    assert (advice.name, advice.sure) == (OWN, True)
    assert "nothing faster comes within 1 point of it. The nearest is members-8, 7.0 times as fast" in advice.why
    assert (
        recommend([row("members-256", faster=0.9)], own, 1.0).why
        == "keep your network: nothing that was tried is faster"
    )


def test_without_an_accuracy_of_ones_own_the_most_accurate_is_told_and_without_any_nothing_is() -> None:
    unknown = row(OWN, faster=1, images=0)
    advice = recommend([row("reduced", faster=9, wrong=30), row("members-8", faster=7, wrong=20)], unknown, 1.0)
    assert (advice.name, advice.sure) == ("members-8", False)
    assert "how good your network is on these images is not known" in advice.why
    assert recommend([row("reduced", faster=9, images=0)], unknown, 1.0).name is None


def test_the_table_and_its_json_have_every_row_with_its_command() -> None:
    own, other, untrained = row(OWN, faster=1, wrong=5), row("members-4", faster=8, wrong=6), row("members-8", images=0)
    untrained.note, untrained.epochs, untrained.command = "not trained: no time was left", None, ""
    rows = [own, other, untrained]
    table = table_of(rows, "openvino-int8")
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == [OWN, "members-4", "members-8"]
    assert cells[1] == ["95.0 (88.8 to 97.8)", "94.0 (87.5 to 97.2)", ""]
    assert str(cells[2][1]).startswith("-1.0 (")
    assert cells[4] == ["", "8.0x", ""]
    assert lines_of(rows, []) == [
        "members-8: not trained: no time was left",
        "each row again:",
        "own: rrr train --out own",
        "members-4: rrr train --out members-4",
    ]
    told = document(rows, "openvino-int8", recommend(rows[1:], own, 1.0), [])
    assert [entry["accuracy"] and entry["accuracy"]["value"] for entry in told["rows"]] == [0.95, 0.94, None]
    assert told["rows"][1]["points_to_own"]["value"] == pytest.approx(-1)
