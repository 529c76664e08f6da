"""Tokens, TLS files, log lines and warnings, each by itself; tests/reliability/test_exposure.py has them together."""

import datetime as dt
import io
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from rrrnet.errors import RRRError, UsageError
from rrrserve.api.endpoint import Access
from rrrserve.api.errors import APIError
from rrrserve.config.service_config import ServiceConfig
from rrrserve.net import tls
from rrrserve.net.tokens import client_headers, digests_of, tokens_of
from rrrserve.process import logs
from rrrserve.supervise import front_door
from rrrserve.triton.release import age_warning

RRR = Path(sys.executable).parent / "rrr"
TOKEN = "0123456789abcdef"


@pytest.fixture
def own_log() -> Iterator[io.StringIO]:
    """A place for the log; the loggers are as they were afterwards."""
    root, others = logging.getLogger(), [logging.getLogger(f"rrrserve{name}") for name in ("", ".access", ".life")]
    before = root.handlers[:], root.level, [item.level for item in others]
    yield io.StringIO()
    root.handlers[:], level, levels = before
    root.setLevel(level)
    for item, number in zip(others, levels, strict=True):
        item.setLevel(number)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates and keys: good, of another key, expired, not valid yet."""
    folder = tmp_path_factory.mktemp("pem")
    authority, now = trustme.CA(), dt.datetime.now(dt.UTC)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    day = dt.timedelta(days=1)
    issued = {
        "good": authority.issue_cert("localhost"),
        "other": authority.issue_cert("localhost"),
        "old": authority.issue_cert("localhost", not_before=now - 2 * day, not_after=now - day),
        "early": authority.issue_cert("localhost", not_before=now + day, not_after=now + 2 * day),
    }
    for name, certificate in issued.items():
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    (folder / "garbage").write_bytes(b"\x00garbage\n")
    (folder / "empty").touch()
    return folder


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds 0 tokens: allowed are 1 to 16"),
        (b"\n \n", "holds 0 tokens"),
        (f"{TOKEN}\n".encode() * 17, "holds 17 tokens"),
        (b"short", "token 1 of .* has 5 characters or a wrong one: allowed are 16 to 1024"),
        (f"{TOKEN}\ntwo words in a line".encode(), "token 2 of "),
        (TOKEN.encode() + b"\xff", "token 1 of "),
        (b"a" * 1025, "has 1025 characters"),
        (b"a" * 70_000, "larger than 65536 bytes"),
    ],
)
def test_a_bad_token_file_is_refused_without_telling_what_it_holds(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=told) as caught:
        tokens_of({"RRR_TOKEN_FILE": str(path)})
    assert not any(word in str(caught.value) for word in (TOKEN, "short", "two words", "aaaa"))


def test_tokens_come_from_one_place(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"  {TOKEN} \r\n\n{TOKEN}==\n")
    assert tokens_of({}) == ()
    assert tokens_of({"RRR_TOKEN": TOKEN}) == (TOKEN,)
    assert tokens_of({"RRR_TOKEN_FILE": str(tmp_path / "tokens")}) == (TOKEN, f"{TOKEN}==")
    with pytest.raises(UsageError, match="RRR_TOKEN and a token file are both set"):
        tokens_of({"RRR_TOKEN": TOKEN, "RRR_TOKEN_FILE": str(tmp_path / "tokens")})
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        tokens_of({"RRR_TOKEN_FILE": str(tmp_path / "none")})
    assert client_headers({"RRR_TOKEN": "x" * 16}, tmp_path / "tokens") == {"Authorization": f"Bearer {TOKEN}"}
    assert client_headers({}) == {}


def test_without_tokens_everybody_is_answered_and_no_token_shows_in_a_representation() -> None:
    Access().check("/v1/predict", {})
    guarded = Access(digests_of((TOKEN,)))
    guarded.check("/v1/predict", {b"authorization": f"Bearer {TOKEN}".encode()})
    guarded.check("/livez", {})
    assert (Access().needs_token, guarded.needs_token) == (False, True)
    assert TOKEN not in repr(vars(guarded))
    for sent in (b"", b"Bearer", b"Bearer ", b"Bearer \xff\x00", TOKEN.encode(), b"Bearer " + b"a" * 10_000):
        with pytest.raises(APIError) as caught:
            guarded.check("/v1/predict", {b"authorization": sent})
        assert (caught.value.status, caught.value.code) == (401, "unauthorized")
        assert "WWW-Authenticate" in caught.value.headers


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("good.pem", None, "--tls-cert and --tls-key belong together"),
        (None, "good.key", "belong together"),
        ("none", "good.key", "--tls-cert .*none cannot be read: No such file"),
        ("good.pem", "none", "--tls-key .*none cannot be read: No such file"),
        (".", "good.key", "--tls-cert .* cannot be read: Is a directory"),
        ("garbage", "good.key", "--tls-cert .*garbage holds no certificate"),
        ("empty", "good.key", "--tls-cert .*empty holds no certificate"),
        ("good.key", "good.key", "--tls-cert .*good.key holds no certificate"),
        ("good.pem", "garbage", "--tls-key .*garbage holds no private key"),
        ("good.pem", "good.pem", "--tls-key .*good.pem holds no private key"),
        ("good.pem", "other.key", "other.key is not the key of the certificate .*good.pem"),
        ("old.pem", "old.key", "of no use to clients: certificate has expired"),
        ("early.pem", "early.key", "of no use to clients: certificate is not yet valid"),
    ],
)
def test_unusable_tls_files_are_told_in_one_line(
    pem: Path, certificate: str | None, key: str | None, told: str
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        tls.files_of(pem / certificate if certificate else None, pem / key if key else None)
    assert "\n" not in str(caught.value)


def test_a_key_with_a_password_does_not_ask_for_it(pem: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key((pem / "good.key").read_bytes(), None)
    locked = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret"))
    (pem / "locked.key").write_bytes(locked)
    with pytest.raises(UsageError, match="holds no private key in PEM form that can be read without a password"):
        tls.files_of(pem / "good.pem", pem / "locked.key")


def test_tls_begins_at_1_2_and_good_files_pass(pem: Path) -> None:
    files = tls.files_of(pem / "good.pem", pem / "good.key")
    assert files is not None
    assert tls.server_context(files).minimum_version is ssl.TLSVersion.TLSv1_2
    assert tls.client_trust(pem / "ca.pem").verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(UsageError, match=r"--ca .*garbage holds no certificate"):
        tls.client_trust(pem / "garbage")
    with pytest.raises(UsageError, match=r"--ca .*none cannot be read"):
        tls.client_trust(pem / "none")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tls-cert", "good.pem", "--tls-key", "other.key"),
        ("--token-file", "none"),
        ("--log-format", "xml"),
        ("--port", "80"),
    ],
    ids=" ".join,
)
def test_a_bad_setting_ends_the_start_in_one_line_before_anything_listens(
    pem: Path, arguments: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    options = arguments if "--port" in arguments else (*arguments, "--port", port)
    ended = subprocess.run(
        [str(RRR), "serve", "nowhere", *options], cwd=pem, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("rrr: ")


def test_a_port_in_use_is_named_in_either_format_of_the_log(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        command = [str(RRR), "serve", str(tmp_path), "--port", str(port)]
        plain, ended = (
            subprocess.run([*command, *more], capture_output=True, text=True) for more in ([], ["--log-format", "json"])
        )
    told = f"127.0.0.1 port {port} is in use: stop what listens there, or choose another --port"
    assert (plain.returncode, plain.stderr) == (2, f"rrr: {told}\n")
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert json.loads(line)["event"] == told
    assert json.loads(line)["level"] == "critical"


HOSTILE = "a\r\nFORGED line\x1b[31m\x00\u2028\u202e\ud800 \"'\\ é"


@pytest.mark.parametrize("style", logs.FORMATS)
def test_a_line_of_the_log_cannot_be_forged_and_has_at_most_1_kib(own_log: io.StringIO, style: str) -> None:
    logs.configure(style, stream=own_log)
    logging.getLogger("rrrserve").warning("from elsewhere: %s", HOSTILE)
    logging.getLogger("other").error("%s", HOSTILE * 1000)
    lines = own_log.getvalue().split("\n")
    assert lines.pop() == ""
    assert len(lines) == 2
    assert all(line.isascii() and line.isprintable() and len(line) < logs.MOST_BYTES for line in lines)
    if style == "json":
        first, second = map(json.loads, lines)
        assert first["event"].startswith("from elsewhere: a\\r\\nFORGED line\\x1b[31m\\x00\\u2028")
        assert (first["level"], second["logger"]) == ("warning", "other")
        assert second["event"].endswith("...")


NAMES = [f"model-{index:02}-{'x' * 24}" for index in range(30)]  # of 33 characters


@pytest.mark.parametrize("style", logs.FORMATS)
@pytest.mark.parametrize(
    "fields",
    [
        {"models": NAMES},
        {"models": [HOSTILE * 50] * 50},
        {"text": '"\\\n' * 100_000},
        {"number": 10**4000},
        {"odd": [float("nan"), Path("/x"), {"a": b"b"}, [NAMES]]},
        {f"field-{index}": "é" * 99 for index in range(200)},
    ],
    ids=["30 models", "hostile list", "long text", "long number", "odd values", "200 fields"],
)
def test_a_line_with_long_fields_ends_within_1_kib(own_log: io.StringIO, style: str, fields: dict[str, Any]) -> None:
    logs.configure(style, stream=own_log)
    logs.tell('"' * 500, **fields)
    (line,) = own_log.getvalue().splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < logs.MOST_BYTES
    if style == "json":
        assert json.loads(line, parse_constant=pytest.fail)["event"].startswith('"""')


def test_of_too_many_models_as_many_are_named_as_fit(own_log: io.StringIO) -> None:
    logs.configure("json", stream=own_log)
    logs.tell("ready", models=NAMES)
    told = json.loads(own_log.getvalue())
    assert told["event"] == "ready"
    assert told["models"] == [*NAMES[:18], "... 12 more"]


@pytest.mark.parametrize("style", logs.FORMATS)
def test_a_fault_is_logged_with_its_place_and_not_with_its_text(own_log: io.StringIO, style: str) -> None:
    logs.configure(style, stream=own_log)
    try:
        int("bytes of a client")
    except ValueError:
        logging.getLogger("rrrserve").exception("request %s failed", "mine-1")
    assert "client" not in own_log.getvalue()
    assert "ValueError at test_defaults.py:" in own_log.getvalue()
    assert own_log.getvalue().count("\n") == 1


def test_requests_are_logged_only_where_that_is_wanted(own_log: io.StringIO) -> None:
    for access in (False, True):
        logs.configure("json", access=access)
        logging.getLogger().handlers[0].setStream(own_log)  # type: ignore[attr-defined]
        logs.log_request(request_id=str(access), route="/v1/predict", model="m", status=200, seconds=0.0123456)
    (line,) = own_log.getvalue().splitlines()
    assert json.loads(line)["request_id"] == "True"
    assert json.loads(line)["duration_ms"] == 12.346
    with pytest.raises(UsageError, match="RRR_LOG_FORMAT is 'xml': allowed are text and json"):
        logs.configure("xml")


@pytest.mark.parametrize(
    ("version", "old"),
    [("2.51.0", True), ("2.59.1", True), ("1.99.0", True), ("2.60.0", False), ("2.73.0", False), ("3.0.0", False)],
)
def test_a_triton_before_25_08_is_warned_of(version: str, old: bool) -> None:
    warning = age_warning(version)
    assert (warning is not None) == old
    if warning is not None:
        assert "\n" not in warning
        assert "older than 2.60 (release 25.08)" in warning


def test_a_triton_that_tells_no_version_is_warned_of_in_one_short_line() -> None:
    warning = age_warning("x\n" * 5000)
    assert warning is not None
    assert len(warning) < 300


def test_what_is_open_is_told(pem: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    token_file = tmp_path / "tokens"
    token_file.write_text(TOKEN)
    token_file.chmod(0o600)
    (pem / "good.key").chmod(0o600)
    files = tls.TlsFiles(pem / "good.pem", pem / "good.key")

    def told(host: str, *, token: bool, secured: bool, cors: tuple[str, ...] = ()) -> list[str]:
        caplog.clear()
        digests = digests_of((TOKEN,)) if token else ()
        config = ServiceConfig(tls=files if secured else None, token_digests=digests, cors=cors)
        front_door.warn_of_what_is_open(host, config, token_file if token else None)
        return [record.getMessage() for record in caplog.records]

    assert told("127.0.0.1", token=False, secured=False) == []
    assert told("localhost", token=False, secured=False) == []
    assert told("::", token=True, secured=True) == []
    assert told("127.0.0.1", token=True, secured=False, cors=("*",)) == []
    assert told("127.0.0.1", token=False, secured=False, cors=("https://a",)) == []
    assert told("127.0.0.1", token=False, secured=False, cors=("*",))[0].startswith(
        "any page in a browser that reaches"
    )
    assert told("0.0.0.0", token=False, secured=True)[0].startswith("whoever reaches 0.0.0.0 may use")  # noqa: S104
    assert told("10.0.0.1", token=True, secured=False)[0].startswith("the token crosses the network in the clear")
    token_file.chmod(0o644)
    assert told("127.0.0.1", token=True, secured=False) == [
        f"every user of this machine can read {token_file}: chmod o-r"
    ]


def test_a_failure_is_in_the_json_log_and_else_the_command_lines(own_log: io.StringIO) -> None:
    with pytest.raises(RRRError), front_door.failures_in_log("text"):
        raise UsageError("a reason")
    logs.configure("json", stream=own_log)
    with pytest.raises(SystemExit) as caught, front_door.failures_in_log("json"):
        raise UsageError("a reason")
    assert caught.value.code == 2
    assert json.loads(own_log.getvalue())["event"] == "a reason"


def test_no_command_reports_to_anybody() -> None:
    code = (
        "import os; from rrrserve.cli import run; run(['targets', '--json']); "
        "print({name: os.environ[name] for name in ('BENTOML_DO_NOT_TRACK', 'HF_HUB_DISABLE_TELEMETRY')})"
    )
    environment = {name: value for name, value in os.environ.items() if "TRACK" not in name}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "{'BENTOML_DO_NOT_TRACK': 'True', 'HF_HUB_DISABLE_TELEMETRY': '1'}" in told.stdout
