"""The same network in every plan: same outputs, fewer operators, zero-padded widths, and the choice between them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from rrrbuild import candidates, machine
from rrrbuild.build import build_engine
from rrrbuild.engine import Float32Array, Runner, load_engine
from rrrbuild.export import export_onnx
from rrrbuild.folding import fold_network
from rrrbuild.manifest import BatchRange
from rrrbuild.measure import measure_latency
from rrrbuild.merging import align_members, merge_members
from rrrbuild.plans import check_plan, fastest, plans_to_build, winners
from rrrbuild.targets import TARGETS, Plan
from rrrbuild.verify import compare, run_all
from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import CheckFailedError, UsageError
from rrrnet.images.preprocess import Preprocess
from rrrnet.inference import predictor
from rrrnet.network.architecture import REDUCED_BLOCKS, Architecture

BATCH = BatchRange(1, 2, 4)
Images = npt.NDArray[np.uint8]


def unaligned(members: int) -> Architecture:
    """No channel count inside a member is a multiple of 8: 5, 20, 11, 44."""
    return Architecture(3, REDUCED_BLOCKS, members, widths=(5, 11))


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Checkpoint]) -> list[Checkpoint]:
    """Unaligned ensembles of two and of three members."""
    folder = tmp_path_factory.mktemp("unaligned")
    return [make_checkpoint(folder / f"of{members}", unaligned(members)) for members in (2, 3)]


def run(model: bytes, images: Images) -> Any:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": images})[0]


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


@pytest.mark.parametrize("align", [1, 8, 16])
@pytest.mark.parametrize("plan", ["sequential", "merged"])
def test_every_plan_gives_what_pytorch_gives_whatever_its_padding(
    plan: str, align: int, networks: list[Checkpoint], images: Images
) -> None:
    for checkpoint in networks:
        expected = predictor(checkpoint)(images)

        found = run(export_onnx(checkpoint, plan=plan, half=False, align=align), images)

        assert found.shape == (3, checkpoint.architecture.members, 3)
        assert np.abs(found - expected).max() < 1e-5
        assert np.abs(expected[:, 0] - expected[:, 1]).max() > 0.05  # so the members' order was tested


def row(median: float) -> dict[str, float]:
    return {"median": median, "p25": 0.99 * median, "p75": 1.01 * median}


def test_every_plan_of_a_target_gives_what_its_sequential_one_gives(
    target: str, tmp_path: Path, networks: list[Checkpoint], data: Path, images: Images
) -> None:
    limit = 1e-5 if TARGETS[target].precision == "fp32" else TARGETS[target].tolerance.max_abs_error
    read_only = images.copy()
    read_only.setflags(write=False)  # as np.frombuffer gives them
    checkpoint, answers = networks[1], []
    for plan in ("sequential", "merged", "split"):
        out = tmp_path / plan
        manifest = build_engine(checkpoint.path, target, plan=plan, batch=BATCH, out=out, data=data, images=4)
        assert manifest.plan == plan
        assert list(manifest.latency_ms) == [plan]
        assert f"--plan {plan} " in manifest.command
        answers.append(load_engine(out, threads=2)(read_only))

    assert max(np.abs(answers[0] - answer).max() for answer in answers) < limit
    assert np.abs(answers[1] - predictor(checkpoint)(images)).max() < limit


def test_the_number_of_convolutions_of_the_merged_graph_does_not_depend_on_the_members(
    networks: list[Checkpoint],
) -> None:
    merged = [operators(export_onnx(checkpoint, plan="merged", half=False)) for checkpoint in networks]
    sequential = [operators(export_onnx(checkpoint, plan="sequential", half=False)) for checkpoint in networks]

    assert merged[0] == merged[1]
    assert merged[0].count("Conv") == 1 + 4 * 4 + 1  # stem, one block of each stage, classifiers
    assert [names.count("Conv") for names in sequential] == [9 + 2 * 8, 9 + 3 * 8]


def test_only_what_reads_the_stem_is_dense_in_the_merged_graph(networks: list[Checkpoint]) -> None:
    layers = merge_members(fold_network(networks[1]))

    assert {name for name, layer in layers.items() if layer.groups == 1} == {"layer3.0.conv1", "layer3.0.downsample.0"}
    assert {layer.groups for layer in layers.values()} == {1, 3}
    assert layers["layer3.0.downsample.0"].weight.shape == (3 * 20, 512, 1, 1)
    assert layers["layer4.0.conv2"].weight.shape == (3 * 11, 11, 3, 3)
    assert layers["fc"].weight.shape == (3 * 3, 44, 1, 1)


def test_padding_adds_zeros_behind_the_trained_weights_and_nothing_else(networks: list[Checkpoint]) -> None:
    network = fold_network(networks[0])
    padded = align_members(network, 8)

    assert padded.stem is network.stem
    for before, after in zip(network.members, padded.members, strict=True):
        for name, layer in before.items():
            out, into = layer.weight.shape[:2]
            wide = after[name].weight
            assert np.array_equal(wide[:out, :into], layer.weight)
            assert np.count_nonzero(wide) == np.count_nonzero(layer.weight)
            assert np.array_equal(after[name].bias[:out], layer.bias)
            assert not after[name].bias[out:].any()
            assert wide.shape[1] % 8 == 0
            assert wide.shape[0] == (3 if name == "fc" else -(-out // 8) * 8)
    assert padded.members[0]["layer4.0.conv1"].weight.shape == (16, 24, 1, 1)
    assert align_members(network, 1) is network


def test_the_half_precision_merged_graph_keeps_softmax_in_fp32(networks: list[Checkpoint], images: Images) -> None:
    model = export_onnx(networks[1], plan="merged", half=True, align=8)

    assert operators(model)[-4:] == ["Flatten", "Cast", "Reshape", "Softmax"]
    assert np.abs(run(model, images) - predictor(networks[1])(images)).max() < 0.02


@pytest.mark.skipif(machine.package_version("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.skipif(machine.gpu() is not None, reason="there is a GPU")
def test_auto_takes_sequential_and_says_why_where_nothing_can_be_measured(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    steps: list[str] = []
    manifest = build_engine(
        checkpoint.path, "tensorrt-rtx-fp16", batch=BATCH, out=tmp_path / "engine", report=steps.append
    )

    assert manifest.plan == "sequential"
    assert manifest.latency_ms == {}
    assert "taking plan sequential, for plans cannot be measured here" in steps
    assert "no NVIDIA GPU" in manifest.unverified_reason


def test_auto_keeps_the_plan_that_was_fastest_and_the_numbers_of_all(
    tmp_path: Path, checkpoint: Checkpoint, pretending: Callable[..., Any]
) -> None:
    sizes = {}
    for winner, medians in (
        ("sequential", {"sequential": 1.0, "merged": 2.0, "split": 3.0}),
        ("merged", {"sequential": 2.0, "merged": 1.0, "split": 3.0}),
    ):
        steps: list[str] = []
        out = tmp_path / winner
        with pretending({plan: [median] * 3 for plan, median in medians.items()}):
            manifest = build_engine(checkpoint.path, "onnxruntime-fp32", batch=BATCH, out=out, report=steps.append)

        assert manifest.plan == winner
        assert f"--plan {winner} " in manifest.command
        assert {plan: rows["4"]["median"] for plan, rows in manifest.latency_ms.items()} == medians
        assert f"plan {winner} is the fastest of sequential, merged, split" in steps
        assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "model.onnx", "split.csv"]
        sizes[winner] = operators((out / "model.onnx").read_bytes()).count("Conv")
    assert sizes == {"sequential": 25, "merged": 18}


def test_auto_leaves_out_a_plan_that_fails_and_says_why(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []

    def merged_fails(*arguments: Any, **options: Any) -> dict[str, Any]:
        judged.append(1)
        if len(judged) == 2:
            raise CheckFailedError("accuracy falls by 9 percentage points")
        return compare(*arguments, **options)

    def split_breaks(*arguments: Any) -> Any:
        if len(judged) == 2:
            raise MemoryError("no room")
        return run_all(*arguments)

    monkeypatch.setattr(candidates, "compare", merged_fails)
    monkeypatch.setattr(candidates, "run_all", split_breaks)
    steps: list[str] = []
    manifest = build_engine(
        checkpoint.path, "onnxruntime-fp32", batch=BATCH, out=tmp_path / "engine", report=steps.append
    )

    assert "merged" not in manifest.kept_plans
    assert list(manifest.latency_ms) == ["sequential"]
    assert "plan merged is left out: accuracy falls by 9 percentage points" in steps
    assert "plan split is left out: it cannot be built or run: MemoryError: no room" in steps


def test_the_fastest_plan_has_the_smallest_geometric_mean_over_the_batch_sizes() -> None:
    def rows(*medians: float) -> dict[str, dict[str, float]]:
        return {str(size): {"median": median} for size, median in enumerate(medians, 1)}

    # 2 x 40 < 3 x 30, although the sum of the first is larger
    assert fastest({"sequential": rows(3, 30), "merged": rows(2, 40)}) == "merged"
    assert fastest({"sequential": rows(2, 40), "merged": rows(3, 30)}) == "sequential"
    assert fastest({"sequential": rows(2, 40), "merged": rows(4, 20)}) == "sequential"


def test_another_plan_gets_a_batch_size_only_where_it_is_clear_of_noise() -> None:
    def table(**plans: tuple[float, float]) -> dict[str, dict[str, dict[str, float]]]:
        return {plan: {"1": row(one), "8": row(eight)} for plan, (one, eight) in plans.items()}

    assert winners(table(sequential=(2.0, 10.0), merged=(1.9, 9.0))) == ("merged", {})
    assert winners(table(sequential=(1.0, 10.0), merged=(1.2, 8.0))) == (
        "merged",
        {"1": "sequential", "8": "merged"},
    )
    assert winners(table(sequential=(1.0, 10.0), merged=(1.02, 8.0))) == ("merged", {})  # 2 % is not enough
    noisy = table(sequential=(1.0, 10.0), merged=(1.2, 8.0))
    noisy["sequential"]["1"]["p75"] = 1.3  # nor is a median whose calls overlap the other's
    assert winners(noisy) == ("merged", {})
    # the second best at every size is kept for none
    assert winners(table(sequential=(1.0, 10.0), merged=(2.0, 4.9), split=(1.1, 5.5))) == (
        "merged",
        {"1": "sequential", "8": "merged"},
    )


def test_plans_are_called_in_turns_after_a_warm_up_of_each() -> None:
    calls: list[str] = []

    def runner(name: str) -> Runner:
        def call(images: Images) -> Float32Array:
            calls.append(f"{name}{len(images)}")
            return np.zeros((len(images), 1, 2), np.float32)

        return call

    measured = measure_latency({name: runner(name) for name in "ab"}, Preprocess(32), (1, 2))

    rounds, rest = divmod(int(measured["a"]["1"]["runs"]), 2)
    assert rest == 0
    assert 2 * rounds == measured["b"]["1"]["runs"] >= 6
    ones = [call for call in calls if call.endswith("1")]
    turn = ["a1"] * 3 + ["b1"] * 3  # of three calls in a row two count
    assert ones == turn + turn * rounds
    assert calls == ones + [call for call in calls if call.endswith("2")]


@pytest.mark.parametrize("target", list(TARGETS))
def test_sequential_comes_first_and_a_plan_is_either_there_or_lacking_with_a_reason(target: str) -> None:
    row = TARGETS[target]
    plans = [plan.name for plan in row.plans]

    assert plans[:2] == ["sequential", "merged"]
    assert {*plans, *row.lacks} == {"sequential", "merged", "streams", "split"}
    assert ("streams" in plans) == row.on_gpu
    assert plans_to_build("auto", row, unaligned(2)) == row.plans
    assert plans_to_build("merged", row, unaligned(2)) == row.plans[1:2]
    assert all(plan.align in (8, 16, 32) for plan in row.plans)


def test_a_wrong_plan_name_is_refused_with_all_that_are_allowed() -> None:
    target = TARGETS["openvino-fp32"]
    check_plan("auto", target)
    check_plan("merged", target)
    with pytest.raises(
        UsageError, match="plan 'fused' is not one of openvino-fp32: allowed are auto, sequential, merged, split"
    ):
        check_plan("fused", target)
    with pytest.raises(UsageError, match=r"allowed are auto, sequential$"):
        check_plan("merged", replace(target, plans=(Plan("sequential"),)))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("openvino-bf16", "OpenVINO's streams run several requests side by side, not the branches of one"),
        ("onnxruntime-fp32", "gives a graph on the CPU one stream"),
    ],
)
def test_a_plan_that_a_target_cannot_express_is_refused_with_the_reason(target: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"plan 'streams' cannot be expressed for {target}: .*{reason}") as caught:
        check_plan("streams", TARGETS[target])
    assert caught.value.exit_code == 2
    assert str(caught.value).endswith("allowed are auto, sequential, merged, split")


def test_one_member_has_nothing_to_merge(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], one_member: Architecture
) -> None:
    assert [plan.name for plan in plans_to_build("auto", TARGETS["openvino-bf16"], one_member)] == ["sequential"]

    single = make_checkpoint(tmp_path / "single", one_member)
    with pytest.raises(UsageError, match=r"has 1 member.* same as sequential: allowed are auto, sequential$") as caught:
        build_engine(single.path, "openvino-fp32", plan="merged", out=tmp_path / "engine")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "engine").exists()
