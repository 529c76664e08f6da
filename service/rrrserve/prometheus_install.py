"""Find prometheus and promtool: the machine's own, else a copy of Debian's package in the virtual environment.

    python -m rrrserve.prometheus_install

gets that copy where neither is there. It needs apt, not root: packages are downloaded and unpacked, not installed, and
where apt has no lists of packages yet it reads them into a folder of its own. The scripts and fonts that Prometheus's
web pages load are packages of their own.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rrrnet.errors import CheckFailedError, IncompatibleError, RRRError

PROGRAMS = ("prometheus", "promtool")
_FOLDER = Path(sys.prefix) / "prometheus"
_TIMEOUT_SECONDS = 300
_UNUSED = Path("usr/share/javascript/moment-timezone/data")  # 211 MB, which no page of Prometheus loads
_NAME = re.compile(r"(?:^|, )([\w.+-]+)")  # of a package in a list such as "libc6 (>= 2.34), libjs-jquery"


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


def page_options(binary: Path) -> list[str]:
    """The command-line options with which an unpacked prometheus finds its web pages."""
    pages = binary.parents[1] / "share" / "prometheus" / "web"
    return [f"--web.local-assets={pages}"] if binary.is_relative_to(_FOLDER) and pages.is_dir() else []


def install(folder: Path = _FOLDER) -> None:
    """Unpack Debian's package `prometheus` into `folder`; what was there is replaced only by a copy that runs.

    Raises:
        IncompatibleError: this machine has no apt or dpkg, or the package's programs do not run here.
        CheckFailedError: apt could not download a package; holds apt's own message.
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
        for package in _download(place):
            _run(["dpkg-deb", "--extract", package.name, str(unpacked)], place)
        shutil.rmtree(unpacked / _UNUSED, ignore_errors=True)
        for program in PROGRAMS:
            _check_runs(unpacked / "usr" / "bin" / program)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


def _download(place: Path) -> list[Path]:
    """The package and those of its pages in `place`, by the machine's lists of packages or else by fresh ones."""
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
    wanted = {"prometheus"}
    packages = list(place.glob("*.deb"))
    while new := set().union(*(_pages(package) for package in packages)) - wanted:
        _run([*apt, "download", *sorted(new)], place)
        wanted |= new
        packages = list(place.glob("*.deb"))
    return packages


def _pages(package: Path) -> set[str]:
    """Names of the packages of scripts and fonts that this one needs."""
    depends = _run(["dpkg-deb", "--field", package.name, "Depends"], package.parent)
    return {name for name in _NAME.findall(depends) if name.startswith(("libjs-", "fonts-"))}


def _run(command: list[str], place: Path) -> str:
    """What a command that ran in `place` wrote; what it complained of is shown only in the error."""
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
    return ran.stdout


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
        sys.stdout.write(f"==> unpacking Debian's package prometheus into {_FOLDER} (23 MB to download)\n")
        try:
            install()
        except RRRError as error:
            sys.stderr.write(f"prometheus: {error}\n")
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
