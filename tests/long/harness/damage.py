"""Ways in which a Triton repository can be unfit to be served, each with a part of the sentence that must report it."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from rrrbuild.manifest import MANIFEST
from rrrbuild.repository_document import read_models, write_document
from rrrbuild.triton_config import CONFIG
from rrrnet import sealed

_NAN = """
_honest = TritonPythonModel._response


def _response(self, probabilities, seconds):
    return _honest(self, probabilities * np.nan, seconds)


TritonPythonModel._response = _response
"""


# A bytearray: of bytes the compiler would make one constant, kept once.
_LEAK = """
_frugal = TritonPythonModel.execute
_kept = []


def _execute(self, requests):
    _kept.extend(bytearray(b"\\xff") * {bytes} for _ in requests)
    return _frugal(self, requests)


TritonPythonModel.execute = _execute
"""

# Member 1 of plan `split`, or of a cascade the first member of the rest, does what the file says.
_ILL = """
import pathlib as _pathlib
import time as _time

_illness = _pathlib.Path({illness!r})
_parts, _cascade = load_parts, load_cascade


def _ill(found, place):
    illness, found = _illness.read_text(), np.array(found)
    while illness == _illness.read_text() == "sleeps":
        _time.sleep(0.01)
    if illness == "fails":
        raise RuntimeError("a member fails on purpose")
    if illness == "nan":
        found[place] = np.nan
    return found


def load_parts(*given):
    stem, (zeroth, first, *others) = _parts(*given)
    return stem, [zeroth, lambda features: _ill(first(features), ...), *others]


def load_cascade(*given):
    first, rest = _cascade(*given)
    return first, lambda features, rows: _ill(rest(features, rows), (slice(None), 0))
"""


def files(folder: Path) -> list[Path]:
    """The files of an artifact that hold something."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 0)


def flip_bit(path: Path, chance: random.Random) -> None:
    """Turn one bit over."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _flipped(folder: Path, chance: random.Random) -> None:
    flip_bit(chance.choice(files(folder)), chance)


def _truncated(folder: Path, chance: random.Random) -> None:
    path = chance.choice(files(folder))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _half_copied(folder: Path, chance: random.Random) -> None:
    everything = files(folder)
    for path in chance.sample(everything, len(everything) // 2):
        path.unlink()


def _stranger(folder: Path, _: random.Random) -> None:
    shutil.copytree(_first_model(folder) / "1", _first_model(folder) / "2")


def _broken_config(folder: Path, _: random.Random) -> None:
    path = _first_model(folder) / CONFIG
    path.write_text(path.read_text() + "\ninput [ {\n")
    _seal_again(folder)


def _broken_code(folder: Path, _: random.Random) -> None:
    (_first_model(folder) / "1" / "runtime.py").write_text("raise RuntimeError('broken on purpose')\n")
    _seal_again(folder)


def _answers_nan(folder: Path, _: random.Random) -> None:
    with (_first_model(folder) / "1" / "model.py").open("a") as file:
        file.write(_NAN)
    _seal_again(folder)


def _older_runtime(folder: Path, _: random.Random) -> None:
    version = _first_model(folder) / "1"
    document = json.loads((version / MANIFEST).read_text())
    document["versions"] = {name: re.sub(r"^\d+", "0", text) for name, text in document["versions"].items()}
    sealed.seal(version, MANIFEST, document)
    _seal_again(folder)


def _first_model(folder: Path) -> Path:
    return folder / read_models(folder).models[0].name


def _seal_again(folder: Path) -> None:
    """So that only what is wrong tells, and not a digest."""
    models = read_models(folder).models
    blockers = list(folder.glob("*/*/__pycache__"))
    for path in blockers:
        path.unlink()
    write_document(folder, models)
    for path in blockers:
        path.touch()


# What is done to a copy of a sound repository, and what the refusal must say.
DAMAGES: dict[str, tuple[Callable[[Path, random.Random], None], str]] = {
    "one bit flipped": (_flipped, r"changed after it was written"),
    "a file cut in half": (_truncated, r"changed after it was written"),
    "half of the files": (_half_copied, r"is missing"),
    "a second version that the seal does not list": (_stranger, r"does not list"),
    "a configuration that does not parse": (_broken_config, r"could not load|Triton ended"),
    "code that fails": (_broken_code, r"could not load .*broken on purpose"),
    "answers that are NaN": (_answers_nan, r"NaN"),
    "an engine of another runtime version": (_older_runtime, r"built for \w+ 0\..*, have .*built with: "),
}


def damaged(sound: Path, target: Path, name: str, chance: random.Random) -> None:
    """Copy a sound repository to `target` and damage the copy."""
    shutil.copytree(sound, target)
    DAMAGES[name][0](target, chance)


def leaking(sound: Path, target: Path, leak_bytes: int) -> None:
    """Copy a sound repository to `target`, where each request that reaches a model costs memory for ever."""
    shutil.copytree(sound, target)
    for model in read_models(target).models:
        with (target / model.name / "1" / "model.py").open("a") as file:
            file.write(_LEAK.format(bytes=leak_bytes))
    _seal_again(target)


def with_ill_member(sound: Path, target: Path, illness: Path) -> None:
    """Copy a sound repository to `target`, where a member of the first model is as a file says at the time.

    Args:
        sound: the repository.
        target: the copy.
        illness: the file, which must exist: empty, `nan`, `fails`, or `sleeps`, which lasts until it says otherwise.
    """
    shutil.copytree(sound, target)
    with (_first_model(target) / "1" / "runtime.py").open("a") as file:
        file.write(_ILL.format(illness=str(illness)))
    _seal_again(target)
