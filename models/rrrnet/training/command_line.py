"""The `rrr train` command that does what a function was asked for, for whoever finds the checkpoint."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def command_line(data: str | os.PathLike[str] | None, out: str | os.PathLike[str], given: Mapping[str, Any]) -> str:
    """The command line with these flags, named as the arguments of `rrrnet.train`."""
    words = ["rrr", "train", *([] if data is None else ["--data", str(data)]), "--out", str(Path(out))]
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if not isinstance(value, bool):
            words += [flag, str(value)]
        elif name == "bgr":
            words.append("--bgr" if value else "--rgb")
        elif value or name == "early_stopping":
            words.append(flag if value else "--no-early-stopping")
    return shlex.join(words)
