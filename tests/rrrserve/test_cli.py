"""The command line itself: the way, the version, a list of commands that is out of date, and the next step."""

import json
import shlex
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rrrbuild.commands.first_step import first_step
from rrrnet import __version__
from rrrnet.installing import reinstall_line
from rrrserve import cli
from rrrserve.commands.serve import _asking
from rrrserve.commands.verify import _next
from rrrserve.config.service_config import ServiceConfig
from rrrserve.net.tls import TlsFiles

Capture = pytest.CaptureFixture[str]
WAY = ["train", "build", "repository", "serve", "predict"]


def test_rrr_alone_shows_the_way_and_then_the_commands(capsys: Capture) -> None:
    assert cli.run([]) == 2
    printed = capsys.readouterr().out
    commands = [line.split("  ")[1] for line in printed.splitlines() if line.startswith(("  rrr ", "  curl "))]
    assert [shlex.split(command)[1] for command in commands] == [*WAY[:4], "-T"]
    assert printed.index("curl -T") < printed.index("Usage: rrr") < printed.index("evaluate  ")
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_the_version_is_one_line(capsys: Capture) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"rrr {__version__}\n"


def test_without_metadata_the_version_is_known_and_commands_say_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda *, group: [])
    assert cli.run(["--version"]) == 0
    assert cli.run(["train", "--data", "x"]) == 4
    assert "the command train is not in the list that was made when rrr was installed" in (
        error := capsys.readouterr().err
    )
    assert reinstall_line() in error
    assert cli.run([]) == 2


def test_stale_metadata_costs_one_command_and_no_other(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    stale = {
        "describe": "rrrnet.commands.describe:describe",
        "train": "rrrnet.commands.elsewhere:train",
        "build": "rrrbuild.commands.build:gone",
        "theirs": "nobody_has_this:command",
    }
    monkeypatch.setattr(cli, "entry_points", lambda *, group: [EntryPoint(*item, group) for item in stale.items()])
    assert cli.run(["describe", "--json"]) == 0
    for name, reason in {
        "train": "No module named 'rrrnet.commands.elsewhere'",
        "build": "has no attribute 'gone'",
        "theirs": "No module named 'nobody_has_this'",
    }.items():
        assert cli.run([name, "--any", "thing"]) == 4
        error = capsys.readouterr().err
        assert f"the command {name} cannot be loaded: " in error
        assert reason in error
        assert "Traceback" not in error


def test_the_last_line_for_people_is_the_next_step_and_json_has_none(capsys: Capture) -> None:
    for arguments, following in (
        (
            ["describe", "--members", "4", "--aligned"],
            "rrr train --data my_images --out artifacts/models/mine --members 4",
        ),
        (["targets"], "rrr "),
    ):
        assert cli.run(arguments) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(f"next: {following}")
        assert cli.run([*arguments, "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)
        assert "next: " not in printed.out + printed.err


def test_the_first_step_takes_the_newest_artifact_further(tmp_path: Path) -> None:
    assert first_step(tmp_path) == ("rrr", "train", "--data", "my_images", "--out", tmp_path / "models" / "mine")
    steps = []
    for file in ("models/mine/model.json", "engines/mine/openvino-fp32/manifest.json", "repository/repository.json"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
        steps.append(" ".join(map(str, first_step(tmp_path))))
    assert steps == [
        f"rrr build {tmp_path}/models/mine",
        f"rrr repository {tmp_path}/engines/mine --out artifacts/repository",
        f"rrr serve {tmp_path}/repository",
    ]


def test_a_service_is_asked_as_it_has_to_be(tmp_path: Path) -> None:
    plain = ServiceConfig(repository=tmp_path)
    safe = plain.model_copy(update={"tls": TlsFiles(Path("cert.pem"), Path("key.pem"))})
    closed = safe.model_copy(update={"token_digests": ("0",)})
    url = "https://127.0.0.1:3000"
    assert _asking(url, plain, None) == ["curl", "-T", "IMAGE", f"{url}/v1/predict"]
    assert _asking(url, safe, None) == ["curl", "--cacert", Path("cert.pem"), "-T", "IMAGE", f"{url}/v1/predict"]
    asked = ["rrr", "predict", "IMAGE", "--url", url]
    assert _asking(url, closed, Path("tokens")) == [*asked, "--token-file", Path("tokens"), "--ca", Path("cert.pem")]


def test_ctrl_c_while_packages_are_loaded_is_a_line_and_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "make_app", interrupted)
    assert cli.run(["train"]) == 130
    assert capsys.readouterr().err == "rrr: interrupted before it began\n"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("too_few_samples", "rrr verify --scrape U --drive --seconds 32"),
        ("target_down", "rrr serve artifacts/repository"),
    ],
)
@pytest.mark.parametrize("seconds", [["--seconds", "8"], ["--seconds=8"]])
def test_an_undecided_claim_is_followed_by_more_seconds_or_by_the_service(
    seconds: list[str], reason: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["rrr", "verify", "--scrape", "U", *seconds, "--drive"])
    document = {"verdicts": [{"verdict": "undecided", "reason": reason, "models": ["mine"]}]}
    source: Any = SimpleNamespace(scrape=("U",), seconds=8, repository=Path("artifacts/repository"))
    assert [str(word) for word in _next(document, source, None)] == words.split()
