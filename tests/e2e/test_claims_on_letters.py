"""`rrr verify` on a real service: true claims about sets, probabilities and a cascade's speed pass, false ones fail."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.service import RRR, Service

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

SETS = {"kind": "coverage", "model": "cascade", "coverage": 0.8}
# A claim, and limits that are true and false of it.
CLAIMS: tuple[tuple[dict[str, Any], dict[str, float], dict[str, float]], ...] = (
    *(({**SETS, "effort": effort}, {"at_least": 0.7}, {"at_least": 0.9}) for effort in ("fast", "auto", "full")),
    ({"kind": "calibration", "model": "cascade"}, {"at_most_points": 10}, {}),
    ({"kind": "calibration", "model": "all"}, {}, {"at_most_points": 1}),  # as it was trained, which is too timid
    ({"kind": "speedup", "model": "cascade", "baseline": "resnet152"}, {"at_least": 2}, {"at_least": 40}),
)


@pytest.fixture(scope="module")
def service(letters: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("served")
    with Service(folder / "log", str(letters.repository), "--workers", "1", "--drain", "0") as served:
        yield served


def verify(letters: Any, url: str, claims: list[dict[str, Any]], folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and verdicts of the command, which sends the letters of the test split."""
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "claims": claims}))
    command = [str(RRR), "verify", "--claims", str(path), "--scrape", url, "--drive", "--seconds", "60", "--json"]
    command += ["--data", str(letters.data), "--repository", str(letters.repository)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.stdout, done.stderr
    verdicts: list[dict[str, Any]] = json.loads(done.stdout)["verdicts"]
    print([(one["name"], one["estimate"], one["interval"], one["explanation"]) for one in verdicts])
    return done.returncode, verdicts


def claims(place: int) -> list[dict[str, Any]]:
    """Those of `CLAIMS` with the limits at that place, where there are such."""
    return [
        {"name": f"{number}", **claim[0], **limits} for number, claim in enumerate(CLAIMS) if (limits := claim[place])
    ]


@pytest.mark.parametrize(("place", "verdict", "code"), [(1, "pass", 0), (2, "fail", 1)], ids=["true", "false"])
def test_true_claims_pass_and_false_ones_fail(
    service: Service, letters: Any, tmp_path: Path, place: int, verdict: str, code: int
) -> None:
    asked = claims(place)
    assert {claim["kind"] for claim in asked} == {"coverage", "calibration", "speedup"}
    ended, found = verify(letters, service.url, asked, tmp_path)
    assert [(one["name"], one["verdict"]) for one in found] == [(claim["name"], verdict) for claim in asked]
    assert ended == code
    for one in found:
        if one["kind"] != "speedup":
            assert one["samples"] == {one["models"][0]: 720}  # the whole test split
