import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

import rrrbuild
import rrrnet
from rrrbuild.manifest import MANIFEST, Manifest, read_engine
from rrrbuild.repository import choose_backend, write_repository
from rrrbuild.repository_document import DOCUMENT, read_repository
from rrrbuild.targets import TARGETS
from rrrbuild.triton_config import model_config, warm_up_sizes
from rrrnet.checkpoint import Arrays
from rrrnet.errors import ArtifactError, IncompatibleError, UsageError

PYTHON = frozenset({"python"})
ALL = frozenset({"python", "openvino", "onnxruntime", "tensorrt"})


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, openvino_engine: Manifest) -> Path:
    out = tmp_path_factory.mktemp("repositories") / "repository"
    write_repository([openvino_engine.path], out, backends=PYTHON, threads=2)
    return out


def test_a_repository_holds_the_engine_its_manifest_and_the_python_backend(
    repository: Path, openvino_engine: Manifest
) -> None:
    version = repository / "duo" / "1"
    for name in (*openvino_engine.files, MANIFEST):
        assert (version / name).read_bytes() == (openvino_engine.path / name).read_bytes()
    assert "class TritonPythonModel" in (version / "model.py").read_text()
    assert "import openvino" in (version / "runtime.py").read_text()
    assert read_engine(version).files == openvino_engine.files  # the folder is a complete engine still
    assert (version / "__pycache__").is_file()  # no bytecode beside sealed files


def test_the_document_tells_a_server_all_that_it_needs(
    repository: Path, openvino_engine: Manifest, weights: Callable[..., Arrays]
) -> None:
    (model,) = read_repository(repository).models

    assert (model.name, model.version, model.target, model.backend) == ("duo", "1", "openvino-fp32", "python")
    assert (model.members, model.max_batch_size, model.image_size) == (2, 4, 32)
    assert model.labels == ("red", "green", "blue")
    assert model.preprocess == openvino_engine.preprocess
    assert model.outputs == ("probabilities",)
    trained = [array for name, array in weights(openvino_engine.architecture).items() if "running" not in name]
    assert model.parameters == sum(array.size for array in trained)
    assert model.macs == 15_013_248


def test_the_configuration_is_read_back_by_tritons_own_message(repository: Path) -> None:
    config = text_format.Parse((repository / "duo" / "config.pbtxt").read_text(), pb.ModelConfig())

    assert (config.name, config.backend, config.max_batch_size) == ("duo", "python", 4)
    (images,), (probabilities,) = config.input, config.output
    assert (images.name, images.data_type, list(images.dims)) == ("images", pb.TYPE_UINT8, [32, 32, 3])
    assert (probabilities.name, probabilities.data_type) == ("probabilities", pb.TYPE_FP32)
    assert list(probabilities.dims) == [2, 3]
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, pb.ModelInstanceGroup.KIND_CPU)
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.HasField("default_queue_policy")  # it makes Triton poll, twice a second
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert [(warm_up.batch_size, warm_up.count) for warm_up in config.model_warmup] == [(1, 1), (2, 1), (4, 1)]
    assert config.model_warmup[0].inputs["images"].random_data
    assert config.parameters["threads"].string_value == "2"
    assert config.version_policy.latest.num_versions == 1


def test_warm_up_meets_the_powers_of_two_and_the_largest_batch() -> None:
    assert warm_up_sizes(1) == [1]
    assert warm_up_sizes(32) == [1, 2, 4, 8, 16, 32]
    assert warm_up_sizes(12) == [1, 2, 4, 8, 12]


@pytest.mark.parametrize(
    ("target", "backend"),
    [
        ("openvino-bf16", "openvino"),
        ("onnxruntime-fp32", "onnxruntime"),
        ("tensorrt-fp16", "tensorrt"),
        ("openvino-fp32", "python"),  # the native one cannot be told to compute in FP32
        ("tensorrt-rtx-fp16", "python"),
    ],
)
def test_a_native_backend_is_used_where_the_server_has_one_that_fits(target: str, backend: str) -> None:
    assert choose_backend(TARGETS[target], ALL) == backend
    assert choose_backend(TARGETS[target], PYTHON) == "python"


def test_a_server_without_any_backend_that_fits_is_named() -> None:
    with pytest.raises(IncompatibleError, match=r"backend openvino or python, but this tritonserver has identity"):
        choose_backend(TARGETS["openvino-bf16"], frozenset({"identity"}))


def test_native_backends_get_precision_and_threads_by_their_own_names(openvino_engine: Manifest) -> None:
    def parameters(target: str, backend: str) -> dict[str, str]:
        config = model_config("m", openvino_engine, TARGETS[target], backend=backend, threads=3)
        return {key: value.string_value for key, value in config.parameters.items()}

    assert parameters("openvino-bf16", "openvino") == {
        "PERFORMANCE_HINT": "LATENCY",
        "HINT_BF16": "YES",
        "INFERENCE_NUM_THREADS": "3",
    }
    assert parameters("onnxruntime-fp32", "onnxruntime") == {"intra_op_thread_count": "3"}
    assert parameters("tensorrt-fp16", "tensorrt") == {}


def test_two_models_in_one_repository_keep_their_order_and_names(tmp_path: Path, openvino_engine: Manifest) -> None:
    written = write_repository(
        [openvino_engine.path, openvino_engine.path], tmp_path / "repository", backends=PYTHON, names=["b", "a"]
    )

    assert [model.name for model in written.models] == ["b", "a"]
    for name in ("a", "b"):
        config = text_format.Parse((written.path / name / "config.pbtxt").read_text(), pb.ModelConfig())
        assert config.name == name


def test_two_versions_of_one_model_are_two_models_of_triton(tmp_path: Path, openvino_engine: Manifest) -> None:
    written = write_repository(
        [openvino_engine.path] * 2, tmp_path / "repository", backends=PYTHON, names=["net@1", "net@12"]
    )
    assert [(model.name, model.version) for model in written.models] == [("net@1", "1"), ("net@12", "12")]
    assert [written.engine_folders(model) for model in written.models] == [
        [written.path / "net@1" / "1"],
        [written.path / "net@12" / "12"],
    ]
    with pytest.raises(UsageError, match="'net@new': a version is a whole number from 1, as in net@2"):
        write_repository([openvino_engine.path], tmp_path / "other", backends=PYTHON, names=["net@new"])


def test_two_engines_of_one_name_are_refused(tmp_path: Path, openvino_engine: Manifest) -> None:
    with pytest.raises(UsageError, match="are both named duo: a repository holds one") as caught:
        write_repository([openvino_engine.path] * 2, tmp_path / "repository", backends=PYTHON)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "x" * 65, "naïve"])
def test_names_that_a_path_or_url_could_not_hold_are_refused(
    name: str, tmp_path: Path, openvino_engine: Manifest
) -> None:
    with pytest.raises(UsageError, match="cannot be a model's name"):
        write_repository([openvino_engine.path], tmp_path / "repository", backends=PYTHON, names=[name])


def test_too_few_names_and_no_engines_are_refused(tmp_path: Path, openvino_engine: Manifest) -> None:
    with pytest.raises(UsageError, match="1 names are given for 2 engines"):
        write_repository([openvino_engine.path] * 2, tmp_path / "repository", backends=PYTHON, names=["a"])
    with pytest.raises(UsageError, match="no engines are given"):
        write_repository([], tmp_path / "repository", backends=PYTHON)


@pytest.mark.parametrize(
    "file", [DOCUMENT, "duo/config.pbtxt", "duo/1/model.py", "duo/1/runtime.py", "duo/1/model.bin"]
)
def test_a_flipped_byte_in_a_repository_is_refused_with_the_file_name(
    file: str, repository: Path, damaged: Callable[[Path, str], Path]
) -> None:
    with pytest.raises(ArtifactError, match=f"{file} was changed after it was written"):
        read_repository(damaged(repository, file))


def test_a_damaged_engine_does_not_get_into_a_repository(tmp_path: Path, openvino_engine: Manifest) -> None:
    engine = shutil.copytree(openvino_engine.path, tmp_path / "engine")
    (engine / "model.bin").write_bytes(b"")

    with pytest.raises(ArtifactError, match=r"model\.bin was changed"):
        write_repository([engine], tmp_path / "repository", backends=PYTHON)
    assert not (tmp_path / "repository").exists()


def test_a_folder_of_the_users_own_is_not_replaced(tmp_path: Path, openvino_engine: Manifest) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"precious")

    with pytest.raises(UsageError, match=r"photos exists and holds no repository\.json"):
        write_repository([openvino_engine.path], tmp_path / "photos", backends=PYTHON)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "stranger", ["stranger/1/model.py", "NAME/2/model.py", "NAME/1/triton_python_backend_utils.py"]
)
def test_a_file_that_the_seal_does_not_list_is_refused(repository: Path, tmp_path: Path, stranger: str) -> None:
    copy = shutil.copytree(repository, tmp_path / "copy")
    added = copy / stranger.replace("NAME", read_repository(copy).models[0].name)
    added.parent.mkdir(parents=True, exist_ok=True)
    added.touch()

    with pytest.raises(ArtifactError, match="which its seal does not list"):
        read_repository(copy)


# The only modules that need PyTorch, ONNX, a compiler, a runtime or Triton's client; others import them when needed.
HEAVY = {
    "rrrnet": (
        "inference network.backbone network.branches network.edges network.ensemble network.reduce "
        "network.resnet robust.attack robust.measure robust.sensitivity sweep.plan sweep.run sweep.runners "
        "sweep.training training.adapt training.augment training.balance training.budget training.devices "
        "training.distill training.fit training.options training.planning training.resuming training.settle "
        "training.teacher training.train training.training_state weights.importing weights.pretrained "
        "weights.start weights.state_dict weights.warm_start"
    ),
    "rrrbuild": (
        "activations advise.ask advise.own advise.workshop compile_openvino cutting exchange export graph qdq "
        "quantize repository runtime_onnxruntime runtime_openvino runtime_tensorrt sensitivity triton_combine "
        "triton_config triton_ensemble triton_model triton_tensorrt"
    ),
}


def test_reading_a_repository_and_all_but_a_few_modules_need_neither_torch_nor_a_compiler(
    repository: Path, run_python: Callable[[str], str]
) -> None:
    light = [
        module.name
        for package in (rrrnet, rrrbuild)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if module.name not in [f"{package.__name__}.{name}" for name in HEAVY[package.__name__].split()]
    ]
    named = {"rrrnet.training.fit", "rrrnet.commands.train", "rrrbuild.build", "rrrbuild.repository_document"}
    assert named - {*light} == {"rrrnet.training.fit"}
    imported = run_python(
        f"import sys; from pathlib import Path; import {', '.join(light)}; "
        f"rrrbuild.repository_document.read_repository(Path({str(repository)!r})); print(*sys.modules)"
    )

    packages = {name.partition(".")[0] for name in imported.split()}
    heavy = {"torch", "kornia", "matplotlib", "onnx", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda"}
    assert packages & (heavy | {"tritonclient", "grpc", "bentoml", "rrrserve"}) == set()
