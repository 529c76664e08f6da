"""A person's first hour, typed and kept: own photos to an answered request, and what goes wrong on the way.

.venv/bin/python benchmarks/first_hour.py        rewrites docs/first_hour.md: 15 minutes on 2 cores

It makes 3 x 40 photos in a temporary folder, types the README's commands for one's own images as they stand, and some
that fail, and writes down what was printed. Nothing is downloaded: the hub of weights does not answer there.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rrrbench.environment import ROOT
from rrrbench.servers import ending_on_sigterm
from rrrbench.walk import Shell, Typed, new_user, own_images_commands
from rrrbuild.machine import cpu_model
from rrrnet.processor import cores

PAGE = ROOT / "docs" / "first_hour.md"
SHOWN_COLUMNS = 100
FIRST_LINES, LAST_LINES = 12, 10
MINE, OWN = "artifacts/models/mine", "artifacts/models/own"


@dataclass(frozen=True)
class Step:
    """A command, what one sentence says before it and another after it, and the exit code that belongs to it."""

    title: str
    says: str
    command: str
    means: str
    code: int = 0


# By the first words of the README's commands: title, what it is for, what its output means.
README_STEPS = {
    "rrr train": (
        "Train",
        "One folder for each class is all that it takes.",
        "The hub of pre-trained weights did not answer, so training began from scratch, and said so; the HEIC photo "
        "was left out, and said with what reads it. A fifth of each class was kept to test on: the accuracy is of "
        "photos that the network never saw. With 29 photos a class that figure is rough.",
    ),
    "rrr build": (
        "Build",
        "Every target that runs on this CPU is compiled, compared with PyTorch on photos and timed.",
        "The engine answers as the network does, and is the fastest of those that do.",
    ),
    "rrr repository": (
        "Put together what is served",
        "The best engine of the model goes into a repository for Triton.",
        "One model, with the target that was chosen.",
    ),
    "rrr serve": (
        "Serve",
        "Triton and the HTTP workers start; this goes on until Ctrl-C, so what follows is typed in a second terminal.",
        "`ready` stands there once every model has answered a real request.",
    ),
    "curl": (
        "Ask",
        "A photo that was in no folder, by curl.",
        "The first label is the answer. `agreement` is the share of the eight members that say the same.",
    ),
    "rrr predict": ("Ask again", "The same by the client, which takes any number of files.", "One row for each photo."),
    "rrr bench": (
        "Measure",
        "Load from one connection and from eight, with pictures of several sizes.",
        "p50 is what half of the requests took at most. Eight at once wait for each other: two cores answer one "
        "photo at a time.",
    ),
    "rrr claims": (
        "Write down what is promised",
        "A file of claims for what the repository serves, to be edited.",
        "Each claim is a sentence with a number.",
    ),
    "rrr verify": (
        "Have it judged",
        "The claims are judged by the service's own histograms while load is sent.",
        "`pass` means: with 95 % confidence, not just in this run's median.",
    ),
    "rrr report": (
        "Keep a page about it",
        "All that is known of the model on one page, without a network.",
        "Open report.html in a browser.",
    ),
}
BEFORE = (
    Step(
        "What is there",
        "Three folders of photos, 640 x 480, one of them in a format of telephones.",
        "ls my_images; ls my_images/cat | tail -3",
        "The names of the folders are the labels.",
    ),
    Step(
        "Goes wrong: a folder that is not there",
        "The name of the folder is mistyped.",
        f"rrr train --data my_image --out {MINE}",
        "Wrong input: nothing was written.",
        code=3,
    ),
    Step(
        "Goes wrong: photos that cannot be read",
        "With `--strict` no photo may be left out.",
        f"rrr train --data my_images --out {MINE} --strict",
        "Without `--strict` the same line is a note, and training goes on with the others. `pip install "
        "'rrrnet-serving[heif]'` reads HEIC.",
        code=3,
    ),
)
AFTER_REPOSITORY = Step(
    "Goes wrong: nobody serves",
    "Asked too early.",
    "rrr predict cat.jpg",
    "Nothing was answered.",
    code=1,
)
IMPORT = (
    "rrr train --method full --epochs 0 --weights finetuned.pth --labels labels.txt --preprocess crop --resize 256 "
    f"--crop 224 --out {OWN}"
)
AFTER = (
    Step(
        "Goes wrong: the wrong labels for a network of one's own",
        "A ResNet152 that was fine-tuned elsewhere, for three classes, and a list of two labels.",
        f"printf 'cat\\ndog\\n' > labels.txt; {IMPORT}",
        "Both numbers are named, and nothing was written. (The weights of this file are random.)",
        code=3,
    ),
    Step(
        "Bring a network of one's own",
        "The labels in the order of the network's outputs, one a line, and how its images were cut; no photos needed.",
        f"printf 'cat\\ndog\\nowl\\n' > labels.txt; {IMPORT}",
        "The file's classifier was found below its prefix and is kept as it is.",
    ),
    Step(
        "Build that one too",
        "The same command; here for one target and single photos.",
        f"rrr build {OWN} --target openvino-fp32 --batch 1,1,1 --images 32",
        "The engine computes what PyTorch does. No accuracy is known without labelled photos: `--data` gives them. "
        "`rrr repository artifacts/engines/mine artifacts/engines/own --out artifacts/repository` serves both.",
    ),
)


def steps(readme: str) -> list[Step]:
    """All that is typed, in order."""
    found = list(BEFORE)
    for command in own_images_commands(readme):
        name = next(name for name in README_STEPS if command.startswith(name))
        title, says, means = README_STEPS[name]
        found.append(Step(title, says, command, means))
        if name == "rrr repository":
            found.append(AFTER_REPOSITORY)
    return [*found, *AFTER]


def walk(shell: Shell, wanted: Sequence[Step]) -> list[tuple[Step, Typed]]:
    """Type all of it; each is told before it runs. The service is stopped before the networks of one's own."""
    kept = []
    for step in wanted:
        if step is AFTER[0]:
            stop = Step("Stop", "Ctrl-C in the first terminal.", "^C", "What was accepted is answered first.")
            kept.append((stop, shell.interrupt()))
        print(f"$ {step.command}", flush=True)
        typed = shell.type(step.command)
        print(f"{typed.output}  {in_words(typed.seconds)}, exit code {typed.code}", flush=True)
        kept.append((step, typed))
    return kept


def make_inputs(shell: Shell) -> None:
    """A photo of a telephone, and the checkpoint of another trainer: a ResNet152 under a prefix, weights random."""
    brands = b"ftypheic\0\0\0\0mif1heic"
    body = (len(brands) + 4).to_bytes(4, "big") + brands + bytes(2000)
    (shell.folder / "my_images" / "cat" / "IMG_0412.HEIC").write_bytes(body)
    elsewhere = shell.folder.with_name("elsewhere")
    made = shell.type(
        f"rrr train --method full --epochs 0 --weights none --size 64 --data my_images --out {elsewhere}/model"
    )
    if made.code:
        sys.exit(made.output)
    script = (
        "import sys, torch; from safetensors.torch import load_file; "
        "state = {'module.' + name: value for name, value in load_file(sys.argv[1]).items()}; "
        "torch.save({'epoch': 90, 'state_dict': state}, sys.argv[2])"
    )
    command = [sys.executable, "-c", script, f"{elsewhere}/model/model.safetensors", "finetuned.pth"]
    subprocess.run(command, cwd=shell.folder, check=True)


def shown(text: str, work: Path) -> str:
    """What was printed, without the machine's paths, lines folded as a terminal does, the middle of much as `...`."""
    for path, name in ((work / "photos", "~/photos"), (work, "~"), (ROOT, "~/rrrnet"), (Path(sys.prefix), "~/.venv")):
        text = text.replace(str(path), name)
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}/[\w.-]+", "$TMPDIR", text)
    lines = [
        part.rstrip()
        for line in text.strip("\n").splitlines()
        for part in textwrap.wrap(line, SHOWN_COLUMNS, replace_whitespace=False, drop_whitespace=False) or [""]
    ]
    if len(lines) > FIRST_LINES + LAST_LINES + 1:
        lines = [*lines[:FIRST_LINES], "...", *lines[-LAST_LINES:]]
    return "\n".join(lines)


def in_words(seconds: float) -> str:
    """`0.8 s`, `42 s`, `4 min 10 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def page(kept: Sequence[tuple[Step, Typed]], work: Path) -> str:
    """The page in Markdown."""
    own = [(step, typed) for step, typed in kept if step.title in {title for title, *_ in README_STEPS.values()}]
    total = sum(typed.seconds for _, typed in own)
    first = "\n".join(f"{step.command:<74}# {in_words(typed.seconds)}" for step, typed in own)
    parts = [
        f"""# The first hour

Typed on {cpu_model()}, {cores()} cores, no GPU, no way to the hub of pre-trained weights, by
`.venv/bin/python benchmarks/first_hour.py`, which made the photos, ran every command below and kept what was printed.

What to type, for a folder of photos and a photo to ask about, and how long each took, {in_words(total)} together:

```
{first}
```

What comes out: a checkpoint with its accuracy, an engine that was compared with it, a service that answers, figures, a
verdict on your claims, and a page about the model. Where something is wrong, the last line says what, what is allowed
and what mends it; the exit code is 2 for usage, 3 for wrong input, 4 for what this machine cannot run, 1 for a check
that failed ([the steps that go wrong](#2-goes-wrong-a-folder-that-is-not-there) show some).

Below each step stands what was printed: lines are folded at {SHOWN_COLUMNS} columns, and `...` stands for the middle of
more than {FIRST_LINES + LAST_LINES} lines.
"""
    ]
    for number, (step, typed) in enumerate(kept, 1):
        ended = f", exit code {typed.code}" if typed.code else ""
        printed = shown(typed.output, work)
        parts.append(
            f"## {number}. {step.title}\n\n{step.says}\n\n```\n$ {step.command}\n{printed}\n```\n\n"
            f"{in_words(typed.seconds)}{ended}. {step.means}\n"
        )
    return "\n".join(parts)


def main() -> None:
    """Make photos, type, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    ending_on_sigterm()
    if shutil.which("curl") is None:
        sys.exit("first_hour: curl is not here: apt install curl")
    with tempfile.TemporaryDirectory(prefix="rrr-first-hour-") as folder:
        work = Path(folder)
        with new_user(work) as shell:
            make_inputs(shell)
            kept = walk(shell, steps((ROOT / "README.md").read_text()))
        options.out.write_text(page(kept, work))
    print(f"written: {options.out}")
    if wrong := [f"{step.command}: {typed.code}" for step, typed in kept if typed.code != step.code]:
        sys.exit("first_hour: other exit codes than expected: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
