"""An earlier commit of this project, to be measured beside the present one.

As a script it is run by the earlier code: `earlier.py ENGINE REPOSITORY` writes a repository of an engine of today,
less what its manifest tells that was not known then.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from rrrbuild.manifest import MANIFEST, Manifest
from rrrbuild.repository import write_repository
from rrrnet import sealed

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("models", "build", "service")


def sources(commit: str, cache: Path) -> dict[str, str]:
    """The variables by which Python finds the packages of a commit, unpacked below `cache`.

    Raises:
        CalledProcessError: git does not know the commit; it has said so.
    """
    folder = cache / f"sources-{commit}"
    if not folder.is_dir():
        packed = subprocess.run(["git", "archive", commit, *_PACKAGES], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
    return {"PYTHONPATH": os.pathsep.join(str((folder / name).absolute()) for name in _PACKAGES)}


def repository(engine: Path, out: Path, code: dict[str, str]) -> Path:
    """A repository of the engine, written by the code that `sources` told of."""
    command = [sys.executable, __file__, str(engine.absolute()), str(out.absolute())]
    subprocess.run(command, env={**os.environ, **code}, check=True)
    return out


def known(kind: Any, document: dict[str, Any]) -> dict[str, Any]:
    """What of a document a dataclass has fields for, as far down as they are dataclasses."""
    kinds = get_type_hints(kind)
    kept = {field.name: document[field.name] for field in fields(kind) if field.name in document}
    return {name: known(kinds[name], value) if is_dataclass(kinds[name]) else value for name, value in kept.items()}


def main() -> None:
    """See the module."""
    engine, out = map(Path, sys.argv[1:])
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(engine, Path(scratch) / "engine")
        document = json.loads((copy / MANIFEST).read_text())
        (copy / MANIFEST).unlink()
        told = {"format_version": document["format_version"], **known(Manifest, document)}
        sealed.seal(copy, MANIFEST, told)
        write_repository([copy], out, backends=frozenset({"python"}))


if __name__ == "__main__":
    main()
