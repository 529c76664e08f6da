"""The parts that every model folder of a Triton repository is put together from."""

import importlib.resources
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rrrbuild.manifest import MANIFEST, Manifest, write_manifest
from rrrbuild.targets import Target


def files_of_plan(manifest: Manifest, plan: str) -> dict[str, str]:
    """The files that one plan needs: name to have, path in the engine folder."""
    if len(manifest.kept_plans) == 1:
        return {name: name for name in manifest.files}
    return {
        name.removeprefix(f"{plan}/"): name for name in manifest.files if name.startswith(f"{plan}/") or "/" not in name
    }


def copy_engine(manifest: Manifest, version: Path) -> None:
    """The engine folder as it is."""
    for name in [MANIFEST, *manifest.files]:
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest.path / name, version / name)


def copy_part(manifest: Manifest, files: Mapping[str, str], version: Path) -> None:
    """Some files of an engine, and what `manifest` says about them, sealed anew.

    Args:
        manifest: lies in the engine folder by its `path`; describes what is copied.
        files: name to have, path in the engine folder.
        version: the model's version folder.
    """
    version.mkdir(parents=True)
    for name, source in files.items():
        shutil.copyfile(manifest.path / source, version / name)
    write_manifest(replace(manifest, path=version), version)


def copy_modules(target: Target, version: Path) -> None:
    """The Python backend's model.py, and what it loads."""
    copy_module("triton_model", version / "model.py")
    copy_module(target.runtime_module, version / "runtime.py")
    copy_module("plan_runner", version / "plan_runner.py")
    copy_module("cascade_runner", version / "cascade_runner.py")
    copy_module("processor", version / "processor.py", package="rrrnet")


def copy_module(name: str, path: Path, package: str = "rrrbuild") -> None:
    """A module as a file that needs nothing else of its package."""
    path.write_bytes(importlib.resources.files(package).joinpath(f"{name}.py").read_bytes())


def keep_bytecode_out(folder: Path) -> None:
    """Keep Python from writing beside the models of a sealed repository; call it after sealing.

    Triton's embedded Python ignores PYTHONDONTWRITEBYTECODE. A file where its folder would be keeps it from leaving
    bytecode that no digest covers; not sealed itself, since tools drop it when copying.
    """
    for code in folder.glob("*/*/model.py"):
        code.with_name("__pycache__").touch()
