"""benchmarks/quota.py: what it compares, and that it runs through where a cgroup can be made."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import quota
from rrrbench.cgroups import quota as limited
from rrrbench.earlier import known
from rrrnet.errors import CheckFailedError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Outer:
    path: Path
    inner: Inner
    note: str = ""


def test_an_earlier_code_is_told_only_what_it_has_fields_for() -> None:
    document = {"inner": {"size": 1, "new": 2}, "note": "x", "later": {"a": 1}}
    assert known(Outer, document) == {"inner": {"size": 1}, "note": "x"}


def test_the_bars_go_by_the_rounds() -> None:
    def row(throughput: float, p99_ms: float) -> dict[str, Any]:
        by_round = {"throughput_by_round": [throughput] * 3, "p99_ms_by_round": [p99_ms] * 3}
        return {**by_round, "threads": 90, "p50_ms": 50.0, "p99_ms": p99_ms, "throttled_share": 0.25}

    rows = {"quota": row(95, 120), "core": row(100, 100), "quota on core": row(99, 101), "before": row(80, 200)}
    lines = quota.tables({"rows": rows}).splitlines()
    assert lines[2] == "| quota | 95.0 | 50.0 | 120.0 | 25 % | 90 |"
    assert lines[-2:] == [
        "| answers/s: quota / core | at least 0.9 | 0.95 (0.95 to 0.95) | met |",
        "| p99 at 8: quota / before | at most 0.5 | 0.60 (0.60 to 0.60) | falls short |",
    ]


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_it_measures_all_four_and_leaves_no_cgroup_behind(tmp_path: Path) -> None:
    try:
        with limited(1.0) as group:
            above = group.folder.parent
    except CheckFailedError as error:
        pytest.skip(str(error))
    if subprocess.run(["git", "cat-file", "-e", quota.BEFORE], cwd=ROOT, capture_output=True).returncode:
        pytest.skip(f"git does not know the commit {quota.BEFORE} here")
    out = tmp_path / "quota.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "quota.py"), "--quick", "--cache", str(tmp_path)]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "p99 at 8: quota / before | at most 0.5 |" in done.stdout
    (case,) = json.loads(out.read_text())["quota"]
    assert list(case["rows"]) == ["quota", "core", "quota on core", "before"]
    assert all(len(row["p99_ms_by_round"]) == 2 and row["requests"] > 0 for row in case["rows"].values())
    assert case["rows"]["core"]["throttled_share"] == case["rows"]["quota on core"]["throttled_share"] == 0
    assert list(above.glob("rrr-quota-*")) == []
