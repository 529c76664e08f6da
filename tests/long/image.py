"""Container images are built on a Debian of debootstrap's, weighed, started, asked from outside, harmed and stopped.

    .venv/bin/python tests/long image [REPOSITORY] [--only cpu bento train gpu] [--base-files FILE ...] [--keep]

It needs root and `apt install buildah debootstrap`, neither an engine nor a registry. `cpu` and `bento` serve a
repository with a read-only root, as a user that is not root, and must answer as `rrr serve` does outside. `train`
trains and builds, and makes a repository that `rrr serve` takes. `gpu` is built on a stand-in for NVIDIA's image, a
Debian 13 with Python 3.13 where that has 3.12, and its front asks the Triton of an `rrr serve` outside: that shows its
packages to work together, and nothing about a GPU.
"""

import argparse
import re
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
from packaging.utils import canonicalize_name

from harness.bentos import BENTOML, build_bento
from harness.bounds import Bounds
from harness.containers import Container, Images, check_programs, container, size_bytes
from harness.service import Service, is_of_kind, wait_for
from rrrbench import contenders
from rrrbench.environment import ROOT, ResultFile
from rrrbench.networks import Networks
from rrrbench.servers import free_port

SECTIONS = ("cpu", "bento", "train", "gpu")
_MOST_CPU_GB = 0.75  # beside its base
_USER, _BENTO_USER = 10001, 1034
_BASE = "localhost/rrr-image-test/debian:12"
_NEWER = "localhost/rrr-image-test/debian:13"  # NVIDIA's Ubuntu has a newer Python than our engines, too
_TRITON = "localhost/rrr-image-test/tritonserver-stand-in:0"
_BENTO_BASE = "docker.io/library/python:3.11-slim"  # a stand-in for what BentoML's Dockerfile begins with
_IMAGES = 8
_RELOADED = 'rrr_reloads_total{outcome="unchanged"} 1.0'  # of the repository that it serves already
_VERSION = version("rrrnet-serving")

# In the image: what is installed, and whether every module finds what it imports; bento.py reads settings then.
_INSTALLED = (
    "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()), sep='\\n')"
)
_IMPORT_ALL = """
import importlib, pkgutil
import onnxruntime, openvino, rrrserve, scipy.stats
for module in pkgutil.walk_packages(rrrserve.__path__, "rrrserve."):
    if not module.name.endswith((".bento", ".__main__", ".die_with_parent")):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] not in ("matplotlib", "opentelemetry", "pyarrow", "ray"):  # of other extras
                raise
"""


def packages(text: str) -> set[str]:
    """Each NAME==VERSION in a text, names as package indexes compare them."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {f"{canonicalize_name(name)}=={number}" for name, number in found}


def labels(url: str, bodies: list[bytes]) -> list[str]:
    """The best label of each image."""
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        answers = [client.post("/v1/predict", content=body).raise_for_status().json() for body in bodies]
    return [str(answer["predictions"][0]["label"]) for answer in answers]


def make_image(images: Images, target: str, *options: str) -> str:
    """Run `make image` with buildah, unless an earlier run kept the image; its name."""
    name = f"localhost/rrr-image-test/{target}:0"
    if images.has(name):
        return name
    words = [
        f"IMAGE_TARGET={target}",
        f"IMAGE={name}",
        f"IMAGE_OPTIONS=--build-arg BASE_IMAGE={_BASE} {' '.join(options)}",
    ]
    print(f"building {target}", flush=True)
    command = ["make", "--no-print-directory", "image", "IMAGE_BUILD=buildah build --format docker", *words]
    subprocess.run(command, cwd=ROOT, env=images.environment, check=True)
    return name


def check_locked_up(running: Container, user: int, bounds: Bounds) -> None:
    """No process is root's, and the root cannot be written to, not even by root."""
    users = {each.uids().real for each in running.processes()}
    bounds.check(f"processes run as users {users}, not {user}", users == {user})
    try:
        (Path("/proc") / str(running.first.pid) / "root" / "written").touch()
        bounds.check("its root can be written to", False)
    except OSError as error:
        bounds.check(f"its root is not read-only: {error}", "Read-only" in str(error))


def check_labels(found: dict[str, str], title: str, bounds: Bounds) -> None:
    """The OCI labels say what this is and from which sources."""
    names = {name.removeprefix("org.opencontainers.image."): value for name, value in found.items()}
    bounds.check(f"its title is {names.get('title')}", names.get("title") == title)
    for name in ("version", "revision", "created", "licenses", "description", "base.name"):
        bounds.check(f"its label {name} is empty", bool(names.get(name)))


def heal(running: Container, url: str, port: int, bounds: Bounds) -> float:
    """Freeze Triton: the health check must see it and the service mend it; seconds until it is healthy again."""
    bounds.check("it is not healthy while all is well", running.is_healthy(port))
    (triton,) = [each for each in running.processes() if is_of_kind(each, "tritonserver")]
    triton.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    wait_for(lambda: not running.is_healthy(port), seconds=60)
    bounds.check("/livez hangs together with Triton", httpx.get(f"{url}/livez", trust_env=False).status_code == 200)
    wait_for(lambda: running.is_healthy(port), seconds=120)
    bounds.check("the frozen Triton is still there", not triton.is_running() or triton.status() == psutil.STATUS_ZOMBIE)
    healed = time.monotonic() - started
    time.sleep(1)  # for the first process to count out what Triton left behind
    bounds.check(f"{running.zombies()} zombies are left of it", running.zombies() == 0)
    return healed


def cpu(setup: "Setup", bounds: Bounds) -> dict[str, Any]:
    """Build, weigh, serve, harm and stop the image `cpu`."""
    name = make_image(setup.images, "cpu")
    config = setup.images.config(name)
    check_labels(config["Labels"], "rrrnet-serving", bounds)
    with setup.images.mounted(name) as root:
        gb = setup.weigh("cpu", root)
        bounds.check(f"it weighs {gb:.3f} GB beside its base", gb <= _MOST_CPU_GB)
        port = free_port()
        url, started = f"http://127.0.0.1:{port}", time.monotonic()
        arguments = ["--port", str(port), *setup.serve]
        with container(root, config, arguments, setup.log("cpu"), (setup.repository, "/models")) as running:
            running.wait_until_ready(url, setup.patience_seconds)
            ready = time.monotonic() - started
            check_locked_up(running, _USER, bounds)
            bounds.check("the first process is not dumb-init", running.first.name() == "dumb-init")
            bounds.check("it labels otherwise than rrr serve outside", labels(url, setup.bodies) == setup.expected)
            imported = running.run("python", "-c", _IMPORT_ALL)
            bounds.check(f"a module lacks what was removed: {imported.stderr[-500:]}", imported.returncode == 0)
            installed = packages(running.run("python", "-c", _INSTALLED).stdout)
            listed = packages((ROOT / "requirements/serving.lock").read_text()) | {f"rrrnet-serving=={_VERSION}"}
            bounds.check(f"not what the SBOM lists: {sorted(installed ^ listed)}", installed == listed)
            running.first.send_signal(signal.SIGHUP)
            wait_for(lambda: _RELOADED in httpx.get(f"{url}/metrics", trust_env=False).text, seconds=60)
            doctor = running.run("rrr", "doctor")
            bounds.check(f"rrr doctor: {doctor.stdout[-800:]}", doctor.returncode == 0)
            healed = heal(running, url, port, bounds)
            bounds.check("it labels otherwise after that", labels(url, setup.bodies) == setup.expected)
            stopped = time.monotonic()
            code = running.stop()
            bounds.check(f"it ended with {code}", code == 0)
        stop = time.monotonic() - stopped
    return {"ready_seconds": ready, "healed_seconds": healed, "stop_seconds": stop, "exit_code": code}


def containerize(images: Images, repository: Path) -> str:
    """Run `bentoml containerize` with buildah, unless an earlier run kept the image; its name."""
    name = "localhost/rrr-image-test/bento:0"
    if images.has(name):
        return name
    # The image that BentoML's Dockerfile begins with has a Python of its own, into which pip may install.
    script = "rm /usr/lib/python3.*/EXTERNALLY-MANAGED; ln -s python3 /usr/bin/python"
    images.derive(_BENTO_BASE, _BASE, script, "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    print("building bento", flush=True)
    with tempfile.TemporaryDirectory(prefix="bento-") as folder:
        environment = {**images.environment, **build_bento(repository, Path(folder) / "tree", Path(folder) / "home")}
        words = ["containerize", "rrr:latest", "--backend", "buildah", "--image-tag", name]
        subprocess.run([BENTOML, *words], env=environment, check=True)
    return name


def bento(setup: "Setup", bounds: Bounds) -> dict[str, Any]:
    """Build BentoML's own image, serve and stop it."""
    name = containerize(setup.images, setup.repository)
    config = setup.images.config(name)
    with setup.images.mounted(name) as root:
        setup.weigh("bento", root)
        port = free_port()
        url, started = f"http://127.0.0.1:{port}", time.monotonic()
        with container(root, config, ["serve", "--port", str(port)], setup.log("bento")) as running:
            running.wait_until_ready(url, setup.patience_seconds)
            ready = time.monotonic() - started
            check_locked_up(running, _BENTO_USER, bounds)
            bounds.check("it labels otherwise than rrr serve outside", labels(url, setup.bodies) == setup.expected)
            stopped = time.monotonic()
            code = running.stop()
            bounds.check(f"it ended with {code}", code == 0)
        stop = time.monotonic() - stopped
    return {"ready_seconds": ready, "stop_seconds": stop, "exit_code": code}


def train(setup: "Setup", bounds: Bounds) -> dict[str, Any]:
    """Build the image `train`; letters become a repository in it, which `rrr serve` outside takes."""
    index = [f"--build-arg PIP_EXTRA_INDEX_URL={setup.torch_index}"] if setup.torch_index else []
    name = make_image(setup.images, "train", *index)
    config = setup.images.config(name)
    check_labels(config["Labels"], "rrrnet-serving-train", bounds)
    steps = [
        "data glyphs letters --classes 3 --per-class 12 --size 32",
        "train --data letters --out model --weights none --members 2 --epochs 1 --size 32 --batch-size 8",
        "build model --target onnxruntime-fp32 --out engine --max-drop 100",
        "repository engine --out repository --backends python",
    ]
    with setup.images.mounted(name) as root, tempfile.TemporaryDirectory() as work:
        setup.weigh("train", root)
        shutil.chown(work, _USER, _USER)
        for step in steps:
            with container(root, config, step.split(), setup.log("train"), (Path(work), "/work")) as running:
                code = running.process.wait(1800)
            said = setup.log("train").read_text(errors="replace")
            bounds.check(f"rrr {step} ended with {code}: {said[-1500:]}", code == 0)
        with Service(setup.log("trained"), str(Path(work) / "repository"), "--drain", "0") as service:
            answered = len(labels(service.url, setup.bodies))
    return {"answered": answered}


def gpu(setup: "Setup", bounds: Bounds) -> dict[str, Any]:
    """Build the image `gpu` on the stand-in, and let its front ask the Triton of an `rrr serve` outside."""
    parts = "mkdir -p /opt/tritonserver/bin /opt/tritonserver/backends/tensorrt"
    program = "ln -s /bin/false /opt/tritonserver/bin/tritonserver"
    path = "PATH=/opt/tritonserver/bin:/usr/local/bin:/usr/bin:/bin"
    setup.images.derive(_TRITON, _NEWER, f"{parts}; {program}", "--env", path)
    name = make_image(setup.images, "gpu", "--build-arg", f"TRITON_IMAGE={_TRITON}")
    config = setup.images.config(name)
    check_labels(config["Labels"], "rrrnet-serving-gpu", bounds)
    with (
        Service(setup.log("triton"), str(setup.repository), "--drain", "0") as service,
        setup.images.mounted(name) as root,
    ):
        setup.weigh("gpu", root, _TRITON)
        (triton,) = service.of_kind("tritonserver")
        words = triton.cmdline()
        address = f"127.0.0.1:{next(word.partition('=')[2] for word in words if word.startswith('--grpc-port='))}"
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        arguments = ["--port", str(port), *setup.serve, "--triton-url", address]
        with container(root, config, arguments, setup.log("gpu"), (setup.repository, "/models")) as running:
            running.wait_until_ready(url, setup.patience_seconds)
            check_locked_up(running, _USER, bounds)
            bounds.check("it labels otherwise than rrr serve outside", labels(url, setup.bodies) == setup.expected)
            code = running.stop()
            bounds.check(f"it ended with {code}", code == 0)
    return {"exit_code": code}


class Setup:
    """What the sections share.

    Attributes:
        images: all that are built.
        repository: what is served.
        bodies: JPEG files.
        expected: the label that `rrr serve` outside gives each.
        torch_index: where pip finds torch's build for CPUs, beside where it looks anyhow.
        patience_seconds: how long a container may take until it is ready.
        serve: options of `rrr serve`.
    """

    def __init__(self, options: argparse.Namespace, result: ResultFile, images: Images) -> None:
        """Ask `rrr serve` outside, and make the base."""
        self._cache: Path = options.cache.absolute()
        self._result = result
        self.patience_seconds: float = options.patience
        self.serve = ("--drain", "0", "--workers", "1", "--start-timeout", str(options.patience))
        self.images = images
        self.torch_index: str = options.torch_index
        self.repository = (options.repository or contenders.exact_repository(options.cache)).absolute()
        self.bodies = Networks(options.cache).jpegs(64)[:_IMAGES]
        with Service(self.log("outside"), str(self.repository), "--drain", "0") as service:
            self.expected = labels(service.url, self.bodies)
        self.images.debian(_BASE, "bookworm", "libpython3.11", options.base_files)
        if "gpu" in options.only:
            self.images.debian(_NEWER, "trixie", "libpython3.13", options.base_files)

    def weigh(self, image: str, root: Path, base: str = _BASE) -> float:
        """Record what an image weighs beside its base, with its largest packages; in 10^9 bytes."""
        folders = [path for path in root.glob("opt/rrr/lib/python3*/site-packages/*") if path.is_dir()]
        largest = sorted(((size_bytes(path) / 1e6, path.name) for path in folders), reverse=True)[:12]
        with self.images.mounted(base) as below:
            base_gb = size_bytes(below) / 1e9
        gb = size_bytes(root) / 1e9 - base_gb
        case = {"gb": gb, "base_gb": base_gb, "largest_mb": {name: size for size, name in largest}}
        self._result.record("sizes", {"image": image}, case)
        return gb

    def log(self, name: str) -> Path:
        """Where a service or container of this name writes."""
        return self._cache / "logs" / f"image-{name}.log"


def summary(document: dict[str, Any]) -> str:
    """A Markdown table of a result file."""
    titles = ("image", "GB beside its base", "ready (s)", "stopped (s)")
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for size in document.get("sizes", []):
        (case,) = document.get(size["image"], [{}])
        times = [f"{case[name]:.1f}" if name in case else "" for name in ("ready_seconds", "stop_seconds")]
        lines.append(f"| {size['image']} | {size['gb']:.3f} | {' | '.join(times)} |")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("repository", type=Path, nargs="?", help="default: 8 members at 64 pixels, made if need be")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=["cpu", "bento"])
    parser.add_argument(
        "--base-files",
        nargs="+",
        default=[],
        metavar="SOURCE[:TARGET]",
        help="files and folders of this machine that go into the base, such as pip's configuration and certificates",
    )
    parser.add_argument("--torch-index", default="", metavar="URL", help="of torch's builds for CPUs, for train")
    parser.add_argument("--patience", type=int, default=120, metavar="SECONDS", help="until a container is ready")
    parser.add_argument(
        "--keep", action="store_true", help="leave the images; the next run with it does not build them again"
    )


def run(options: argparse.Namespace, result: ResultFile, bounds: Bounds) -> None:
    """All sections asked for."""
    check_programs()
    images = Images(options.cache.absolute() / "images")
    if not options.keep:  # those of a run that was interrupted, or kept them, may be of older sources
        images.remove()
        images = Images(options.cache.absolute() / "images")
    try:
        setup = Setup(options, result, images)
        for section, work in (("cpu", cpu), ("bento", bento), ("train", train), ("gpu", gpu)):
            if section in options.only:
                result.record(section, {"image": section}, work(setup, bounds))
    finally:
        if not options.keep:
            images.remove()
