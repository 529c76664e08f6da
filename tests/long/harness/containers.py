"""Images built by buildah on a Debian of debootstrap's, and containers of them; as root, without engine or registry.

A container is what `docker run --read-only --tmpfs /tmp --network host` makes, as far as what runs in it can tell:
namespaces for mounts and processes, the image's own user and environment, its root mounted read-only, 64 MB of
/dev/shm, nothing in /tmp may be executed. Capabilities and seccomp are not taken away.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from rrrnet.errors import CheckFailedError, IncompatibleError

PROGRAMS = ("buildah", "debootstrap", "unshare", "nsenter")
# What the Dockerfile asks of its base.
_BASE_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
_COMMAND_SECONDS = 600.0
_STOP_SECONDS = 60.0
# $1: the root; $2: what is mounted at $3. A mount of one's own is read-only without touching what lies below it.
_START = """
set -eu
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs -o size=64m,mode=1777 shm "$1/dev/shm"
mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmp "$1/tmp"
if [ -n "$2" ]; then mount --bind "$2" "$1$3"; fi
mount -o remount,ro,bind "$1"
root=$1 user=$4
shift 4
exec chroot --userspec="$user" --groups= "$root" env -i "$@"
"""


def check_programs() -> None:
    """Whether this machine can do it.

    Raises:
        IncompatibleError: says what is missing.
    """
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        raise IncompatibleError(f"{', '.join(lacking)} not found: apt install buildah debootstrap util-linux")
    if os.geteuid():
        raise IncompatibleError(f"user {os.geteuid()} may not mount file systems: run this as root")


class Images:
    """Images in a storage of their own.

    Attributes:
        environment: variables with which buildah, and what calls it, uses that storage.
    """

    def __init__(self, folder: Path) -> None:
        """Keep all below `folder`; what lies there already is used."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        storage = folder / "storage.conf"
        places = f'graphroot = "{folder / "storage"}"\nrunroot = "{folder / "run"}"\n'
        storage.write_text(f'[storage]\ndriver = "overlay"\n{places}')  # the variable STORAGE_DRIVER has the last word
        self.environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(storage),
            "BUILDAH_ISOLATION": "chroot",  # the only one that works inside a container
        }

    def buildah(self, *words: str) -> str:
        """What a command of buildah says.

        Raises:
            CheckFailedError: it did not work; carries what it said of that.
        """
        command = ["buildah", *words]
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if ran.returncode:
            raise CheckFailedError(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stderr}")
        return ran.stdout.strip()

    def has(self, name: str) -> bool:
        """Whether an image is there."""
        return bool(self.buildah("images", "--quiet", "--filter", f"reference={name}"))

    def debian(self, name: str, release: str, packages: str, files: Sequence[str]) -> None:
        """A Debian with Python and pip, unless it is there.

        Args:
            name: of the image.
            release: such as bookworm.
            packages: more of them.
            files: SOURCE or SOURCE:TARGET, files and folders of this machine that builds need, such as /etc/pip.conf.
        """
        if self.has(name):
            return
        print(f"making a Debian: {release}", flush=True)
        root = self._folder / release
        if not root.is_dir():
            part = root.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)  # of a run that was interrupted
            words = ["--variant=minbase", f"--include={_BASE_PACKAGES},{packages}", release, str(part)]
            subprocess.run(["debootstrap", *words], check=True, stdout=subprocess.DEVNULL)
            shutil.rmtree(part / "var/cache/apt/archives")
            part.rename(root)
        container = self.buildah("from", "scratch")
        self.buildah("copy", "--quiet", container, str(root), "/")
        for file in files:
            source, _, target = file.partition(":")
            self.buildah("copy", "--quiet", container, source, target or source)
        self.buildah("commit", "--quiet", "--rm", container, name)

    def derive(self, name: str, base: str, script: str, *config: str) -> None:
        """An image that a shell script and options of `buildah config` make of another, unless it is there."""
        if not self.has(name):
            container = self.buildah("from", "--pull-never", base)
            self.buildah("run", container, "--", "sh", "-ec", script)
            self.buildah("config", *config, container)
            self.buildah("commit", "--quiet", "--rm", container, name)

    @contextmanager
    def mounted(self, name: str) -> Iterator[Path]:
        """The root of an image, in a copy that goes away."""
        container = self.buildah("from", "--pull-never", name)
        try:
            yield Path(self.buildah("mount", container))
        finally:
            self.buildah("rm", container)

    def config(self, name: str) -> dict[str, Any]:
        """User, Env, Entrypoint, Cmd, WorkingDir, Labels and Healthcheck of an image."""
        found: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", name))["Docker"]["config"]
        return found

    def remove(self) -> None:
        """All of them, and what they were made from."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")
        shutil.rmtree(self._folder)


def size_bytes(root: Path) -> int:
    """Of the files below a folder, each counted once however many names it has."""
    found = {}
    for folder, _, files in os.walk(root):
        for name in files:
            status = os.lstat(os.path.join(folder, name))  # noqa: PTH118  a Path for each of 100 000 files takes seconds
            found[status.st_ino] = status.st_size
    return sum(found.values())


@dataclass
class Container:
    """A running container.

    Attributes:
        process: `unshare`, which ends with the exit code of the first process in the container.
        config: the image's.
        log: what it writes.
    """

    process: subprocess.Popen[bytes]
    config: Mapping[str, Any]
    log: Path

    @property
    def first(self) -> psutil.Process:
        """The process that has the number 1 in the container."""
        (found,) = psutil.Process(self.process.pid).children()
        return found

    def processes(self) -> list[psutil.Process]:
        """All of it, the first one first."""
        return [self.first, *self.first.children(recursive=True)]

    def zombies(self) -> int:
        """Processes that have ended and that nobody has asked about."""
        states = []
        for process in self.processes():
            try:
                states.append(process.status())
            except psutil.NoSuchProcess:
                continue
        return states.count(psutil.STATUS_ZOMBIE)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside, as `docker exec` runs it: with the image's user and environment."""
        user, _, group = self.config["User"].partition(":")
        enter = ["nsenter", "--target", str(self.first.pid), "--mount", "--pid", "--root", "--wd"]
        enter += ["--setuid", user, "--setgid", group or user]
        inside = [*enter, "env", "-i", *self.config["Env"], *command]
        return subprocess.run(inside, capture_output=True, text=True, timeout=_COMMAND_SECONDS)

    def is_healthy(self, port: int) -> bool:
        """What the image's health check says of the service at a port other than its 3000."""
        kind, *command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.run(*(word.replace(":3000", f":{port}") for word in command)).returncode == 0

    def wait_until_ready(self, url: str, seconds: float) -> None:
        """Until /readyz says yes.

        Raises:
            CheckFailedError: it ended, or is not ready in time.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                if httpx.get(f"{url}/readyz", timeout=10, trust_env=False).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                raise CheckFailedError(f"the container is not ready:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)  # between two questions: nothing outside is told when it is ready

    def stop(self) -> int | None:
        """As `docker stop` does: SIGTERM to the first process; its exit code, None where it had to be killed."""
        self.first.terminate()
        try:
            return self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return None


@contextmanager
def container(
    root: Path, config: Mapping[str, Any], arguments: Sequence[str], log: Path, mounts: tuple[Path, str] | None = None
) -> Iterator[Container]:
    """Run an image until the block ends; it is killed if it still runs then.

    Args:
        root: of the image, as `Images.mounted` gives it.
        config: the image's.
        arguments: after its entry point.
        log: file for its output.
        mounts: a folder of this machine, and where it lies in the container; read-write there.
    """
    source, target = (str(mounts[0].resolve()), mounts[1]) if mounts else ("", "")
    for folder in ("proc", "sys", "dev", "tmp", target.strip("/")):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")  # every engine brings one
    start = [*config["Entrypoint"], *arguments]
    words = [str(root), source, target, config["User"], "-C", config.get("WorkingDir") or "/", *config["Env"], *start]
    isolate = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen([*isolate, "sh", "-c", _START, "sh", *words], stdout=file, stderr=file)
    try:
        yield Container(process, config, log)
    finally:
        process.kill()
        process.wait()
