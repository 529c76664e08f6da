"""`rrr bench` and `rrr verify` against a service with TLS."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from rrrbuild.repository_document import read_repository
from rrrserve.cli import run

SHORT = ("--model", "single", "--seconds", "0.3", "--warm-up", "0.1", "--rounds", "2", "--sizes", "32")
CLAIM = "version: 1\nclaims: [{name: quick, kind: latency, model: single, at_most_ms: 60000}]\n"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The certificate of an authority, beside the certificate (cert.pem) and key that it made for 127.0.0.1."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = made.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(tmp_path / "cert.pem"), append=True)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    return tmp_path / "ca.pem"


@pytest.fixture
def secured(authority: Path, repository: Path, start_service: Callable[..., Any]) -> str:
    """URL of a service with TLS."""
    files = [str(authority.with_name(name)) for name in ("cert.pem", "key.pem")]
    served = start_service(str(repository), "--port", "0", "--tls-cert", files[0], "--tls-key", files[1])
    assert served.url.startswith("https://127.0.0.1:")
    return str(served.url)


def said_by(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON (empty without any), and all that was said."""
    capsys.readouterr()
    code = run([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err


@pytest.mark.nightly
def test_a_service_with_tls_is_benched_driven_and_judged_by_its_own_authority(
    secured: str, authority: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for connections in ("--keep-alive", "--no-keep-alive"):
        load = ("--concurrency", 3, "--rate", 20, connections)
        code, document, said = said_by(capsys, "bench", "--url", secured, "--ca", authority, *SHORT, *load)
        assert code == 0, said
        assert [(run["mode"], run["errors"]) for run in document["runs"]] == [("closed", {}), ("open", {})]
        assert all(run["ok"] > 0 for run in document["runs"])
        assert {run["where"] for run in document["runs"]} == {f"{secured}/v1/models/single/predict"}
    claims = tmp_path / "claims.yaml"
    claims.write_text(CLAIM)
    drive = ("--claims", claims, "--scrape", secured, "--drive", "--seconds", 60)
    code, document, said = said_by(capsys, "verify", *drive, "--ca", authority)
    assert (code, document["verdicts"][0]["verdict"]) == (0, "pass"), said
    assert document["verdicts"][0]["evidence"]["client"]["single"]["errors"] == {}
    assert document["measured"][0]["repositories"] == [read_repository(repository).short_digest]


def test_an_authority_that_is_not_trusted_is_said_in_one_line_that_names_the_option(
    secured: str, authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = tmp_path / "claims.yaml"
    claims.write_text(CLAIM)
    for trust in ((), ("--ca", authority.with_name("stranger.pem"))):
        code, document, said = said_by(capsys, "bench", "--url", secured, *SHORT, *trust)
        assert (code, document, said.count("\n")) == (1, {}, 1), said
        assert said.startswith(f"rrr: no answer from {secured}: its certificate is not trusted (")
        assert said.endswith("): --ca FILE names the PEM certificates to trust\n")
        for source in (("--scrape", secured), ("--scrape", secured, "--drive"), ("--prometheus", secured)):
            code, document, _ = said_by(capsys, "verify", "--claims", claims, *source, "--seconds", 60, *trust)
            (verdict,) = document["verdicts"]
            assert (code, verdict["verdict"], verdict["reason"]) == (1, "undecided", "target_down")
            assert "failed over TLS: its certificate is not trusted (" in verdict["explanation"]
            assert "): --ca FILE names the PEM certificates to trust" in verdict["explanation"]


def test_https_asked_of_a_plain_port_is_told(
    service: Any, authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = tmp_path / "claims.yaml"
    claims.write_text(CLAIM)
    url = service.url.replace("http://", "https://")
    expected = "a service without --tls-cert is asked with http://, one with it needs --ca FILE"
    code, _, said = said_by(capsys, "bench", "--url", url, *SHORT, "--ca", authority)
    assert (code, said.count("\n")) == (1, 1)
    assert expected in said
    _, document, _ = said_by(capsys, "verify", "--claims", claims, "--scrape", url, "--drive", "--ca", authority)
    assert expected in document["verdicts"][0]["explanation"]
