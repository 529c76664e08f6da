"""model.py in the real tritonserver."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.grpc.aio import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from rrrbuild.compile_openvino import compile_engine
from rrrbuild.engine import load_engine
from rrrbuild.export import export_onnx
from rrrbuild.job import CompileJob
from rrrbuild.manifest import Manifest, write_manifest
from rrrbuild.repository import write_repository
from rrrbuild.targets import TARGETS
from rrrbuild.triton_config import read_config, write_config
from rrrnet.checkpoint import Arrays, Checkpoint
from rrrnet.errors import CheckFailedError, IncompatibleError
from rrrserve.triton.install import find_tritonserver
from rrrserve.triton.server import TritonServer

PYTHON = frozenset({"python"})
Answer = TypeVar("Answer")


def has_tritonserver() -> bool:
    try:
        find_tritonserver()
    except IncompatibleError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(not has_tritonserver(), reason="no tritonserver"),
]


def with_triton(repository: Path, ask: Callable[[InferenceServerClient], Awaitable[Answer]]) -> Answer:
    """Start the real server on a repository, wait until it is ready, ask, stop it."""

    async def main() -> Answer:
        server = TritonServer(repository, PYTHON)
        await server.start()
        ended = asyncio.create_task(server.wait())
        client = InferenceServerClient(server.url)
        try:
            while not await is_ready(client):
                if ended.done():
                    raise server.failure(ended.result())
                await asyncio.sleep(0.05)
            return await ask(client)
        finally:
            await client.close()
            await server.stop()
            await ended

    async def is_ready(client: InferenceServerClient) -> bool:
        try:
            return bool(await client.is_server_ready())
        except InferenceServerException:
            return False

    return asyncio.run(asyncio.wait_for(main(), 120))


async def infer(client: InferenceServerClient, name: str, images: npt.NDArray[np.uint8]) -> Any:
    tensor = InferInput("images", images.shape, "UINT8")
    tensor.set_data_from_numpy(images)
    return (await client.infer(name, [tensor])).as_numpy("probabilities")


def without_warm_up(path: Path) -> None:
    """Let Triton load a model that fails: the warm-up would meet that already, and Triton refuse the model."""
    config = read_config(path)
    del config.model_warmup[:]
    write_config(config, path)


def test_requests_that_triton_batches_get_their_own_rows_of_the_engines_answer(
    tmp_path: Path, openvino_engine: Manifest
) -> None:
    write_repository([openvino_engine.path], tmp_path / "repository", backends=PYTHON, threads=1)
    random = np.random.default_rng(5)
    requests = [random.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8) for size in (1, 2, 1, 1, 3, 1, 4, 1)]

    async def ask(client: InferenceServerClient) -> list[Any]:
        return list(await asyncio.gather(*(infer(client, "duo", images) for images in requests)))

    answers = with_triton(tmp_path / "repository", ask)

    engine = load_engine(openvino_engine.path)
    for images, answer in zip(requests, answers, strict=True):
        assert answer.shape == (len(images), 2, 3)
        assert np.abs(answer - engine(images)).max() < 1e-6
    assert not list((tmp_path / "repository").rglob("*.pyc"))


def test_a_cascade_answers_each_request_of_a_batch_by_its_own_effort_and_tells_which_members_it_asked(
    tmp_path: Path, cascade_engine: Manifest
) -> None:
    repository = write_repository([cascade_engine.path], tmp_path / "repository", backends=PYTHON, threads=1)
    (model,) = repository.models
    assert model.outputs == ("probabilities", "members_used", "member_status")
    assert model.cascade is not None
    order, k = list(model.cascade["order"]), model.cascade["k"]
    images = np.random.default_rng(5).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    efforts = ["fast", "full", "auto", "fast", "full", None]

    async def one(client: InferenceServerClient, image: npt.NDArray[np.uint8], effort: str | None) -> Any:
        tensor = InferInput("images", (1, 32, 32, 3), "UINT8")
        tensor.set_data_from_numpy(image[None])
        soon = {"deadline_us": int(1e6 * (time.time() + 20)), "quorum": 2}
        parameters = {} if effort is None else {"effort": effort, **soon}
        answer = await client.infer("quartet", [tensor], parameters=parameters)
        return [answer.as_numpy(name)[0] for name in model.outputs]

    async def ask(client: InferenceServerClient) -> list[Any]:
        return await asyncio.gather(
            *(one(client, image, effort) for image, effort in zip(images, efforts, strict=True))
        )

    answers = with_triton(repository.path, ask)

    everything = load_engine(cascade_engine.path)(images, effort="full")
    for (probabilities, used, status), effort, expected in zip(answers, efforts, everything, strict=True):
        asked = status == 0
        assert used.tolist() == [asked.sum()]
        assert np.isnan(probabilities[~asked]).all()
        assert np.abs(probabilities[asked] - expected[asked]).max() < 1e-6
        if effort == "fast":
            assert sorted(order[:k]) == np.flatnonzero(asked).tolist()
        if effort == "full":
            assert asked.all()


def test_each_request_of_a_batch_that_fails_gets_an_error_of_its_own_and_triton_lives_on(
    tmp_path: Path, openvino_engine: Manifest
) -> None:
    """An error that requests shared was freed by each of them, and tritonserver ended with SIGSEGV."""
    write_repository([openvino_engine.path], tmp_path / "repository", backends=PYTHON)
    without_warm_up(tmp_path / "repository" / "duo" / "config.pbtxt")
    # It takes a while, so that those behind the first request wait together and become one batch.
    broken = (
        "import time\n\ndef load(*_):\n    return run\n\ndef run(_):\n    time.sleep(0.003)\n    raise OSError(12)\n"
    )
    (tmp_path / "repository" / "duo" / "1" / "plan_runner.py").write_text(broken)
    image = np.zeros((1, 32, 32, 3), np.uint8)

    async def ask(client: InferenceServerClient) -> list[Any]:
        rounds = [(infer(client, "duo", image) for _ in range(16)) for _ in range(60)]
        return [error for each in rounds for error in await asyncio.gather(*each, return_exceptions=True)]

    errors = with_triton(tmp_path / "repository", ask)
    assert [str(error) for error in errors] == ["[StatusCode.INTERNAL] duo: the engine failed"] * 960


@pytest.mark.parametrize("file", ["model.bin", "manifest.json"])
def test_triton_refuses_a_model_whose_file_was_changed(
    file: str, tmp_path: Path, openvino_engine: Manifest, damaged: Callable[[Path, str], Path]
) -> None:
    write_repository([openvino_engine.path], tmp_path / "repository", backends=PYTHON)
    copy = damaged(tmp_path / "repository", f"duo/1/{file}")

    async def ask(client: InferenceServerClient) -> None:
        raise AssertionError("it must not become ready")

    with pytest.raises(CheckFailedError, match=r"could not load the model duo"):
        with_triton(copy, ask)


def test_an_answer_with_nan_becomes_an_error(
    tmp_path: Path,
    openvino_engine: Manifest,
    make_checkpoint: Callable[..., Checkpoint],
    weights: Callable[..., Arrays],
    checkpoint: Checkpoint,
) -> None:
    arrays = weights(checkpoint.architecture)
    arrays["members.1.fc.weight"][:] = 3e38  # overflows to infinity, which softmax turns into NaN
    overflowing = make_checkpoint(tmp_path / "overflowing", weights=arrays)
    engine = tmp_path / "engine"
    engine.mkdir()
    # `rrr build` would refuse this engine, so its folder is written by hand.
    model = export_onnx(overflowing, plan="sequential", half=False)
    compile_engine(CompileJob(model, engine, TARGETS["openvino-fp32"], openvino_engine.batch))
    write_manifest(dataclasses.replace(openvino_engine, path=engine), engine)
    write_repository([engine], tmp_path / "repository", backends=PYTHON)
    without_warm_up(tmp_path / "repository" / "duo" / "config.pbtxt")

    async def ask(client: InferenceServerClient) -> str:
        with pytest.raises(InferenceServerException) as caught:
            await infer(client, "duo", np.full((1, 32, 32, 3), 128, np.uint8))
        return str(caught.value)

    assert "duo: the engine's output holds NaN or infinity" in with_triton(tmp_path / "repository", ask)


def test_the_copied_files_import_nothing_of_ours(tmp_path: Path, openvino_engine: Manifest) -> None:
    write_repository([openvino_engine.path], tmp_path / "repository", backends=PYTHON)
    for file in ("model.py", "runtime.py", "plan_runner.py", "cascade_runner.py", "processor.py"):
        text = (tmp_path / "repository" / "duo" / "1" / file).read_text()
        imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
        assert not [line for line in imports if "rrr" in line]
