"""The command that installs what is missing, from where and into what this very program was installed."""

import json
import os
import shlex
import shutil
import sys
import sysconfig
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

_PACKAGE = "rrrnet-serving"


def install_line(extra: str) -> str:
    """The command that adds an extra of this package, or several with commas between them, to be pasted into a shell.

    Of an editable install it names the clone. A wheel is not looked for again: to pip, this package is there already,
    and only the packages of the extra are fetched.
    """
    folder = _clone()
    return pip_install(f"{_PACKAGE}[{extra}]") if folder is None else pip_install("-e", f"{folder}[{extra}]")


def missing(error: ModuleNotFoundError, extra: str) -> str | None:
    """What to say of a package that could not be imported and comes with an extra; None if it is one of ours."""
    package = str(error.name).partition(".")[0]
    if package.startswith("rrr"):
        return None
    return f"the Python package {package} is not installed: {install_line(extra)}"


def reinstall_line() -> str:
    """The command that installs this package again, and nothing else."""
    folder = _clone()
    given = ("--force-reinstall", _PACKAGE) if folder is None else ("-e", str(folder))
    return pip_install("--no-deps", *given)


def pip_install(*words: str) -> str:
    """`pip install` with these words, by a pip that installs into the environment that runs this."""
    return f"{_pip()} install {shlex.join(words)}"


@cache
def _clone() -> Path | None:
    """The folder that was installed with `pip install -e`, if it was and is there; PEP 610."""
    try:
        document = json.loads(distribution(_PACKAGE).read_text("direct_url.json") or "{}")
        editable = document.get("dir_info", {}).get("editable", False)
        folder = Path(url2pathname(urlsplit(document.get("url", "")).path))
    except (PackageNotFoundError, ValueError, AttributeError):
        return None
    return folder if editable and (folder / "pyproject.toml").is_file() else None


@cache
def _pip() -> str:
    """`pip` where that is this environment's: a person may call its `rrr` by path while another one is active."""
    on_path, own = shutil.which("pip"), sysconfig.get_path("scripts")
    if on_path is not None and os.path.realpath(Path(on_path).parent) == os.path.realpath(own):
        return "pip"
    python = shlex.quote(sys.executable)
    return f"{python} -m pip" if find_spec("pip") is not None else f"pip --python {python}"
