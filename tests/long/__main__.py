"""The long tests as commands: each judges its bounds and leaves what it measured in artifacts/long.

    .venv/bin/python tests/long chaos [OPTIONS]   or fuzz, image, overload, reload, soak, tritons; --help tells more

`--save benchmarks/results/chaos.json` keeps it. A bound that was missed is named, and the exit code is 1.
`test_long.py` runs all but `image` in `make nightly`: that needs root and changes what is mounted.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import chaos
import fuzz
import image
import overload
import reload
import soak
import tritons

from harness.bounds import Bounds
from rrrbench.environment import ROOT, ResultFile
from rrrbench.networks import CACHE
from rrrbench.servers import ending_on_sigterm

COMMANDS = {
    "chaos": chaos,
    "fuzz": fuzz,
    "image": image,
    "overload": overload,
    "reload": reload,
    "soak": soak,
    "tritons": tritons,
}


def main() -> int:
    """Try, save, print and judge."""
    ending_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(dest="name", required=True)
    for name, module in COMMANDS.items():
        words = (module.__doc__ or "").partition("\n")[0]
        command = parsers.add_parser(
            name, help=words, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_options(command)
        command.add_argument("--cache", type=Path, default=CACHE, help="where networks and logs are kept")
        command.add_argument(
            "--save",
            type=Path,
            metavar="FILE",
            default=ROOT / "artifacts" / "long" / f"{name}.json",
            help="where the figures are kept",
        )
    options = parser.parse_args()
    bounds, result = Bounds(), ResultFile(options.save)
    COMMANDS[options.name].run(options, result, bounds)
    print(f"\n{COMMANDS[options.name].summary(result.document)}\n\nwritten: {options.save}")
    for miss in bounds.missed:
        print(f"missed: {miss}")
    return bool(bounds.missed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
