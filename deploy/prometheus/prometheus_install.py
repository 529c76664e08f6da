"""Find prometheus and promtool: the machine's own, else a copy of Debian's package in the virtual environment.

    python deploy/prometheus/prometheus_install.py

gets that copy where neither is there. It needs apt, not root: packages are downloaded and unpacked, not installed, and
apt's lists of packages go into a folder of their own. The scripts and fonts of Prometheus's web pages are packages too.
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


def find(name: str, *, folder: Path = _FOLDER) -> Path:
    """The program on the PATH, else the copy that `make prometheus` unpacked.

    Args:
        name: "prometheus" or "promtool".
        folder: where `install` unpacked the package.

    Raises:
        IncompatibleError: it is in neither place; says how to get it.
    """
    unpacked = folder / "usr" / "bin" / name
    if found := shutil.which(name) or shutil.which(unpacked):
        return Path(found)
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
        IncompatibleError: this machine has no apt or dpkg.
        CheckFailedError: the package could not be downloaded or does not run here; holds the program's own message.
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
        for part in ("lists/partial", "cache/archives/partial"):
            (place / part).mkdir(parents=True)
        # apt gives downloads to a user who may not write here, and then warns of it: moot, for it runs as us.
        user = "root" if os.geteuid() == 0 else ""
        settings: dict[str, str | Path] = {"APT::Sandbox::User": user, "APT::Update::Error-Mode": "any"}
        settings |= {"Dir::State::lists": place / "lists", "Dir::Cache": place / "cache"}
        options = [f"--option={name}={value}" for name, value in settings.items()]
        _run(["apt-get", "--quiet", *options, "update"], place)
        needed = _run(["apt-cache", *options, "depends", "--recurse", "--important", "prometheus"], place)
        pages = re.findall(r"^(?:libjs|fonts)-\S+", needed, re.MULTILINE)
        _run(["apt-get", "--quiet", *options, "download", "prometheus", *pages], place)
        unpacked = place / "unpacked"
        for package in place.glob("*.deb"):
            _run(["dpkg-deb", "--extract", package.name, str(unpacked)], place)
        shutil.rmtree(unpacked / _UNUSED, ignore_errors=True)
        for program in PROGRAMS:
            _run([str(unpacked / "usr" / "bin" / program), "--version"], place)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


def _run(command: list[str], place: Path) -> str:
    """What a command that ran in `place` wrote; what it complained of is shown only in the error."""
    name = Path(command[0]).name
    try:
        ran = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CheckFailedError(f"{name} did not end within {_TIMEOUT_SECONDS} s: is there a network?") from error
    if ran.returncode != 0:
        lines = (ran.stderr.strip() or ran.stdout.strip() or "it said nothing").splitlines()
        said = next((line for line in lines if line.startswith("E: ")), lines[-1])
        raise CheckFailedError(
            f"Debian's package prometheus could not be had ({name}: {said}): "
            "mend apt's sources or network, or put prometheus and promtool on the PATH"
        )
    return ran.stdout


def main() -> int:
    """Make sure that both programs are there; the exit code."""
    try:
        for program in PROGRAMS:
            find(program)
    except IncompatibleError:
        print(f"==> unpacking Debian's package prometheus into {_FOLDER} (23 MB to download)", flush=True)
        try:
            install()
        except RRRError as error:
            print(f"prometheus: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
