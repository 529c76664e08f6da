"""`rrr audit`: what answers give away about the images that a network was trained on."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rrrbuild.audit import attacks
from rrrbuild.audit.forms import best_only, forms, label_only
from rrrbuild.manifest import Manifest
from rrrnet.checkpoint import SPLIT, Arrays, Checkpoint, write_checkpoint
from rrrnet.data.dataset import read_dataset, split_dataset, write_split
from rrrnet.proportions import Interval, proportion
from rrrserve.cli import run

Capture = pytest.CaptureFixture[str]
Floats = npt.NDArray[np.float64]


def halves(images: int) -> npt.NDArray[np.bool_]:
    """The first half are members."""
    return np.arange(images) < images // 2


def test_pairs_that_are_all_told_apart_leave_no_privacy_and_an_interval_that_has_a_width() -> None:
    member, labels = halves(40), np.tile([0, 1], 20)
    found = attacks.pairs(member.astype(float), member, labels)
    assert found is not None
    assert (found.share.value, found.share.high, found.disjoint) == (1.0, 1.0, 20)
    assert found.share.low == pytest.approx(0.839, abs=1e-3)  # Wilson's limit of 20 of 20
    assert attacks.privacy(found.share) == pytest.approx((0.0, 0.0, 2 * (1 - found.share.low)))
    assert attacks.single_images(member.astype(float), member).value == 1.0


def test_scores_that_tell_nothing_give_one_half_within_the_interval_as_often_as_it_promises() -> None:
    """Of 300 draws of 60 images in 3 classes at least 93 % of the 95 % intervals hold 0.5."""
    random, member, labels = np.random.default_rng(1), halves(60), np.arange(60) % 3
    held: dict[str, list[bool]] = {"pairs": [], "single": []}
    values = []
    for _ in range(300):
        scores = random.normal(size=60)
        told_apart, single = attacks.pairs(scores, member, labels), attacks.single_images(scores, member)
        assert told_apart is not None
        held["pairs"].append(told_apart.share.low <= 0.5 <= told_apart.share.high)
        held["single"].append(single.low <= 0.5 <= single.high)
        values.append((told_apart.share.value, single.value))
    assert {name: float(np.mean(each)) >= 0.93 for name, each in held.items()} == {"pairs": True, "single": True}
    assert np.mean(values, axis=0) == pytest.approx([0.5, 0.5], abs=0.02)


def test_pairs_are_of_one_class_so_that_an_easy_class_is_no_membership() -> None:
    labels = np.repeat([0, 1], 20)
    member = np.tile([True, True, True, False], 10) ^ (labels == 1)  # three quarters of class 0, one of class 1
    scores = 1.0 - labels  # class 0 is easy
    found = attacks.pairs(scores, member, labels)
    assert found is not None
    assert (found.share.value, found.disjoint) == (0.5, 10)  # ties count one half
    assert attacks.single_images(scores, member).value == 0.75
    assert attacks.pairs(scores, labels == 0, labels) is None, "no class has images of both kinds"


def test_a_threshold_is_judged_on_images_that_did_not_choose_it() -> None:
    member = halves(8)
    assert attacks.best_threshold(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 2.5
    assert attacks.best_threshold(np.array([1.0]), np.array([2.0])) in (-np.inf, np.inf)
    scores = np.where(member, 1.0, 0.0)
    scores[0] = -5.0  # a member that no threshold of the other half finds
    assert attacks.single_images(scores, member).value == pytest.approx((3 / 4 + 1) / 2)


@pytest.mark.parametrize(("accuracy", "expected"), [(0.5, 1.0), (0.75, 0.5), (1.0, 0.0), (0.3, 1.0)])
def test_privacy_is_one_at_guessing_and_zero_where_every_pair_is_told_apart(accuracy: float, expected: float) -> None:
    assert attacks.privacy(Interval(accuracy, accuracy, accuracy)).value == pytest.approx(expected)


def test_utility_is_zero_at_guessing() -> None:
    assert attacks.utility(50, 100, 4).value == pytest.approx(1 / 3)
    assert attacks.utility(25, 100, 4).value == 0.0
    found = attacks.utility(100, 100, 4)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx((4 * proportion(100, 100, 0.05).low - 1) / 3, abs=1e-4)


def test_own_thresholds_find_what_one_threshold_for_all_images_cannot() -> None:
    """Images differ far more in difficulty than by membership; reference networks tell how hard each is."""
    random, member, labels = np.random.default_rng(2), halves(80), np.zeros(80, int)
    hard = random.uniform(0, 10, 80)
    trained = np.array([halves(80), ~halves(80)])
    losses = np.where(trained, hard, hard + 1)
    thresholds = attacks.own_thresholds(losses, trained, ~trained)
    assert thresholds == pytest.approx(hard + 0.5)
    loss = np.where(member, hard, hard + 1)
    alone, helped = attacks.pairs(-loss, member, labels), attacks.pairs(thresholds - loss, member, labels)
    assert alone is not None
    assert helped is not None
    assert (helped.share.value, alone.share.value < 0.7) == (1.0, True)
    unknown = attacks.own_thresholds(losses[:1], trained[:1], ~trained[:1])
    assert np.isnan(unknown).all(), "one network was trained on an image or was not, never both"


def test_an_attacker_who_is_told_less_shares_out_what_is_left() -> None:
    mean = np.array([[0.6, 0.25, 0.1, 0.05], [0.1, 0.1, 0.1, 0.7]])
    assert best_only(mean, 2)[0] == pytest.approx([0.6, 0.25, 0.075, 0.075])
    assert label_only(mean).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    told = forms(mean)
    assert [name for name in told if name.startswith("best")] == ["best 1 of 4"], "the best 5 would be all"
    assert told["1 digit"][0].tolist() == pytest.approx([0.6, 0.2, 0.1, 0.0])
    assert told["temperature 2"].argmax(axis=1).tolist() == [0, 3]


def audited(capsys: Capture, *words: str | Path) -> dict[str, object]:
    assert run(["audit", *map(str, words), "--json"]) == 0
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


def test_a_network_that_was_never_trained_gives_nothing_away(checkpoint: Checkpoint, capsys: Capture) -> None:
    document = audited(capsys, checkpoint.path)
    assert document["images"] == {"train": 12, "val": 0, "test": 12}
    assert document["pairs"] == 12
    rows = {row.pop("attack"): row for row in document["attacks"]}  # type: ignore[attr-defined]  # a list of rows
    assert rows.keys() == {"loss", "margin", "confidence", "entropy", "disagreement"}
    for row in rows.values():
        for key in ("pairs", "single_images"):
            assert row[key]["low"] <= 0.5 <= row[key]["high"]
    assert document["privacy"]["high"] == 1.0  # type: ignore[index]  # a share
    answers = [row["answer"] for row in document["answers"]]  # type: ignore[attr-defined]  # a list of rows
    assert answers[0] == "all probabilities"
    assert answers[-2:] == ["best 1 of 3", "label alone"]

    assert run(["audit", str(checkpoint.path)]) == 0
    printed = capsys.readouterr().out
    assert "duo (pytorch): 12 training images against 12 held out" in printed
    assert "these attacks found nothing, which is no proof that there is nothing to find" in printed
    assert f"next: rrr build {checkpoint.path}" in printed


@pytest.mark.nightly  # it may have to build the engine
def test_an_engine_is_audited_by_the_calibrated_probabilities_that_are_served(
    cascade_engine: Manifest, capsys: Capture
) -> None:
    document = audited(capsys, cascade_engine.path)
    assert (document["target"], document["pairs"]) == ("openvino-fp32", 12)
    assert run(["audit", str(cascade_engine.path)]) == 0
    assert f"next: rrr repository {cascade_engine.path} --out " in capsys.readouterr().out


def with_split(checkpoint: Checkpoint, data: Path, weights: Arrays, seed: int) -> Path:
    """The checkpoint as if it had been trained on another part of the data."""
    images = read_dataset(data)
    parts = split_dataset(images, seed=seed, test_fraction=0.5, val_fraction=0)
    write_split(checkpoint.path / SPLIT, images, parts)
    write_checkpoint(checkpoint, weights, checkpoint.path)
    return checkpoint.path


def test_reference_networks_give_thresholds_to_images_that_some_were_trained_on_and_some_not(
    make_checkpoint: Callable[..., Checkpoint],
    weights: Callable[..., Arrays],
    checkpoint: Checkpoint,
    data: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    made = [make_checkpoint(tmp_path / f"other{seed}", data=data) for seed in (1, 2)]
    others = [with_split(one, data, weights(one.architecture), seed) for seed, one in enumerate(made, 1)]
    document = audited(capsys, checkpoint.path, "--reference", others[0], "--reference", others[1])
    row = document["attacks"][-1]  # type: ignore[index]  # a list of rows
    assert row["attack"] == "loss, own thresholds"
    assert 0 < row["images"] < 24

    assert run(["audit", str(checkpoint.path), "--reference", str(others[0])]) == 2
    assert "none of the 1 was trained on an image of" in capsys.readouterr().err


def test_a_model_that_records_no_training_images_cannot_be_audited(
    make_checkpoint: Callable[..., Checkpoint], data: Path, checkpoint: Checkpoint, tmp_path: Path, capsys: Capture
) -> None:
    made = make_checkpoint(tmp_path / "imported")
    assert run(["audit", str(made.path), "--data", str(data)]) == 3
    assert "has no record of the images that it was trained on (split.csv)" in capsys.readouterr().err
    other = tmp_path / "other"
    for label in checkpoint.labels:
        (other / label).mkdir(parents=True)
        (other / label / "new.png").write_bytes((data / label / "0.png").read_bytes())
    assert run(["audit", str(checkpoint.path), "--data", str(other)]) == 2
    assert "records 0 training images and 0 held out ones of" in capsys.readouterr().err
