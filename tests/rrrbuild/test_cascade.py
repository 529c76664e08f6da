"""Cascades: some members answer alone where they agree, the rest are asked about what they leave open."""

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from rrrbuild import lazy, measure
from rrrbuild.build import build_engine
from rrrbuild.cascade import CascadeSearch
from rrrbuild.cascade_runner import AUTO, FAILED, FAST, FULL, LATE, NOT_ASKED, NOT_FINITE, USED, Cascade, settled
from rrrbuild.confidence import thresholds
from rrrbuild.cutting import cut_cascade, features_of
from rrrbuild.engine import load_engine, load_runner
from rrrbuild.export import export_onnx
from rrrbuild.heldout import HeldOut, unseen_images
from rrrbuild.job import BuildOrder
from rrrbuild.manifest import BatchRange, Manifest, read_engine, to_document
from rrrbuild.plan_runner import InLanes
from rrrbuild.targets import target_named
from rrrbuild.trust import Trust
from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import UsageError
from rrrnet.network.architecture import Architecture

BATCH = BatchRange(1, 2, 4)
Floats = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]


def rows(*winners: tuple[int, float]) -> Floats:
    """Probabilities of 3 classes: the winner's, the others share what is left. Shape (len(winners), 3)."""
    found = np.empty((len(winners), 3), np.float32)
    for row, (label, probability) in zip(found, winners, strict=True):
        row[:] = (1 - probability) / 2
        row[label] = probability
    return found


def test_an_image_is_settled_where_the_first_members_agree_with_enough_confidence_on_average() -> None:
    first = np.stack(
        [
            rows((1, 0.9), (1, 0.5)),  # 0.70 on average
            rows((1, 0.9), (1, 0.48)),  # 0.69
            rows((1, 0.99), (2, 0.99)),  # they disagree
            np.full((2, 3), np.nan, np.float32),
        ]
    )
    assert settled(first, 0.695).tolist() == [True, False, False, False]
    assert not settled(first, 1.01).any()


class Parts:
    """Two parts that remember what they were asked: 2 of 4 members first, which agree where the pixel is odd."""

    def __init__(self) -> None:
        self.asked: list[Sequence[int]] = []

    def first(self, images: Images) -> tuple[Floats, Any]:
        found = [rows((0, 0.9), (int(image.flat[0] % 2 == 0), 0.9)) for image in images]
        return np.stack(found), images

    def rest(self, features: Any, chosen: Sequence[int]) -> Floats:
        self.asked.append(list(chosen))
        return np.stack([rows((2, 0.8), (2, 0.7)) for _ in chosen])


def pixels(*values: int) -> Images:
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def test_only_the_undecided_images_of_a_batch_go_on_and_each_by_its_own_effort() -> None:
    parts = Parts()
    cascade = Cascade(parts.first, parts.rest, {"k": 2, "tau": 0.8, "order": [3, 1, 0, 2]})
    found = cascade.ask(pixels(1, 2, 1, 2), [AUTO, AUTO, FULL, FAST])

    assert parts.asked == [[1, 2]]
    assert cascade.status.tolist() == [
        [NOT_ASKED, USED, NOT_ASKED, USED],
        [USED] * 4,
        [USED] * 4,
        [NOT_ASKED, USED, NOT_ASKED, USED],
    ]
    assert np.isnan(found[0, [0, 2]]).all()
    assert found[1, 0].argmax() == 2  # the members keep their numbers
    assert found[0, 3].argmax() == 0
    assert np.isfinite(cascade(pixels(1, 1))).all()
    assert parts.asked[1:] == [[0, 1]]


def test_a_rest_that_sleeps_breaks_or_gives_nan_leaves_the_first_members_answer() -> None:
    parts, gate = Parts(), threading.Event()
    cascade = Cascade(parts.first, lambda *_: gate.wait(10) and None, {"k": 2, "tau": 0.8, "order": [0, 1, 2, 3]})  # type: ignore[arg-type]
    for _ in range(2):  # the second finds it asleep still and does not wait
        found = cascade.ask(pixels(2), [AUTO], time.monotonic() + 0.05)
        assert cascade.status.tolist() == [[USED, USED, LATE, LATE]]
        assert np.isnan(found[0, 2:]).all()
        assert np.isfinite(found[0, :2]).all()
    gate.set()
    assert cascade._under_way is not None
    cascade._under_way.result(10)

    def broken(*_: Any) -> Floats:
        raise RuntimeError("out of memory")

    cascade.rest = broken
    cascade.ask(pixels(2), [FULL], time.monotonic() + 5)
    assert cascade.status.tolist() == [[USED, USED, FAILED, FAILED]]

    cascade.rest = lambda *_: np.stack([np.stack([[np.nan] * 3, [0.2, 0.3, 0.5]])]).astype(np.float32)
    found = cascade.ask(pixels(2), [FULL])
    assert cascade.status.tolist() == [[USED, USED, NOT_FINITE, USED]]
    assert np.isfinite(found[0]).all(axis=1).tolist() == [True, True, False, True]


def test_members_side_by_side_that_sleep_or_fail_are_left_out_at_the_deadline_and_the_others_answer() -> None:
    gate = threading.Event()

    def member(index: int) -> Callable[[Any], Floats]:
        def run(features: Any) -> Floats:
            if index == 1:
                gate.wait(10)
            if index == 2:
                raise RuntimeError("broken")
            return np.full((1, 3), np.nan if index == 3 else 1 / 3, np.float32)

        return run

    lanes = InLanes(lambda images: images, [member(index) for index in range(6)], lanes=2)
    for _ in range(2):
        found = lanes.ask(pixels(0), [AUTO], time.monotonic() + 0.1)
        assert lanes.status.tolist() == [[USED, LATE, FAILED, NOT_FINITE, USED, USED]]
        assert np.isfinite(found[0, :, 0]).tolist() == [True, False, False, False, True, True]
    with pytest.raises(TimeoutError, match="members were late"):  # a deadline, which is no fault of the model
        InLanes(lambda images: images, [member(1)], lanes=1).ask(pixels(0), [AUTO], time.monotonic() + 0.05)
    gate.set()


def test_the_two_parts_of_a_graph_compute_what_the_whole_network_computes(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], four_members: Architecture, images: Images
) -> None:
    checkpoint = make_checkpoint(tmp_path / "quartet", four_members)
    whole = export_onnx(checkpoint, plan="merged", half=False)
    order = (2, 0, 3, 1)
    parts = cut_cascade(export_onnx(checkpoint, plan="cascade", half=False, groups=(order[:3], order[3:])), 3)

    def run(model: bytes, **inputs: Any) -> list[Any]:
        return list(ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs))

    first, features = run(parts["first"], images=images)
    (rest,) = run(parts["rest"], features=features)
    (expected,) = run(whole, images=images)
    assert (first.shape, rest.shape) == ((3, 3, 3), (3, 1, 3))
    assert np.abs(np.concatenate([first, rest], axis=1) - expected[:, order]).max() < 1e-6
    assert features_of(parts["first"])["shape"] == [-1, 512, 4, 4]
    operators = [node.op_type for node in onnx.load_from_string(parts["rest"]).graph.node]
    assert operators.count("Conv") == 9


def test_the_manifest_keeps_what_was_chosen_and_what_it_was_chosen_by(cascade_engine: Manifest) -> None:
    record = read_engine(cascade_engine.path).cascade
    assert record is not None
    assert cascade_engine.plan == "cascade"
    assert set(cascade_engine.files) >= {"first.xml", "first.bin", "rest.xml", "rest.bin"}
    assert sorted(record["order"]) == [0, 1, 2, 3]
    assert record["k"] in (2, 3)
    assert record["images"] == 120
    assert record["curve"][0] == {
        **record["curve"][0],
        "tau": 1.01,
        "share_early": 0.0,
        "drop_points": 0.0,
        "drop_counted_points": 0.0,
    }
    costs = record["cost_ms"]
    assert {name: set(row) for name, row in costs.items()} == {
        name: {"1", "2"} for name in ("first", "rest", "all", "expected")
    }
    share = record["share_early"]
    expected = thresholds.expected_cost_ms(
        {int(size): cost for size, cost in costs["first"].items()},
        {int(size): cost for size, cost in costs["rest"].items()},
        share,
    )
    assert costs["expected"]["2"] == pytest.approx(expected[2], abs=1e-3)
    assert {"accuracy", "nll"} == set(record["with"]) == set(record["without"])
    confidence = cascade_engine.confidence
    assert confidence is not None
    assert set(confidence.temperature) == set(confidence.scores) == {"fast", "auto", "full"}
    assert "--cascade " in f"{cascade_engine.command} "


def test_an_engine_asks_the_members_that_an_effort_says_and_leaves_nan_for_the_others(
    cascade_engine: Manifest, images: Images
) -> None:
    engine = load_engine(cascade_engine.path)
    assert cascade_engine.cascade is not None
    order, k = cascade_engine.cascade["order"], cascade_engine.cascade["k"]
    full, fast = engine(images, effort="full"), engine(images, effort="fast")

    assert np.isfinite(full).all()
    assert np.isnan(fast[:, order[k:]]).all()
    assert np.array_equal(fast[:, order[:k]], full[:, order[:k]])
    with pytest.raises(UsageError, match="--effort is 'most': allowed are fast, auto, full"):
        engine(images, effort="most")


def test_with_tau_above_1_the_answers_are_those_of_all_members(
    cascade_engine: Manifest, openvino_engine: Manifest, images: Images
) -> None:
    assert cascade_engine.cascade is not None
    never = replace(cascade_engine, cascade={**cascade_engine.cascade, "tau": 1.01})
    target = target_named("openvino-fp32")
    runner: Any = load_runner(cascade_engine.path, target, to_document(never), threads=None)
    engine = load_engine(cascade_engine.path)

    assert np.array_equal(runner.ask(images, [AUTO] * 3), engine(images, effort="full"))
    agreeing = {**cascade_engine.cascade, "tau": 0.0}
    eager: Any = load_runner(
        cascade_engine.path, target, to_document(replace(cascade_engine, cascade=agreeing)), threads=None
    )
    many = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    answered = np.concatenate([eager.ask(many[at : at + 4], [AUTO] * 4) for at in range(0, 40, 4)])
    early = np.isnan(answered).any(axis=(1, 2))
    assert np.array_equal(early, settled(engine(many, effort="full")[:, agreeing["order"][: agreeing["k"]]], 0.0))
    # Without a cascade every effort asks all.
    assert np.isfinite(load_engine(openvino_engine.path)(images, effort="fast")).all()


def test_all_members_are_timed_by_the_plan_that_is_the_fastest_for_each_batch_size(
    checkpoint: Checkpoint, openvino_engine: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[str, str, int]] = set()

    class Runtime:
        @staticmethod
        def load(folder: Path, manifest: Any, _: object) -> Callable[[Images], None]:
            return lambda few: asked.add((manifest["plan"], folder.name, len(few)))

    monkeypatch.setattr(lazy, "runtime", lambda _: Runtime)
    monkeypatch.setattr(measure, "_SECONDS_PER_SIZE", 0.0)
    order = BuildOrder(checkpoint, target_named("openvino-fp32"), BATCH, openvino_engine.path, 0.5, lambda _: None)
    images, parts = HeldOut(pixels(1, 2), np.array([0, 1]), "tests"), Parts()
    cascade = Cascade(parts.first, parts.rest, {"k": 2, "tau": 1.01, "order": [0, 1, 2, 3]})

    def timed(plan_by_batch: dict[str, str]) -> set[tuple[str, str, int]]:
        asked.clear()
        manifest = replace(openvino_engine, plan="merged", plan_by_batch=plan_by_batch)
        CascadeSearch(order, manifest, images, np.empty(0, np.float32), images, None, 0.1)._measure(cascade)
        return asked

    assert timed({}) == {("merged", "merged", 1), ("merged", "merged", 2)}
    assert timed({"1": "sequential", "2": "merged", "4": "merged"}) == {
        ("sequential", "sequential", 1),
        ("merged", "merged", 2),
    }


def test_where_there_is_nothing_to_choose_on_the_build_goes_on_without_and_says_why(openvino_engine: Manifest) -> None:
    assert openvino_engine.cascade is None
    assert openvino_engine.confidence is None
    assert openvino_engine.cascade_reason == openvino_engine.confidence_reason
    assert "--calibration-data DIR gives some" in openvino_engine.cascade_reason


def test_too_few_images_give_no_cascade_but_a_temperature(
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
    four_members: Architecture,
    data: Path,
    many_images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "_SECONDS_PER_SIZE", 0.02)
    checkpoint = make_checkpoint(tmp_path / "quartet", four_members, data=data)
    said: list[str] = []
    few = tmp_path / "few"
    for image in many_images.glob("*/[0-7].png"):
        (few / image.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, few / image.parent.name)
    wanted = Trust(calibration_data=few)
    engine = build_engine(
        checkpoint.path,
        "onnxruntime-fp32",
        batch=BATCH,
        out=tmp_path / "engine",
        images=4,
        trust=wanted,
        report=said.append,
    )
    assert engine.cascade is None
    assert "24 calibration images" in engine.cascade_reason
    assert "at least 100 are needed" in engine.cascade_reason
    assert f"no cascade: {engine.cascade_reason}" in said
    assert engine.confidence is not None
    assert engine.confidence.images == 24
    assert set(engine.confidence.temperature) == {"full"}
    assert f"--calibration-data {few}" in engine.command


def test_images_that_were_trained_or_tested_on_calibrate_nothing_whatever_folder_they_come_in(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], data: Path, many_images: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "duo", data=data)
    with pytest.raises(UsageError, match=r"trained or tested on every image of .*colours: give others"):
        unseen_images(checkpoint, None, data, limit=100)
    more = shutil.copytree(data, tmp_path / "more")
    next((more / "red").iterdir()).rename(more / "red" / "another name.png")
    shutil.copy(many_images / "red" / "99.png", more / "red")
    shutil.copy(many_images / "blue" / "0.png", more / "blue")  # of a name that was trained on, and another picture
    found = unseen_images(checkpoint, None, more, limit=100)
    assert len(found.images) == 2
    assert found.source == "all images but 23 that it was trained or tested on of more"
    moved = tmp_path / "moved"  # so that none of its images is where the checkpoint remembers it
    found = unseen_images(checkpoint, moved, more, limit=100)
    assert found.source == "all images (not compared with 24 of those, which are gone) of more"


def test_wishes_that_contradict_each_other_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--cascade runs members in a way of its own, and --plan is merged"):
        build_engine(tmp_path, "openvino-fp32", plan="merged", trust=Trust(cascade=True))
    with pytest.raises(UsageError, match="--cascade-max-drop is -1"):
        build_engine(tmp_path, "openvino-fp32", trust=Trust(max_drop=-1))
