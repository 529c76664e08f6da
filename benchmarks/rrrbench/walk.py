"""The commands of the README for one's own images, typed as a person would, in a folder of made photos.

No hub of weights answers there, and no package reads HEIC, whatever this machine has: the walk is the same everywhere.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rrrbench.photos import photo, write_photos
from rrrnet.errors import CheckFailedError

PHOTOS_EACH = 40
DEFAULT_PORT = 3000
COMMAND_SECONDS = 1800.0
_READY_SECONDS = 300.0
_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Typed:
    """A command, the exit code (0 of a service that runs), what it printed on both outputs, and how long it took."""

    command: str
    code: int
    output: str
    seconds: float


def own_images_commands(readme: str) -> list[str]:
    """The commands of the README's block about one's own images, without their comments."""
    blocks = re.findall(r"^```\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    block = next(block for block in blocks if block.startswith("rrr train --data my_images"))
    return [line.split("  #")[0].strip() for line in block.splitlines() if line.strip()]


class Shell:
    """A folder to type commands in. `rrr serve` goes on running, all else is waited for.

    Where the default port is taken, a free one stands in every command in its place.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._environment = environment
        self._port = _port()
        self._service: subprocess.Popen[bytes] | None = None
        self._log, self._told = folder.with_name("serve.log"), 0

    def type(self, command: str) -> Typed:
        """Run a command to its end; of `rrr serve`, until it is ready."""
        if self._port != DEFAULT_PORT:
            command = command.replace(f"127.0.0.1:{DEFAULT_PORT}", f"127.0.0.1:{self._port}")
            command += f" --port {self._port}" if command.startswith("rrr serve") else ""
            command += f" --url http://127.0.0.1:{self._port}" if command.startswith("rrr predict") else ""
        started = time.monotonic()
        if command.startswith("rrr serve"):
            code, output = self._serve(command)
        else:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=COMMAND_SECONDS,
            )
            code, output = done.returncode, done.stdout.decode(errors="replace")
        return Typed(command, code, output, time.monotonic() - started)

    def _serve(self, command: str) -> tuple[int, str]:
        with self._log.open("wb") as file:
            self._service = subprocess.Popen(
                shlex.split(command), cwd=self.folder, env=self._environment, stdout=file, stderr=file
            )
        deadline = time.monotonic() + _READY_SECONDS
        while "ready: " not in (said := self._log.read_text(errors="replace")):
            if self._service.poll() is not None or time.monotonic() > deadline:
                raise CheckFailedError(f"{command} did not become ready:\n{said}")
            time.sleep(0.2)
        time.sleep(1)  # for the warnings of the HTTP workers, which come after it
        said = self._log.read_text(errors="replace")
        self._told = len(said)
        return 0, said

    def interrupt(self) -> Typed:
        """Ctrl-C at the service; what it says to that."""
        if self._service is None:
            raise CheckFailedError("no service was started")
        started = time.monotonic()
        self._service.send_signal(signal.SIGINT)
        code = self._service.wait(_STOP_SECONDS)
        self._service = None
        return Typed("^C", code, self._log.read_text(errors="replace")[self._told :], time.monotonic() - started)

    def close(self) -> None:
        """End what still runs."""
        if self._service is not None:
            self._service.terminate()
            try:
                self._service.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._service.kill()


@contextmanager
def new_user(work: Path, variables: Mapping[str, str] | None = None) -> Iterator[Shell]:
    """A shell in a new folder `work/photos`: my_images/, cat.jpg to ask about, and a hub that never answers.

    Args:
        work: an empty folder.
        variables: beside those of this process.
    """
    home, folder = work / "home", work / "photos"
    home.mkdir()
    write_photos(folder / "my_images", PHOTOS_EACH)
    (folder / "cat.jpg").write_bytes(photo("cat", PHOTOS_EACH + 1))  # none of those to learn from
    (home / ".curlrc").write_text("no-progress-meter\n")  # as at a terminal
    (home / "pillow_heif.py").write_text("raise ImportError\n")
    with socket.create_server(("127.0.0.1", 0)) as hub:  # takes connections, for the system does, and says nothing
        environment = {
            **os.environ,
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH")))),
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}",
            "HF_HOME": str(home / "hub"),
            "CURL_HOME": str(home),
            "NO_PROXY": "127.0.0.1",
            "COLUMNS": "100",
            **(variables or {}),
        }
        shell = Shell(folder, environment)
        try:
            yield shell
        finally:
            shell.close()


def _port() -> int:
    """The service's default port if it is free, else one that is."""
    for port in (DEFAULT_PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                return int(probe.getsockname()[1])
        except OSError:
            continue
    raise CheckFailedError("no port of 127.0.0.1 is free")
