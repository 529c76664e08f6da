"""Hostile bytes for a real `rrr serve`: no answer of ours may be a 500, no process may end, memory stays bounded.

    .venv/bin/python tests/long fuzz [REPOSITORY] [--requests 20000] [--seed 0] [--examples 50]

Mutated images, forms, JSON, headers, chunks and raw HTTP; then requests that schemathesis makes from /docs.json.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from harness.bounds import Bounds
from harness.fuzzing import Findings, fuzz
from harness.mutations import Mutator
from harness.service import Service
from rrrbench import contenders
from rrrbench.environment import ResultFile

TIMEOUT_MS = 1000
MOST_GROWTH_MB = 300.0
_CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
_SAMPLE_SECONDS = 0.1


class Watch(threading.Thread):
    """Samples the memory of all processes of a service, and sees which of them end.

    Attributes:
        peak_mb: most memory of all processes together, 10^6 bytes.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._processes = service.children()
        self._ended = threading.Event()
        self.idle_mb = self.peak_mb = self._memory_mb()
        self.ended = 0

    def run(self) -> None:
        """Sample until told to stop."""
        while not self._ended.wait(_SAMPLE_SECONDS):
            self.ended = sum(not process.is_running() for process in self._processes)
            if not self.ended:
                self.peak_mb = max(self.peak_mb, self._memory_mb())

    def stop(self) -> None:
        """End the sampling."""
        self._ended.set()
        self.join()

    def _memory_mb(self) -> float:
        return float(sum(process.memory_info().rss for process in self._processes)) / 1e6


def schemathesis(url: str, options: argparse.Namespace) -> tuple[int, str]:
    """Requests made from the OpenAPI document; exit code and output."""
    command = [sys.executable, "-m", "schemathesis.cli"]
    command += ["--config-file", str(Path(__file__).with_name("schemathesis.toml"))]
    command += ["run", f"{url}/docs.json", "--checks", _CHECKS, "--max-examples", str(options.examples)]
    command += ["--seed", str(options.seed), "--workers", "1", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=options.cache)
    return done.returncode, done.stdout + done.stderr


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line."""
    parser.add_argument("repository", type=Path, nargs="?", help="default: 8 members at 64 pixels, made if need be")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--examples", type=int, default=50, help="of schemathesis, for each operation; 0 for none")


def fuzzed(service: Service, options: argparse.Namespace) -> Findings:
    """Send all mutated requests."""
    mutator = Mutator(options.seed, timeout_ms=TIMEOUT_MS)
    patience_seconds = TIMEOUT_MS / 1000 + 2.0  # half a second until a sweep, the rest for a busy machine
    address = "127.0.0.1", service.port
    return asyncio.run(
        fuzz(address, mutator, options.requests, concurrency=options.concurrency, patience_seconds=patience_seconds)
    )


def run(options: argparse.Namespace, result: ResultFile, bounds: Bounds) -> None:
    """Fuzz and judge."""
    os.environ |= {f"RRR_{name}_TIMEOUT_MS": str(TIMEOUT_MS) for name in ("REQUEST", "MAX_REQUEST", "HEADER")}
    repository = options.repository or contenders.exact_repository(options.cache)
    with Service(options.cache / "logs" / "fuzz.log", str(repository)) as service:
        service.golden("top_k=1", [Mutator(0, timeout_ms=TIMEOUT_MS).good().partition(b"\r\n\r\n")[2]])
        watch = Watch(service)
        watch.start()
        started = time.monotonic()
        findings = fuzzed(service, options)
        seconds = time.monotonic() - started
        code, output = schemathesis(service.url, options) if options.examples else (0, "")
        watch.stop()
        log = service.log.read_text(errors="replace")
    case = {
        "requests": options.requests,
        "seconds": seconds,
        "kinds": dict(findings.kinds),
        "statuses": {str(status): count for status, count in sorted(findings.statuses.items())},
        "faults": len(findings.faults),
        "slowest_seconds": findings.slowest_seconds,
        "idle_mb": watch.idle_mb,
        "peak_mb": watch.peak_mb,
        "processes_ended": watch.ended,
        "schemathesis_examples": options.examples,
        "schemathesis_exit_code": code,
        "log_lines": len(log.splitlines()),
    }
    result.record("fuzz", {"seed": options.seed}, case)
    grown = watch.peak_mb - watch.idle_mb
    bounds.check("faults:\n  " + "\n  ".join(findings.faults[:20]), not findings.faults)
    bounds.check(f"{watch.ended} processes ended", not watch.ended)
    bounds.check(f"memory grew by {grown:.0f} MB", grown <= MOST_GROWTH_MB)
    bounds.check(f"schemathesis:\n{output[-6000:]}", code == 0)
    bounds.check("a traceback in the log", "Traceback" not in log)


def summary(document: dict[str, Any]) -> str:
    """All that a result file says, a line each."""
    return "\n".join(f"{name}: {value}" for case in document["fuzz"] for name, value in case.items())
