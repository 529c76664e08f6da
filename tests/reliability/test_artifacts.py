"""Artifacts: a changed bit, a crafted document, a killed writer, a full disk or a wrong setting never gets through."""

import ctypes
import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import killed_writers
from harness.broken import BUSY, CONFIGURATIONS, ENGINE, REPOSITORY, Broken
from harness.damage import DAMAGES, damaged, flip_bit
from harness.service import RRR
from rrrbuild import plan_runner
from rrrbuild.build import build_engine
from rrrbuild.engine import load_engine
from rrrbuild.manifest import MANIFEST, BatchRange, read_engine
from rrrbuild.repository_document import DOCUMENT, read_models, read_repository
from rrrbuild.serving_check import check_engines
from rrrnet import checkpoint as checkpoints_module
from rrrnet import sealed
from rrrnet.checkpoint import Checkpoint, read_checkpoint, read_weights
from rrrnet.errors import ArtifactError, IncompatibleError
from rrrserve.cli import run

FLIPS = 54  # six for each kind of file
Artifacts = dict[str, tuple[Path, str]]


@pytest.fixture(scope="session")
def artifacts(
    checkpoints: tuple[Checkpoint, Checkpoint], repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Artifacts:
    """A file of each kind: the artifact it is in, and its path within."""
    folder = tmp_path_factory.mktemp("artifacts")
    checkpoint = checkpoints[1].path
    engines = {}
    for target in ("openvino-fp32", "tensorrt-rtx-fp16"):
        engines[target] = folder / target
        build_engine(checkpoint, target, plan="sequential", batch=BatchRange(1, 1, 2), out=engines[target], images=8)
    return {
        "safetensors": (checkpoint, "model.safetensors"),
        "json": (checkpoint, "model.json"),
        "onnx": (repository, "single/1/model.onnx"),
        "xml": (engines["openvino-fp32"], "model.xml"),
        "bin": (engines["openvino-fp32"], "model.bin"),
        "plan": (engines["tensorrt-rtx-fp16"], "model.plan"),
        "manifest": (engines["openvino-fp32"], MANIFEST),
        "pbtxt": (repository, "single/config.pbtxt"),
        "model.py": (repository, "single/1/model.py"),
    }


def open_artifact(folder: Path) -> None:
    """As the commands do: check, then parse."""
    if (folder / DOCUMENT).exists():
        read_repository(folder)
    elif (folder / MANIFEST).exists():
        load_engine(folder)
    else:
        read_weights(read_checkpoint(folder))


def test_every_flipped_bit_is_refused_before_a_parser_sees_the_file(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, parsed = random.Random(0), []

    def parser(name: str) -> Callable[..., Any]:
        return lambda *_, **__: parsed.append(name)

    monkeypatch.setattr(plan_runner, "load", parser("a runtime"))
    monkeypatch.setattr(checkpoints_module, "load_file", parser("safetensors"))
    refused = 0
    for kind, (folder, name) in artifacts.items():
        copy = tmp_path / kind
        shutil.copytree(folder, copy)
        sound = (copy / name).read_bytes()
        for _ in range(FLIPS // len(artifacts)):
            flip_bit(copy / name, chance)
            with pytest.raises(ArtifactError) as caught:
                open_artifact(copy)
            # Both digests, except where the bit was in the seal's own line, which then is none.
            assert re.search(
                rf"{re.escape(name)} was changed after it was written: .*, (now|found) ", str(caught.value)
            )
            refused += 1
            (copy / name).write_bytes(sound)
        open_artifact(copy) if kind != "plan" else read_engine(copy)
    assert refused == FLIPS
    assert set(parsed) == {"a runtime", "safetensors"}, "sound files were parsed, and nothing else"
    assert len(parsed) == len([kind for kind in artifacts if kind in ("safetensors", "json", "xml", "bin", "manifest")])


def test_a_flipped_document_is_not_even_read_as_json(artifacts: Artifacts, tmp_path: Path) -> None:
    folder, name = artifacts["json"]
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / name
    path.write_bytes(path.read_bytes()[:-2] + b'"\n')  # no JSON any more: a parser would say so
    with pytest.raises(ArtifactError, match="was changed after it was written: sealed as"):
        read_checkpoint(tmp_path / "copy")


@pytest.mark.parametrize("kind", ["safetensors", "xml", "onnx"])
def test_the_commands_end_with_exit_3_and_one_line(
    artifacts: Artifacts, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    folder, name = artifacts[kind]
    shutil.copytree(folder, tmp_path / "copy")
    flip_bit(tmp_path / "copy" / name, random.Random(1))
    command = {
        "safetensors": ["build", "copy", "--target", "onnxruntime-fp32", "--out", "out"],
        "xml": ["repository", "copy", "--out", "out", "--backends", "python"],
        "onnx": ["tune", "copy"],
    }[kind]
    assert run([str(tmp_path / word) if word in ("copy", "out") else word for word in command]) == 3
    error = capfd.readouterr().err
    assert error.startswith("rrr: ")
    assert error.count("\n") == 1
    assert name in error
    assert not (tmp_path / "out").exists()


CRAFTED: dict[str, Callable[[dict[str, Any]], object]] = {
    "nothing in it": lambda document: document.clear(),
    "no preprocessing": lambda document: document.pop("preprocess"),
    "labels that are a number": lambda document: document.update(labels=7),
    "a negative size": lambda document: document["preprocess"].update(size=-1),
    "a batch that begins with 2": lambda document: document.update(batch={"min": 2, "opt": 2, "max": 4}),
    "an unknown key": lambda document: document.update(surprise=1),
    "a format of the future": lambda document: document.update(format_version=99),
    "a target of the future": lambda document: document.update(target="abacus-fp8"),
    "an architecture that is text": lambda document: document.update(architecture="large"),
}


@pytest.mark.parametrize("what", CRAFTED)
def test_a_document_with_a_good_seal_and_bad_content_is_refused(
    artifacts: Artifacts, tmp_path: Path, what: str
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(artifacts["xml"][0], engine)
    document = json.loads((engine / MANIFEST).read_text())
    CRAFTED[what](document)
    sealed.seal(engine, MANIFEST, document)
    with pytest.raises(ArtifactError, match=str(engine)):
        load_engine(engine)


@pytest.mark.parametrize("listed", ["../secret", "/etc/hostname", "a/../../secret", ""])
def test_a_document_cannot_list_files_outside_its_folder(tmp_path: Path, listed: str) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    (tmp_path / "secret").write_text("canary")
    entry = {"sha256": sealed.sha256_of(tmp_path / "secret"), "size_bytes": 6}
    sealed.seal_alone(folder / DOCUMENT, {"format_version": 1, "models": [], "files": {listed: entry}})
    with pytest.raises(ArtifactError, match=r"repository\.json: it lists .*, which is no file of its folder"):
        read_repository(folder)


def test_an_engine_of_another_version_is_exit_4_before_it_is_opened(
    artifacts: Artifacts, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_runner, "load", lambda *_, **__: pytest.fail("it was opened"))
    engine = tmp_path / "engine"
    shutil.copytree(artifacts["xml"][0], engine)
    document = json.loads((engine / MANIFEST).read_text())
    document["versions"]["openvino"] = "2019.1.0"
    sealed.seal(engine, MANIFEST, document)
    with pytest.raises(IncompatibleError, match=r"built for openvino 2019\.1\.0, have 20.*; rebuild .*built with: "):
        load_engine(engine)
    older = tmp_path / "older"
    damaged(repository, older, "an engine of another runtime version", random.Random(0))
    says = DAMAGES["an engine of another runtime version"][1]
    with pytest.raises(IncompatibleError, match=says):
        check_engines(read_repository(older))
    done = subprocess.run([str(RRR), "serve", str(older), "--port", "0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert re.search(says, done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "source"), [("repository", "xml"), pytest.param("engine", "safetensors", marks=pytest.mark.nightly)]
)
def test_a_writer_killed_at_any_step_leaves_the_old_or_the_new_artifact_whole(
    artifacts: Artifacts, tmp_path: Path, kind: str, source: str
) -> None:
    arguments = [kind, str(artifacts[source][0]), str(tmp_path / kind), "0", "20"]
    done = subprocess.run([sys.executable, killed_writers.__file__, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    replaced = [trial["replaced"] for trial in told["trials"]]
    assert len(replaced) == 20
    assert set(replaced) == {True, False}, "kills came before and after the switch"
    assert all(len(trial["left"]) <= 1 for trial in told["trials"]), "each run clears up after the one before"
    assert told["left_after_a_rerun"] == []


def small_file_limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


@pytest.mark.parametrize("command", ["repository", "serve"])
def test_a_full_disk_is_exit_5_and_leaves_nothing(
    artifacts: Artifacts, repository: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    words = {
        "repository": [str(artifacts["xml"][0]), "--out", str(out), "--backends", "python"],
        "serve": [str(repository), "--port", "0"],
    }[command]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [str(RRR), command, *words],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=small_file_limit,
        env=environment,
    )
    assert done.returncode == 5, done.stderr
    assert "no space left" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
    if command == "repository":
        assert run(["repository", *words]) == 0, "with room it works"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    libc = ctypes.CDLL(None, use_errno=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    if libc.mount(b"tmpfs", bytes(disk), b"tmpfs", 0, b"size=4m") != 0:
        pytest.skip("only root can mount a file system")
    yield disk
    libc.umount2(bytes(disk), 2)


def test_a_disk_that_fills_up_midway_keeps_the_old_repository(
    artifacts: Artifacts, repository: Path, small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "repository"
    small = ["repository", str(repository / "single" / "1"), "--out", str(out), "--backends", "python"]
    assert run(small) == 0, capfd.readouterr().err
    before = read_models(out).digest
    (small_disk / "ballast").write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - 100_000)))
    capfd.readouterr()
    assert run([*small, "--name", "other"]) == 5
    assert re.fullmatch(r"rrr: no space left while writing .*\n", capfd.readouterr().err)
    assert read_repository(out).digest == before
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "repository"]


@pytest.mark.parametrize("broken", CONFIGURATIONS, ids=lambda broken: broken.what)
def test_a_broken_configuration_is_exit_2_with_one_line_and_nothing_listening(
    broken: Broken,
    artifacts: Artifacts,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    children = psutil.Process().children()
    for name, value in broken.environment.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as held:
        stands_for = {REPOSITORY: str(repository), ENGINE: str(artifacts["xml"][0]), BUSY: str(held.getsockname()[1])}
        before = psutil.Process().net_connections()
        code = run([stands_for.get(word, word) for word in broken.arguments])
        after = psutil.Process().net_connections()
    found = capfd.readouterr()
    assert code == 2
    assert re.search(broken.says, found.err)
    assert re.fullmatch(r"rrr: .*\n", found.err)
    assert found.out == ""
    assert after == before
    assert psutil.Process().children() == children
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
def test_the_real_command_refuses_each_broken_configuration_before_it_does_anything(
    artifacts: Artifacts, repository: Path, tmp_path: Path
) -> None:
    children = psutil.Process().children()
    with socket.create_server(("127.0.0.1", 0)) as held:
        stands_for = {REPOSITORY: str(repository), ENGINE: str(artifacts["xml"][0]), BUSY: str(held.getsockname()[1])}
        for broken in CONFIGURATIONS:
            done = subprocess.run(
                [str(RRR), *(stands_for.get(word, word) for word in broken.arguments)],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env={**os.environ, **broken.environment},
            )
            assert done.returncode == 2, broken.what
            assert re.search(broken.says, done.stderr), broken.what
            assert (done.stderr + done.stdout).count("\n") == 1, broken.what
            assert psutil.Process().children() == children, broken.what
    assert list(tmp_path.iterdir()) == []
