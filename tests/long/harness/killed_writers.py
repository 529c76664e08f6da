"""Write an artifact again and again over an old one, and kill each writer at another step of its work with files.

    python -m harness.killed_writers engine CHECKPOINT OUT SEED COUNT
    python -m harness.killed_writers repository ENGINE OUT SEED COUNT

An audit hook counts the steps (Python tells it every open, rename and removal) and sends SIGKILL at the chosen one: in
this way the moments that matter are met, which a clock would miss. Half of the moments are among the last steps, where
the new folder takes the old one's place. Prints one JSON object; ends with an error if a folder is ever not whole.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rrrbuild import repository_document
from rrrbuild.build import build_engine
from rrrbuild.manifest import MANIFEST, BatchRange, read_engine
from rrrbuild.repository import write_repository
from rrrbuild.repository_document import read_repository
from rrrnet import sealed

_LAST_STEPS = 24
_STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.copyfile", "shutil.rmtree")
_PYTHON = frozenset({"python"})


def _build(checkpoint: Path, out: Path) -> None:
    build_engine(checkpoint, "onnxruntime-fp32", plan="sequential", batch=BatchRange(1, 2, 4), out=out, images=8)


def _put_together(engine: Path, out: Path) -> None:
    write_repository([engine], out, backends=_PYTHON, names=[f"name-{os.getpid()}"])  # so that each is another


# How each kind is written and read, and its sealed document.
KINDS: dict[str, tuple[Callable[[Path, Path], None], Callable[[Path], object], str]] = {
    "engine": (_build, read_engine, MANIFEST),
    "repository": (_put_together, read_repository, repository_document.DOCUMENT),
}


def _steps_of_a_child(write: Callable[[], None], beside: str, kill_at: int) -> int:
    """Write in a forked process that dies at a step, from 1; 0 lets it live. How many steps there were."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        steps = 0

        def count(event: str, args: tuple[Any, ...]) -> None:
            nonlocal steps
            if event in _STEPS and (event != "open" or beside in str(args[0])):
                steps += 1
                if steps == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        write()
        os.write(writer, str(steps).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as told:
        return int(told.read() or 0)


def main() -> None:
    """Count the steps, then kill."""
    write, read, document = KINDS[sys.argv[1]]
    source, out = (Path(argument).absolute() for argument in sys.argv[2:4])
    chance, count = random.Random(int(sys.argv[4])), int(sys.argv[5])

    def run(kill_at: int) -> int:
        return _steps_of_a_child(lambda: write(source, out), str(out.parent), kill_at)

    def others() -> list[str]:
        return sorted(path.name for path in out.parent.iterdir() if path != out)

    run(0)
    steps = run(0)
    moments = [chance.randint(1, steps) for _ in range(count // 2)]
    moments += [chance.randint(max(1, steps - _LAST_STEPS), steps) for _ in range(count - count // 2)]
    trials = []
    for moment in moments:
        before = sealed.sha256_of(out / document)
        run(moment)
        read(out)  # whole, or this ends with an error
        trials.append({"step": moment, "replaced": sealed.sha256_of(out / document) != before, "left": others()})
    run(0)
    print(json.dumps({"steps": steps, "trials": trials, "left_after_a_rerun": others()}))


if __name__ == "__main__":
    main()
