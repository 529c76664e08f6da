"""What Triton finds in place of the repository where a quota leaves fewer cores than its native runtimes count."""

from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from rrrbuild.triton_config import read_config, write_config
from rrrnet.processor import Threads
from rrrserve.triton.models import link_models

CPU, GPU = pb.ModelInstanceGroup.KIND_CPU, pb.ModelInstanceGroup.KIND_GPU
# Name: backend, where it runs, threads that its configuration names.
MODELS = {
    "openvino": ("openvino", CPU, None),
    "onnx": ("onnxruntime", CPU, None),
    "onnx-64": ("onnxruntime", CPU, "64"),
    "onnx-1": ("onnxruntime", CPU, "1"),
    "onnx-gpu": ("onnxruntime", GPU, None),
    "own": ("python", CPU, None),
    "ensemble": ("", None, None),
}
PARAMETERS = {"openvino": "INFERENCE_NUM_THREADS", "onnxruntime": "intra_op_thread_count", "python": "threads"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, (backend, kind, threads) in MODELS.items():
        config = pb.ModelConfig(name=name, backend=backend, max_batch_size=8)
        if kind is not None:
            config.instance_group.add(count=1, kind=kind)
        if threads is not None:
            config.parameters[PARAMETERS[backend]].string_value = threads
        (tmp_path / "repository" / name / "1").mkdir(parents=True)
        (tmp_path / "repository" / name / "1" / "model.bin").write_text(name)
        write_config(config, tmp_path / "repository" / name / "config.pbtxt")
    (tmp_path / "repository" / "repository.json").write_text("{}")
    return tmp_path / "repository"


def threads_of(repository: Path) -> dict[str, str | None]:
    found = {}
    for name, (backend, _, _) in MODELS.items():
        parameters = read_config(repository / name / "config.pbtxt").parameters
        key = PARAMETERS.get(backend, "")
        found[name] = parameters[key].string_value if key in parameters else None
    return found


def test_native_models_on_the_cpu_get_no_more_threads_than_a_quota_leaves(repository: Path, tmp_path: Path) -> None:
    before = threads_of(repository)
    link_models(repository, tmp_path / "served", Threads(2, exact=True))

    changed = {"openvino": "2", "onnx": "2", "onnx-64": "2"}
    assert threads_of(tmp_path / "served") == before | changed
    assert {path.name for path in tmp_path.glob("served/*") if not path.is_symlink()} == set(changed)
    assert all((tmp_path / "served" / name / "1" / "model.bin").read_text() == name for name in MODELS)
    assert threads_of(repository) == before == {name: threads for name, (_, _, threads) in MODELS.items()}


@pytest.mark.parametrize("threads", [Threads(2, exact=False), Threads(64, exact=False)])
def test_without_a_quota_triton_finds_the_repository_itself(repository: Path, tmp_path: Path, threads: Threads) -> None:
    link_models(repository, tmp_path / "served", threads)
    assert (tmp_path / "served").readlink() == repository
