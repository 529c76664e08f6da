"""Find prometheus and promtool: the machine's own, else a copy of Debian's package in the virtual environment.

    python -m rrrserve.prometheus_install

gets that copy where neither is there. It needs apt, not root: the package is downloaded and unpacked, not installed,
and where apt has no lists of packages yet it reads them into a folder of its own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rrrnet.errors import CheckFailedError, IncompatibleError, RRRError

PROGRAMS = ("prometheus", "promtool")
_FOLDER = Path(sys.prefix) / "prometheus"
_TIMEOUT_SECONDS = 300


def find(name: str, *, folder: Path = _FOLDER) -> Path:
    """The program on the PATH, else the copy that `make prometheus` unpacked.

    Args:
        name: "prometheus" or "promtool".
        folder: where `install` unpacked the package.

    Raises:
        IncompatibleError: it is in neither place; says how to get it.
    """
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    unpacked = folder / "usr" / "bin" / name
    if unpacked.is_file():
        return unpacked
    raise IncompatibleError(
        f"no {name} on the PATH nor in {unpacked.parent}: make prometheus unpacks Debian's package there without root, "
        "apt install prometheus installs it, and https://prometheus.io/download has it for other systems"
    )


def install(folder: Path = _FOLDER) -> None:
    """Unpack Debian's package `prometheus` into `folder`; what was there is replaced only by a copy that runs.

    Raises:
        IncompatibleError: this machine has no apt or dpkg, or the package's programs do not run here.
        CheckFailedError: apt could not download the package; holds apt's own message.
    """
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise IncompatibleError(
            f"no {' and no '.join(missing)} here (not Debian or Ubuntu?): get prometheus and promtool from "
            "https://prometheus.io/download and put both on the PATH"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="prometheus-") as name:
        place = Path(name)
        unpacked = place / "unpacked"
        _run(["dpkg-deb", "--extract", str(_download(place)), str(unpacked)], place)
        for program in PROGRAMS:
            _check_runs(unpacked / "usr" / "bin" / program)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


def _download(place: Path) -> Path:
    """The package's file in `place`, with the machine's lists of packages or, failing that, with fresh private ones."""
    # apt gives downloads to a user who may not write here, and then warns of it: moot, for it runs as us.
    apt = ["apt-get", "--quiet", "-o", f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}"]
    try:
        _run([*apt, "download", "prometheus"], place)
    except CheckFailedError:
        for part in ("lists/partial", "cache/archives/partial"):
            (place / part).mkdir(parents=True)
        apt += ["-o", f"Dir::State::lists={place / 'lists'}", "-o", f"Dir::Cache={place / 'cache'}"]
        _run([*apt, "-o", "APT::Update::Error-Mode=any", "update"], place)
        _run([*apt, "download", "prometheus"], place)
    return next(place.glob("prometheus_*.deb"))


def _run(command: list[str], place: Path) -> None:
    """Run a command in `place`; its output is shown only in the error."""
    try:
        ran = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CheckFailedError(f"{command[0]} did not end within {_TIMEOUT_SECONDS} s: is there a network?") from error
    if ran.returncode != 0:
        lines = (ran.stderr.strip() or ran.stdout.strip() or "it said nothing").splitlines()
        said = next((line for line in lines if line.startswith("E: ")), lines[-1])
        raise CheckFailedError(
            f"Debian's package prometheus could not be had ({command[0]}: {said}): "
            "mend apt's sources or network, or put prometheus and promtool on the PATH"
        )


def _check_runs(program: Path) -> None:
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
        problem = "" if answer.returncode == 0 else (answer.stderr.strip() or f"exit code {answer.returncode}")
    except OSError as error:
        problem = str(error)
    if problem:
        raise IncompatibleError(f"{program.name} of Debian's package does not run on this machine: {problem}")


def main() -> int:
    """Make sure that both programs are there; the exit code."""
    try:
        for program in PROGRAMS:
            find(program)
    except IncompatibleError:
        sys.stdout.write(f"==> unpacking Debian's package prometheus into {_FOLDER} (20 MB to download)\n")
        try:
            install()
        except RRRError as error:
            sys.stderr.write(f"prometheus: {error}\n")
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
