"""Hostile bytes for a real `rrr serve`: no answer of ours may be a 500, no process may end, memory stays bounded.

    .venv/bin/python benchmarks/fuzz.py REPOSITORY [--requests 20000] [--seed 0] [--examples 50]

Mutated images, forms, JSON, headers, chunks and raw HTTP; then requests that schemathesis makes from /docs.json. A
bound that was missed is named, and the exit code is 1. The result is benchmarks/results/fuzz.json.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from rrrbench.chaos_service import Service
from rrrbench.environment import RESULTS, ROOT, ResultFile
from rrrbench.fuzzing import fuzz
from rrrbench.mutations import Mutator
from rrrbench.servers import ending_on_sigterm

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


def schemathesis(url: str, seed: int, examples: int) -> tuple[int, str]:
    """Requests made from the OpenAPI document; exit code and output."""
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(ROOT / "benchmarks" / "schemathesis.toml"),
    ]
    command += ["run", f"{url}/docs.json", "--checks", _CHECKS]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--workers", "1", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "artifacts")
    return done.returncode, done.stdout + done.stderr


def main() -> None:
    """Fuzz, print and judge."""
    ending_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--examples", type=int, default=50, help="of schemathesis, for each operation; 0 for none")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json")
    options = parser.parse_args()
    os.environ |= {"RRR_REQUEST_TIMEOUT_MS": str(TIMEOUT_MS), "RRR_MAX_REQUEST_TIMEOUT_MS": str(TIMEOUT_MS)}
    os.environ["RRR_HEADER_TIMEOUT_MS"] = str(TIMEOUT_MS)
    service = Service(options.repository, ROOT / "artifacts" / "benchmarks" / "logs" / "fuzz.log")
    missed: list[str] = []
    try:
        service.golden("top_k=1", [Mutator(0, timeout_ms=TIMEOUT_MS).good().partition(b"\r\n\r\n")[2]])
        watch = Watch(service)
        watch.start()
        parts = urlsplit(service.url)
        address = str(parts.hostname), int(parts.port or 80)
        mutator = Mutator(options.seed, timeout_ms=TIMEOUT_MS)
        started = time.monotonic()
        patience_seconds = TIMEOUT_MS / 1000 + 2.0  # half a second until a sweep, the rest for a busy machine
        findings = asyncio.run(
            fuzz(address, mutator, options.requests, concurrency=options.concurrency, patience_seconds=patience_seconds)
        )
        seconds = time.monotonic() - started
        code, output = schemathesis(service.url, options.seed, options.examples) if options.examples else (0, "")
        watch.stop()
        log = service.log.read_text(errors="replace")
    finally:
        service.kill()
    case = {
        "requests": options.requests,
        "seconds": seconds,
        "kinds": dict(findings.kinds),
        "statuses": {str(status): count for status, count in sorted(findings.statuses.items())},
        "faults": findings.fault_count,
        "slowest_seconds": findings.slowest_seconds,
        "idle_mb": watch.idle_mb,
        "peak_mb": watch.peak_mb,
        "processes_ended": watch.ended,
        "schemathesis_examples": options.examples,
        "schemathesis_exit_code": code,
        "log_lines": len(log.splitlines()),
    }
    ResultFile(options.out).record("fuzz", {"seed": options.seed}, case)
    for name, value in case.items():
        print(f"{name}: {value}")
    checks = {
        "faults:\n  " + "\n  ".join(findings.faults): not findings.fault_count,
        f"{watch.ended} processes ended": not watch.ended,
        f"memory grew by {watch.peak_mb - watch.idle_mb:.0f} MB": watch.peak_mb - watch.idle_mb <= MOST_GROWTH_MB,
        f"schemathesis:\n{output[-6000:]}": code == 0,
        "a traceback in the log": "Traceback" not in log,
    }
    missed = [what for what, holds in checks.items() if not holds]
    for what in missed:
        print(f"MISSED: {what}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
