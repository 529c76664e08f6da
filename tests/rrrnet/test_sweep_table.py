"""What cells say together: intervals, wins, ranks, differences."""

from pathlib import Path
from typing import Any

import pytest

from rrrnet.errors import ArtifactError
from rrrnet.sweep import markdown, plot
from rrrnet.sweep.cells import Cell
from rrrnet.sweep.table import critical_difference, summarise, t_interval

ACCURACY = {  # by data set and method, of seeds 0 and 1
    ("thai", "full"): (0.90, 0.94),
    ("thai", "reduced"): (0.80, 0.82),
    ("thai", "ensemble"): (0.92, 0.92),
    ("tamil", "full"): (0.70, 0.70),
    ("tamil", "reduced"): (0.60, 0.64),
    ("tamil", "ensemble"): (0.66, 0.66),
}


def document(accuracy: float, **others: Any) -> dict[str, Any]:
    fixed = {"nll": 0.5, "ece": 0.1, "seconds": 10.0, "epochs": 3, "lr": 1e-3, "size": 64}
    costs = {"parameters": 8e6, "macs": 1e8, "data_sha256": "same"}
    return {"accuracy": accuracy, "correct": round(100 * accuracy), "images": 100, **fixed, **costs, **others}


def results() -> dict[Cell, dict[str, Any]]:
    return {
        Cell(dataset, method, seed): document(value)
        for (dataset, method), values in ACCURACY.items()
        for seed, value in enumerate(values)
    }


def test_an_interval_is_students_t_and_one_value_has_none() -> None:
    found = t_interval([1.0, 2.0, 3.0])
    assert (found["n"], found["mean"]) == (3, 2.0)
    assert found["high"] - 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)  # t of 2 degrees of freedom
    assert t_interval([0.5]) == {"n": 1, "mean": 0.5, "low": None, "high": None}


def test_wins_are_shared_by_equals_and_ranks_are_averages_over_data_sets() -> None:
    summary = summarise(results(), order=("full", "reduced", "ensemble"))
    assert [(row["method"], row["wins"], row["rank"]) for row in summary["methods"]] == [
        ("full", 2, 1.25),  # 0.92 on thai, as the ensemble
        ("reduced", 0, 3.0),
        ("ensemble", 1, 1.75),
    ]
    assert summary["ranks"]["friedman_p"] == pytest.approx(0.156, abs=0.001)


def test_a_difference_is_over_pairs_and_over_data_sets() -> None:
    found = {(row["of"], row["less"]): row for row in summarise(results())["differences"]}
    assert found.keys() == {("reduced", "full"), ("ensemble", "full"), ("ensemble", "reduced")}
    row = found["ensemble", "full"]
    assert row["by_dataset"] == {"tamil": pytest.approx(-0.04), "thai": pytest.approx(0.0)}
    assert (row["over_pairs"]["n"], row["over_datasets"]["n"]) == (4, 2)
    assert row["over_pairs"]["mean"] == row["over_datasets"]["mean"] == pytest.approx(-0.02)


def test_what_was_taught_is_compared_with_what_was_not_and_its_ensemble_with_its_one_branch() -> None:
    taught = {Cell("thai", f"{method}-taught", 0): document(0.95) for method in ("reduced", "ensemble")}
    alone = {cell: found for cell, found in results().items() if cell.method == "full"} | taught
    assert compared(alone) == {
        ("reduced-taught", "full"),
        ("ensemble-taught", "full"),
        ("ensemble-taught", "reduced-taught"),
    }
    assert compared(results() | taught) - compared(alone) - compared(results()) == {
        ("reduced-taught", "reduced"),
        ("ensemble-taught", "reduced"),
        ("ensemble-taught", "ensemble"),
    }


def compared(cells: dict[Cell, dict[str, Any]]) -> set[tuple[str, str]]:
    return {(row["of"], row["less"]) for row in summarise(cells)["differences"]}


def test_a_data_set_that_lacks_cells_counts_neither_for_ranks_nor_for_wins() -> None:
    cells = results()
    del cells[Cell("thai", "full", 1)]
    summary = summarise(cells)
    assert (summary["complete"], summary["incomplete"]) == (["tamil"], ["thai"])
    assert summary["ranks"]["critical_difference"] is None
    assert "Without thai, where cells are missing." in markdown.tables(summary)


def test_cells_of_a_data_set_that_has_changed_are_refused() -> None:
    changed = {Cell("thai", "full", 2): document(0.9, data_sha256="other")}
    with pytest.raises(ArtifactError, match="thai/full-seed2 was trained on other images"):
        summarise(results() | changed)


def test_the_critical_difference_is_nemenyis() -> None:
    # Demsar (2006), section 3.2.3: 4 classifiers on 14 data sets, q = 2.569.
    assert critical_difference(4, 14) == pytest.approx(2.569 * (4 * 5 / (6 * 14)) ** 0.5, abs=1e-3)


def test_the_table_in_markdown_has_a_row_for_each_data_set() -> None:
    text = markdown.tables(summarise(results(), order=("full", "reduced", "ensemble")))
    assert "| data set | full | reduced | ensemble |" in text
    assert "| tamil | 70.0 (2; 70.0 to 70.0) | 62.0 (2; 36.6 to 87.4) | 66.0 (2; 66.0 to 66.0) |" in text
    assert "| ensemble - reduced | +7.5 (4; " in text


def test_a_bar_joins_what_the_critical_difference_does_not_tell_apart() -> None:
    assert plot.groups([1.0, 1.5, 2.9, 3.2], 1.0) == [(0, 1), (2, 3)]
    assert plot.groups([1.0, 1.5, 2.2], 1.3) == [(0, 2)]
    assert plot.groups([1.0, 3.0], 1.0) == []


def test_the_plot_is_an_svg_and_there_is_none_without_ranks(tmp_path: Path) -> None:
    path = tmp_path / "sweep.svg"
    assert plot.draw(summarise(results()), path)
    assert path.read_text().startswith("<?xml")
    alone = {cell: found for cell, found in results().items() if cell.dataset == "thai"}
    assert not plot.draw(summarise(alone), tmp_path / "none.svg")
