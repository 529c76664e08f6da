import pytest

from rrrbuild import machine
from rrrbuild.manifest import BatchRange
from rrrbuild.targets import TARGETS, build_obstacle, int8_kernels, run_obstacle, target_named
from rrrnet.errors import UsageError
from rrrnet.installing import install_line


def test_the_table_has_the_nine_targets() -> None:
    assert list(TARGETS) == [
        "openvino-fp32",
        "openvino-bf16",
        "openvino-int8",
        "onnxruntime-fp32",
        "onnxruntime-int8",
        "tensorrt-fp16",
        "tensorrt-int8",
        "tensorrt-rtx-fp16",
        "tensorrt-rtx-int8",
    ]
    assert {name for name, target in TARGETS.items() if target.on_gpu} == {*list(TARGETS)[5:]}
    assert {target.files[0] for target in TARGETS.values() if target.on_gpu} == {"model.plan"}


def test_fp32_must_agree_to_a_thousandth_and_bf16_on_98_percent_of_labels() -> None:
    for name in ("openvino-fp32", "onnxruntime-fp32"):
        assert TARGETS[name].tolerance.max_abs_error == 1e-3
        assert TARGETS[name].tolerance.min_label_agreement == 0.995
    assert TARGETS["openvino-bf16"].tolerance.min_label_agreement == 0.98


def test_an_unknown_target_is_refused_with_all_that_are_allowed() -> None:
    with pytest.raises(UsageError, match="unknown target 'openvino': allowed are openvino-fp32, openvino-bf16"):
        target_named("openvino")


def test_a_missing_runtime_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    expected = f"the Python package tensorrt is not installed: {install_line('tensorrt')}"
    assert build_obstacle(TARGETS["tensorrt-fp16"]) == expected
    assert run_obstacle(TARGETS["tensorrt-fp16"]) == expected


def test_tensorrt_needs_a_gpu_to_build_and_tensorrt_rtx_only_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "missing_package", lambda module, extra: None)
    monkeypatch.setattr(machine, "gpu", lambda: None)
    assert "no NVIDIA GPU" in str(build_obstacle(TARGETS["tensorrt-fp16"]))
    assert build_obstacle(TARGETS["tensorrt-rtx-fp16"]) is None
    assert "no NVIDIA GPU" in str(run_obstacle(TARGETS["tensorrt-rtx-fp16"]))


@pytest.mark.parametrize(
    ("features", "kernels"),
    [
        ({"avx2"}, "avx2"),
        ({"avx2", "avx512f"}, "avx512f"),
        ({"avx2", "avx_vnni"}, "exact"),
        ({"avx2", "avx512f", "avx512_vnni"}, "exact"),
        ({"asimd"}, "asimd"),
        ({"asimd", "asimddp"}, "exact"),
        (set(), "unknown"),
    ],
)
def test_int8_is_exact_with_vnni_or_dot_products_and_else_named_by_its_vectors(
    features: set[str], kernels: str
) -> None:
    assert int8_kernels(features) == kernels


def test_bf16_names_the_cpu_features_that_it_needs_and_int8_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset({"avx512f"}))
    assert "none of avx512_bf16, amx_bf16" in str(run_obstacle(TARGETS["openvino-bf16"]))
    assert "leave --target out" in str(run_obstacle(TARGETS["openvino-bf16"]))
    assert run_obstacle(TARGETS["openvino-int8"]) is run_obstacle(TARGETS["onnxruntime-int8"]) is None
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset({"amx_bf16"}))
    assert run_obstacle(TARGETS["openvino-bf16"]) is None


def test_masked_features_count_as_absent_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(machine.MASK_VARIABLE, raising=False)
    found = machine.cpu_features()
    assert found
    one, *others = sorted(found)
    monkeypatch.setenv(machine.MASK_VARIABLE, f"{one}, avx512_of_tomorrow")
    assert machine.cpu_features() == set(others)
    assert machine.describe()["cpu_features"] == others


def test_int8_cannot_be_built_without_onnx_runtime_which_calibrates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "missing_package", lambda module, extra: "x" if module == "onnxruntime" else None)
    assert build_obstacle(TARGETS["tensorrt-rtx-int8"]) == "INT8 is calibrated with ONNX Runtime: x"
    assert build_obstacle(TARGETS["tensorrt-rtx-fp16"]) is None


@pytest.mark.parametrize(
    "text", ["", "8", "1,8", "1,8,x", "1,8,32,64", "1,-8,32", "1,8,4", "2,8,32", "1,8,257", "0,1,2"]
)
def test_batch_sizes_other_than_three_ascending_from_one_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"e\.g\. --batch 1,8,32"):
        BatchRange.parse(text)


def test_batch_sizes_are_read_and_repeated_ones_counted_once() -> None:
    assert BatchRange.parse("1, 8,8") == BatchRange(1, 8, 8)
    assert BatchRange(1, 8, 8).sizes() == (1, 8)


def test_this_machine_is_described_for_the_manifest() -> None:
    found = machine.describe()
    assert found["cpu"]
    assert set(found) == {"cpu", "cpu_features", "gpu"}
