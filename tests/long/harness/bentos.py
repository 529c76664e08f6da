"""Bentos for tests, packed from a copy of the sources beside a repository of the test's own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rrrbench.environment import ROOT

BENTOML = Path(sys.executable).parent / "bentoml"


def build_bento(repository: Path, tree: Path, home: Path) -> Mapping[str, str]:
    """Run `bentoml build` on the sources and a repository.

    Args:
        repository: goes into the Bento.
        tree: a folder that does not exist, for the copies.
        home: BentoML's own folder.

    Returns:
        The variables with which BentoML finds the Bento.

    Raises:
        subprocess.CalledProcessError: it did not work.
    """
    for name in ("models", "build", "service"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "deploy").mkdir()
    for name in ("bentofile.yaml", "README.md", "LICENSE", "deploy/bento_setup.sh"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "requirements", tree / "requirements")
    shutil.copytree(repository, tree / "artifacts" / "repository")
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    subprocess.run([BENTOML, "build"], cwd=tree, env=environment, check=True, capture_output=True)
    return environment
