"""What `rrr doctor` looks at: each check tells what it found, whether serving can live with it, and what to do."""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from rrrbuild import machine
from rrrbuild.targets import TARGETS, run_obstacle
from rrrnet.errors import IncompatibleError, NoSpaceError, UsageError
from rrrnet.installing import install_line, pip_install
from rrrnet.processor import affinity, cores
from rrrserve.net.listener import listen
from rrrserve.process.scratch import SHARED_MEMORY, temporary_folder
from rrrserve.stamps.environment import SERVING_PACKAGES, TRAINING_PACKAGES
from rrrserve.triton.install import LIBPYTHON, TritonInstall, check_libpython, child_environment, find_tritonserver

DEFAULT_PORT = 3000
# A served ResNet152 and an ensemble beside it take 1.1 GiB, their engines and checkpoints less than 1 GiB.
MIN_MEMORY_BYTES = 2 * 2**30
MIN_DISK_BYTES = 2 * 2**30
MIN_SHARED_MEMORY_BYTES = 32 * 2**20  # docker gives twice that; a model takes 3 MiB with 8 images of 128 x 128
TRITON_TIMEOUT_SECONDS = 20

_TRITON_VERSION = re.compile(r"server_version\s*\|\s*(\S+)")

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table.

    Attributes:
        name: what was looked at.
        status: "ok"; "warn": serving works, something else does not; "fail": serving does not work.
        found: what there is.
        advice: what to do about it; empty when ok.
        command: that of the advice which mends it, to be pasted into a shell; empty where there is none.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    command: str = ""


def diagnose(artifacts: Path) -> list[Check]:
    """Look at everything.

    Args:
        artifacts: folder below which checkpoints and engines are written; need not exist yet.
    """
    checks = [*check_packages(), check_cpu(), check_memory(), check_gpu()]
    checks += [check_targets(), *check_triton()]
    checks += [check_port(DEFAULT_PORT), check_disk(artifacts), check_temporary_folder(), check_shared_memory()]
    return checks


def check_packages() -> list[Check]:
    """The packages without which no request is answered, and those to train, evaluate checkpoints and build."""
    kinds: list[tuple[str, tuple[str, ...], Status, str, str]] = [
        ("serving packages", SERVING_PACKAGES, "fail", "", "serve"),
        (
            "training packages",
            TRAINING_PACKAGES,
            "warn",
            "only to train, evaluate checkpoints and build: ",
            "build",
        ),
    ]
    checks = []
    for name, packages, status, what_for, extra in kinds:
        found = {package: machine.package_version(package) for package in packages}
        missing = [package for package, version in found.items() if version is None]
        there = ", ".join(f"{package} {version}" for package, version in found.items())
        line = install_line(extra)
        lacking = Check(name, status, f"no {', '.join(missing)}", what_for + line, line)
        checks.append(lacking if missing else Check(name, "ok", there))
    return checks


def check_cpu() -> Check:
    """Model, cores that can be kept busy, and the features that make engines fast."""
    features = machine.cpu_features()
    names = " ".join(sorted(features)) or "none of the features that engines use"
    usable, own = cores(), affinity()
    told = f"{usable} cores" if usable == own else f"{usable} of {own} cores, by the quota of its cgroup"
    found = f"{machine.cpu_model()}, {told}: {names}"
    if not features & {"avx2", "asimd"}:
        return Check(
            "cpu", "warn", found, "CPU engines run slowly: use a CPU with AVX2, better with AVX-512 BF16 or AMX"
        )
    return Check("cpu", "ok", found)


def check_memory() -> Check:
    """Memory that can be had without swapping."""
    memory = psutil.virtual_memory()
    found = f"{_size(memory.available)} available of {_size(memory.total)}"
    if memory.available < MIN_MEMORY_BYTES:
        return Check("memory", "warn", found, f"serving two models wants {_size(MIN_MEMORY_BYTES)}: end other programs")
    return Check("memory", "ok", found)


def check_gpu() -> Check:
    """The first NVIDIA GPU; none is fine, CPU targets serve."""
    gpu = machine.gpu()
    if gpu is None:
        return Check("gpu", "ok", "no NVIDIA GPU (or no driver): CPU targets only")
    return Check("gpu", "ok", f"{gpu.name}, compute capability {gpu.compute_capability}, driver {gpu.driver_version}")


def check_targets() -> Check:
    """Whether an engine of any target runs here."""
    runnable = [name for name, target in TARGETS.items() if run_obstacle(target) is None]
    if not runnable:
        line = install_line("openvino,onnxruntime")
        return Check("targets", "fail", "no target runs here", f"{line}; rrr targets tells about each", line)
    others = len(TARGETS) - len(runnable)
    return Check("targets", "ok", ", ".join(runnable) + (f" ({others} more: see rrr targets)" if others else ""))


def check_triton() -> list[Check]:
    """The tritonserver that `rrr serve` would start, and what its Python backend needs."""
    try:
        install = find_tritonserver()
    except IncompatibleError as error:
        return [Check("tritonserver", "fail", "none", f"{error}; or use rrr serve --triton-url")]
    checks = [_check_server(install)]
    if install.stub is not None:
        checks += [_check_libpython(install), _check_numpy()]
    return checks


def check_port(port: int) -> Check:
    """Whether `rrr serve` can listen at its default port."""
    try:
        listen("127.0.0.1", port).close()
    except UsageError as error:
        return Check("port", "warn", str(error).partition(":")[0], "stop what listens there, or rrr serve --port PORT")
    return Check("port", "ok", f"127.0.0.1 port {port} is free")


def check_disk(artifacts: Path) -> Check:
    """Space where checkpoints and engines are written."""
    folder = artifacts.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        free = _free_bytes(folder)
    except OSError as error:
        return Check("disk", "warn", f"{folder}: {error.strerror}", "only serving works here; others take --out FOLDER")
    found = f"{_size(free)} free at {folder}"
    if free < MIN_DISK_BYTES:
        return Check("disk", "warn", found, f"training and building want {_size(MIN_DISK_BYTES)}: free some space")
    return Check("disk", "ok", found)


def _free_bytes(folder: Path) -> int:
    """What can still be written into a folder.

    Raises:
        OSError: nothing can.
    """
    with tempfile.TemporaryFile(dir=folder):
        return shutil.disk_usage(folder).free


def check_temporary_folder() -> Check:
    """Triton's log and backend folder lie in a temporary folder, so one must be writable."""
    try:
        folder = temporary_folder()
    except (UsageError, NoSpaceError) as error:
        found, _, advice = str(error).rpartition(": ")
        return Check("temporary folder", "fail", found, advice)
    return Check("temporary folder", "ok", f"{_size(shutil.disk_usage(folder).free)} free at {folder}")


def check_shared_memory(folder: Path = SHARED_MEMORY) -> Check:
    """Triton's Python backend passes tensors through shared memory."""
    advice = "docker run --shm-size=256m (Kubernetes: an emptyDir of medium Memory there)"
    try:
        free = _free_bytes(folder)
    except OSError as error:
        return Check("shared memory", "fail", f"{folder}: {error.strerror}", advice)
    found = f"{_size(free)} free at {folder}"
    return (
        Check("shared memory", "ok", found)
        if free >= MIN_SHARED_MEMORY_BYTES
        else Check("shared memory", "warn", found, advice)
    )


def _check_server(install: TritonInstall) -> Check:
    """Start it on a repository that does not exist: it tells its version and ends, in a blink."""
    with tempfile.TemporaryDirectory() as folder:
        # Without the GPU, whose memory pools take seconds to set up and prove nothing here.
        environment = child_environment(install, Path(folder), threads=1) | {"CUDA_VISIBLE_DEVICES": ""}
        command = [
            str(install.binary),
            f"--model-repository={folder}/none",
            f"--backend-directory={install.backend_directory}",
            "--allow-http=false",
            "--allow-grpc=false",
            "--allow-metrics=false",
        ]
        try:
            answer = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=TRITON_TIMEOUT_SECONDS
            )
            output = answer.stdout + answer.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            output = str(error)
    version = _TRITON_VERSION.search(output)
    if version is None:
        reason = output.strip().splitlines()[-1:] or ["it said nothing"]
        anew = pip_install("--force-reinstall", "--no-deps", "nvidia-pytriton==0.7.0")
        advice = f"install it anew: {anew}, or use NVIDIA's Triton image"
        return Check("tritonserver", "fail", f"{install.binary} does not start: {reason[0]}", advice, anew)
    origin = "on the PATH" if install.source == "path" else "from the nvidia-pytriton wheel"
    found = f"{version[1]} {origin} ({install.binary}), backends: {', '.join(sorted(install.backends))}"
    return Check("tritonserver", "ok", found)


def _check_libpython(install: TritonInstall) -> Check:
    try:
        check_libpython(install)
    except IncompatibleError as error:
        found, _, advice = str(error).partition(": ")
        return Check("libpython", "fail", found, advice)
    return Check("libpython", "ok", f"{LIBPYTHON}.so.1.0 can be loaded")


def _check_numpy() -> Check:
    version = machine.package_version("numpy") or "not installed"
    if version.partition(".")[0] != "1":
        line = pip_install("numpy<2")
        return Check("numpy", "fail", version, f"the wheel's Triton returns empty outputs with it: {line}", line)
    return Check("numpy", "ok", version)


def _size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
