"""Harm artifacts and settings in many ways, and count what got through: nothing may.

    .venv/bin/python benchmarks/artifacts.py [--seed 0]

flips            single bits turned over in every kind of file: refused before a parser sees the file, exit code 3
kills            writers of engines and repositories killed at seeded steps: the old or the new artifact, whole
configurations   wrong flags, addresses, ports and variables: exit code 2, one line, nothing started

What was missed is named, and the exit code is 1. Tiny networks; the checks do not depend on their size.
"""

import argparse
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from rrrbench import killed_writers
from rrrbench.broken import BUSY, CONFIGURATIONS, ENGINE, REPOSITORY
from rrrbench.damage import flip_bit
from rrrbench.environment import RESULTS, ResultFile
from rrrbench.names import SINGLE
from rrrbench.networks import CACHE, Networks
from rrrbuild.repository import write_repository

_RRR = Path(sys.executable).parent / "rrr"
_PIXELS = 32
_SECONDS = 2.0


class Trials:
    """The artifacts, and what is done to copies of them."""

    def __init__(self, options: argparse.Namespace, result: ResultFile) -> None:
        self.options = options
        self.result = result
        self.random = random.Random(options.seed)  # noqa: S311  repeatable, not secret
        self.misses: list[str] = []
        cache = options.cache.absolute()
        self.folder = cache / "harmed"
        shutil.rmtree(self.folder, ignore_errors=True)
        networks = Networks(cache / "tiny", tiny=True, largest_batch=8)
        self.checkpoint = networks.checkpoint(SINGLE, _PIXELS).path
        targets = ("onnxruntime-fp32", "openvino-fp32", "tensorrt-rtx-fp16")
        self.engines = {target: networks.engine_folder(SINGLE, _PIXELS, target) for target in targets}
        self.repository = self.folder / "repository"
        self.folder.mkdir(parents=True)
        write_repository([self.engines["onnxruntime-fp32"]], self.repository, backends=frozenset({"python"}))

    def check(self, what: str, holds: bool) -> None:
        """Remember what got through."""
        if not holds:
            self.misses.append(what)
            print(f"MISSED: {what}", flush=True)

    def flips(self) -> None:
        """Turn single bits over, and let a command meet each."""
        copy, out = self.folder / "copy", self.folder / "out"
        read = ["repository", str(copy), "--out", str(out), "--backends", "python"]
        serve = ["serve", str(copy), "--port", "0"]
        build = ["build", str(copy), "--target", "onnxruntime-fp32", "--out", str(out)]
        kinds = [
            (self.checkpoint, "model.safetensors", build),
            (self.checkpoint, "model.json", build),
            (self.engines["onnxruntime-fp32"], "model.onnx", read),
            (self.engines["openvino-fp32"], "model.xml", read),
            (self.engines["openvino-fp32"], "model.bin", read),
            (self.engines["tensorrt-rtx-fp16"], "model.plan", read),
            (self.engines["openvino-fp32"], "manifest.json", read),
            (self.repository, f"{SINGLE}/config.pbtxt", serve),
            (self.repository, f"{SINGLE}/1/model.py", serve),
            (self.repository, "repository.json", serve),
        ]
        for folder, name, command in kinds:
            refused = 0
            for _ in range(self.options.flips):
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(folder, copy)
                flip_bit(copy / name, self.random)
                done = subprocess.run([str(_RRR), *command], capture_output=True, text=True, check=False)
                said = re.search(rf"{re.escape(name)} was changed after it was written: .*, (now|found) ", done.stderr)
                refused += done.returncode == 3 and bool(said) and not out.exists()
            case = {"file": name, "command": command[0], "flips": self.options.flips, "refused": refused}
            self.check(f"flips: {case}", refused == self.options.flips)
            self.result.record("flips", {"file": name}, case)
            print(case, flush=True)

    def kills(self) -> None:
        """Kill writers."""
        for kind, source in (("engine", self.checkpoint), ("repository", self.engines["onnxruntime-fp32"])):
            out = self.folder / f"killed-{kind}" / kind
            out.parent.mkdir()
            command = [sys.executable, killed_writers.__file__, kind, str(source), str(out)]
            done = subprocess.run(
                [*command, str(self.options.seed), str(self.options.kills)], capture_output=True, text=True, check=False
            )
            self.check(f"kills: {kind}: {done.stderr[-500:]}", done.returncode == 0)
            told = json.loads(done.stdout)
            replaced = sum(trial["replaced"] for trial in told["trials"])
            case = {"kind": kind, "kills": len(told["trials"]), "new": replaced, "old": len(told["trials"]) - replaced}
            case |= {"steps": told["steps"], "left_after_a_rerun": told["left_after_a_rerun"]}
            self.check(f"kills: {case}", not told["left_after_a_rerun"])
            self.result.record("kills", {"kind": kind}, case)
            print(case, flush=True)

    def configurations(self) -> None:
        """Start with what is wrong."""
        self.folder.joinpath("empty").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as held:
            for broken in CONFIGURATIONS:
                stands_for = {
                    REPOSITORY: str(self.repository),
                    ENGINE: str(self.engines["openvino-fp32"]),
                    BUSY: str(held.getsockname()[1]),
                }
                words = [stands_for.get(word, word) for word in broken.arguments]
                started = time.monotonic()
                done = subprocess.run(
                    [str(_RRR), *words],
                    capture_output=True,
                    text=True,
                    check=False,
                    cwd=self.folder / "empty",
                    env={**os.environ, **broken.environment},
                )
                seconds = time.monotonic() - started
                case = {"what": broken.what, "exit_code": done.returncode, "seconds": seconds}
                case["lines"] = len(done.stderr.splitlines()) + len(done.stdout.splitlines())
                good = done.returncode == 2 and case["lines"] == 1 and bool(re.search(broken.says, done.stderr))
                self.check(f"configurations: {case}: {done.stderr}", good and seconds < _SECONDS)
                self.check(f"{broken.what}: something was started", not psutil.Process().children())
                self.result.record("configurations", {"what": broken.what}, case)
        print(f"{len(CONFIGURATIONS)} configurations", flush=True)


def summary(document: dict[str, Any]) -> str:
    """Markdown of a result file."""
    flips, kills, settings = document["flips"], document["kills"], document["configurations"]
    rows = [
        "| what | tried | held | |",
        "|" + "---|" * 4,
        f"| bits turned over in {len(flips)} kinds of file | {sum(case['flips'] for case in flips)} "
        f"| {sum(case['refused'] for case in flips)} | exit code 3 before parsing |",
    ]
    rows += [
        f"| kill -9 while {'an' if case['kind'] == 'engine' else 'a'} {case['kind']} is written | {case['kills']} "
        f"| {case['new'] + case['old']} | {case['old']} times the old one, {case['new']} times the new one |"
        for case in kills
    ]
    good = [case for case in settings if case["exit_code"] == 2 and case["lines"] == 1]
    slowest = max(case["seconds"] for case in settings)
    rows.append(f"| broken configurations | {len(settings)} | {len(good)} | exit code 2, slowest {slowest:.1f} s |")
    return "\n".join(rows)


def main() -> int:
    """Try, save and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=6, help="in each kind of file")
    parser.add_argument("--kills", type=int, default=20, help="of each kind of writer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, default=RESULTS / "artifacts.json")
    options = parser.parse_args()
    result = ResultFile(options.out)
    trials = Trials(options, result)
    for section in (trials.flips, trials.kills, trials.configurations):
        section()
    print(f"\n{summary(result.document)}\n\nwritten: {options.out}")
    for miss in trials.misses:
        print(f"missed: {miss}")
    return 1 if trials.misses else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
