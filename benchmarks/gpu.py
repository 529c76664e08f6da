"""What parallel members cost on an NVIDIA GPU: plans against each other, and against a ResNet152, in FP16.

python gpu.py --out gpu.json         # on a machine with a GPU, torch with CUDA, and numpy; nothing else is needed
python gpu.py --device cpu --smoke   # numbers only, tiny networks, in seconds: every plan against float64

Needs nothing of this project but the folder rrrgpu beside it, so the two can be copied to a machine that is lent for
minutes. Where onnx and tensorrt or tensorrt-rtx are installed, their engines are timed too. A cascade (some members
first, the others on the images that these leave open) is timed beside all members, 1 member and the ResNet152; which
images are left open is imposed. Cases come in the order of their weight, nothing is prepared after --budget-seconds,
and the result file is written after each case. See docs/gpu.md.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("torch") is None:
    print("gpu.py: torch is missing: pip install torch numpy (a build with CUDA)", file=sys.stderr)
    raise SystemExit(4)

import torch

from rrrgpu import builder
from rrrgpu.cascade import CASCADE
from rrrgpu.network import Network
from rrrgpu.order import BASELINE, cascade_variants, cases, every_plan
from rrrgpu.run import Run
from rrrgpu.shapes import RESNET152
from rrrgpu.streams import new_stream
from rrrgpu.table import HEADER, cascade_table, problems, summary

NO_GPU = """gpu.py: torch finds no NVIDIA GPU here.
Copy gpu.py and the folder rrrgpu to a machine that has one, with its driver and a torch built with CUDA
(pip install torch numpy; onnx and tensorrt or tensorrt-rtx besides, to time their engines), and run it there.
Here, python gpu.py --device cpu --smoke checks the numbers of every plan that a CPU can run."""


def smoke(run: Run) -> None:
    """Every plan in FP32 and BF16; ONNX and an engine built ahead of time where their packages are installed."""
    options = run.options
    run.measure_peak(torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        run.case("pytorch", dtype, every_plan([BASELINE, *options.members]), options.pixels[0], options.batch[0])
        variants = cascade_variants(options.members)
        run.cascade_case("pytorch", dtype, variants, options.cascade_pixels[0], options.batch[0])
    checks = run.document["ahead_of_time"] = {}
    problem = builder.missing("tensorrt_rtx")
    network: Network = run.once(run.network, options.members[-1], options.align)
    parts = dict(zip(builder.PARTS, run.once(run.halves, options.members[-1]), strict=True))
    for plan in (*builder.PLANS, *parts):
        if problem is None:
            of = parts.get(plan, network)
            built, lines = builder.build("tensorrt_rtx", of, plan, options.pixels[0], options.batch, "SM86")
            checks[plan] = {"bytes": len(built), "warnings": lines}
        else:
            checks[plan] = {"error": problem}
    run.write()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; `--smoke` replaces the sizes by tiny ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny networks: check numbers, time nothing of use")
    parser.add_argument("--members", type=positive, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 8, 32])
    parser.add_argument("--pixels", type=positive, nargs="+", default=[224, 128])
    parser.add_argument("--classes", type=positive, default=20)
    parser.add_argument("--align", type=positive, default=8, help="zero-pad members' channels to a multiple of it")
    parser.add_argument("--rounds", type=positive, default=30, help="measurements of each")
    parser.add_argument("--engines", nargs="*", choices=builder.FAMILIES, default=list(builder.FAMILIES))
    parser.add_argument("--first", type=positive, default=2, help="members that a cascade asks first")
    parser.add_argument("--share-early", type=share, default=0.93, help="of images that a cascade does not leave open")
    parser.add_argument("--budget-seconds", type=float, default=540.0, help="prepare nothing more after that long")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    fixed = {"baseline_blocks": RESNET152, "peak_size": 8192, "cascade_pixels": [224, 64], "block_calls": 16}
    options = parser.parse_args(arguments, argparse.Namespace(**fixed))
    if options.smoke:
        tiny = {"members": [1, 2], "batch": [2], "pixels": [32], "classes": 3, "rounds": 2, "first": 1}
        tiny |= {"share_early": 0.5, "cascade_pixels": [32], "block_calls": 2}
        vars(options).update(tiny, baseline_blocks=(1, 2, 2, 1), peak_size=256)
    options.members = [str(members) for members in options.members]
    for members in (int(name) for name, plan in cascade_variants(options.members) if plan == CASCADE):
        if options.first >= members:
            parser.error(f"--first is {options.first}: fewer than the {members} members of the cascade")
    return options


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run, print the tables, write the file; 1 if a number is wrong, nothing timed or the GPU lost, 4 without one."""
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 4
    if options.device == "cpu" and not options.smoke:
        print("gpu.py: on a CPU only --smoke says anything: add it, or leave --device out", file=sys.stderr)
        return 2
    torch.backends.cudnn.benchmark = True  # cuDNN times its kernels when a shape is first met
    run = Run(options)
    print(HEADER)
    with torch.inference_mode():
        if options.smoke and options.device == "cpu":
            smoke(run)
        else:
            # Neither events nor TensorRT like the default stream; to return to it may fail on a lost GPU.
            torch.cuda.set_stream(new_stream())
            run.measure_peak(torch.float16)
            for engine, variants, pixels, batch in cases(options):
                with_cascade = any(plan == CASCADE for _, plan in variants)
                (run.cascade_case if with_cascade else run.case)(engine, torch.float16, variants, pixels, batch)
    if run.document["cascades"]:
        print("\n".join(["", *cascade_table(run.document["cascades"]), ""]))
    print("\n".join(summary(run.document, options.out)), flush=True)
    found = problems(run.document)
    for problem in found:
        print(f"gpu.py: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
