"""The time of an engine's calls in a process of its own: pin it to a core to see what that core can do.

taskset -c 0 python -m rrrbench.scale.engine_times ENGINE --batch 1 2 4 --seconds 1

Prints `ready` when the engine is loaded, begins at the next line of standard input, and ends with a line of JSON:
milliseconds of each call by size of batch.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from rrrbuild.engine import load_engine
from rrrbuild.heldout import generated_images

FEWEST_CALLS, MOST_CALLS = 5, 200


def main() -> None:
    """Load, wait, call, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="for each size")
    options = parser.parse_args()
    engine = load_engine(options.engine)
    batches = {size: generated_images(engine.manifest.preprocess, size) for size in options.batch}
    print("ready", flush=True)
    sys.stdin.readline()
    times_ms: dict[int, list[float]] = {}
    for size, images in batches.items():
        engine(images)  # what a size needs when it is met first
        found = times_ms[size] = []
        end = time.perf_counter() + options.seconds
        while len(found) < FEWEST_CALLS or (len(found) < MOST_CALLS and time.perf_counter() < end):
            start = time.perf_counter()
            engine(images)
            found.append(1000 * (time.perf_counter() - start))
    print(json.dumps(times_ms))


if __name__ == "__main__":
    main()
