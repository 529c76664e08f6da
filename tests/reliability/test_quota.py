"""A real quota of one CPU: all that starts threads starts as few as on one core, and `rrr doctor` tells of it."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.service import RRR, Service
from rrrbench.cgroups import quota
from rrrbuild.build import build_engine
from rrrbuild.manifest import BatchRange
from rrrnet import processor
from rrrnet.checkpoint import Checkpoint
from rrrnet.errors import CheckFailedError

pytestmark = pytest.mark.nightly
# Threads of a process that has run an engine, with so many threads for one inference or by its own choice.
ENGINE = """
import sys
import numpy as np, psutil
from pathlib import Path
from rrrbuild.engine import load_engine
engine = load_engine(Path(sys.argv[1]), threads=int(sys.argv[2]) if len(sys.argv) > 2 else None)
engine(np.zeros((4, 32, 32, 3), np.uint8))
print(psutil.Process().num_threads())
"""
# What parts that start their threads later would start.
OTHERS = """
import json, torch
from rrrnet.training.threads import configure_threads
from rrrserve.config.service_config import ServiceConfig
configure_threads()
config = ServiceConfig()
print(json.dumps({"torch": torch.get_num_threads(), "decode": config.decode_threads, "workers": config.workers}))
"""


@pytest.fixture(scope="module")
def limited() -> Iterator[list[str]]:
    """Words before a command that give it one CPU of several."""
    if processor.cores() < 2:
        pytest.skip("there is one core to use here, so that a quota of one CPU changes nothing")
    with ExitStack() as stack:
        try:
            group = stack.enter_context(quota(1.0))
        except CheckFailedError as error:
            pytest.skip(str(error))
        yield group.words


def said(words: Sequence[str], code: str, *arguments: str) -> str:
    return subprocess.run(
        [*words, sys.executable, "-c", code, *arguments], capture_output=True, check=True, text=True
    ).stdout


@pytest.mark.parametrize("target", ["openvino-fp32", "onnxruntime-fp32"])
@pytest.mark.parametrize("plan", ["sequential", "split"])
def test_an_engine_has_the_threads_that_it_has_when_one_is_asked_for(
    limited: list[str], checkpoints: tuple[Checkpoint, Checkpoint], tmp_path: Path, target: str, plan: str
) -> None:
    build_engine(checkpoints[0].path, target, plan=plan, batch=BatchRange(1, 2, 4), out=tmp_path / "engine", images=4)
    engine = str(tmp_path / "engine")
    assert int(said(limited, ENGINE, engine)) == int(said([], ENGINE, engine, "1")) < int(said([], ENGINE, engine))


def test_torch_decoding_and_workers_are_as_on_one_core(limited: list[str]) -> None:
    assert json.loads(said(limited, OTHERS)) == {"torch": 1, "decode": 2, "workers": 1}


def test_the_doctor_tells_how_many_cores_the_quota_leaves(limited: list[str]) -> None:
    done = subprocess.run([*limited, str(RRR), "doctor", "--json"], capture_output=True, text=True)
    (found,) = (check["found"] for check in json.loads(done.stdout)["checks"] if check["name"] == "cpu")
    assert f", 1 of {processor.cores()} cores, by the quota of its cgroup: " in found


def test_a_service_starts_its_models_with_fewer_threads_and_answers_as_without_a_quota(
    limited: list[str], repository: Path, tmp_path: Path
) -> None:
    threads, variables = {}, {}
    for name, before in (("limited", limited), ("free", [])):
        with Service(tmp_path / f"{name}.log", str(repository), "--drain", "0", before=before) as service:
            children = {kind: service.of_kind(kind) for kind in ("stub", "worker")}
            threads[name] = sorted(process.num_threads() for process in children["stub"])
            variables[name] = {child.environ()["OMP_NUM_THREADS"] for found in children.values() for child in found}
            assert len(children["stub"]) == 2
            assert len(children["worker"]) == (1 if name == "limited" else 2)
            assert service.stop() == 0
    assert all(few < many for few, many in zip(threads["limited"], threads["free"], strict=True)), threads
    assert variables["limited"] == {"1"}
