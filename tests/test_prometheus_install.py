"""Finding Prometheus's programs, and what is said where they cannot be had."""

import subprocess
import sys
from pathlib import Path

import pytest

import prometheus_install
from rrrnet.errors import CheckFailedError, IncompatibleError


def test_both_programs_are_here_and_run() -> None:
    for name in prometheus_install.PROGRAMS:
        program = prometheus_install.find(name)
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        assert said.startswith(f"{name}, version ")


def test_a_program_on_the_path_comes_before_the_unpacked_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("path", "copy/usr/bin"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "promtool").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert prometheus_install.find("promtool", folder=tmp_path / "copy") == tmp_path / "path" / "promtool"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prometheus_install.find("promtool", folder=tmp_path / "copy") == tmp_path / "copy/usr/bin/promtool"


def test_where_it_is_missing_the_error_tells_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(IncompatibleError, match=r"no promtool on the PATH nor in .*: make prometheus .*apt install"):
        prometheus_install.find("promtool", folder=tmp_path / "none")
    with pytest.raises(IncompatibleError, match="no apt-get and no dpkg-deb here"):
        prometheus_install.install(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_apts_own_message_is_passed_on_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text("#!/bin/sh\necho 'W: a warning' >&2\necho 'E: Unable to locate package prometheus' >&2\nexit 100\n")
    apt.chmod(0o755)
    (tmp_path / "bin" / "dpkg-deb").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(CheckFailedError, match=r"\(apt-get: E: Unable to locate package prometheus\): mend apt's"):
        prometheus_install.install(tmp_path / "venv" / "prometheus")
    assert list((tmp_path / "venv").iterdir()) == []
