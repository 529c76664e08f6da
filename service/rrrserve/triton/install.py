"""Find a tritonserver: the machine's own with its native backends, else the one in the nvidia-pytriton wheel."""

import ctypes.util
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rrrnet.errors import IncompatibleError
from rrrnet.installing import install_line
from rrrserve.process.environment import variables

NATIVE_BACKENDS = Path("/opt/tritonserver/backends")
LIBPYTHON = f"libpython{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class TritonInstall:
    """Where a tritonserver and its parts lie.

    Attributes:
        binary: the tritonserver executable.
        backend_directory: folder of backends, each a folder named like `python` or `openvino`.
        stub: the Python backend's stub for this Python where it has to be put beside the backend, else None.
        library_paths: folders for LD_LIBRARY_PATH.
        source: "path" (found on the PATH) or "wheel" (nvidia-pytriton).
    """

    binary: Path
    backend_directory: Path
    stub: Path | None
    library_paths: tuple[Path, ...]
    source: str

    @property
    def backends(self) -> frozenset[str]:
        """Names of the backends it can load."""
        return frozenset(path.name for path in self.backend_directory.iterdir() if path.is_dir())


def backends_here(say: Callable[[str], None]) -> frozenset[str]:
    """Those of this machine's tritonserver; the Python backend, if there is none, and `say` is told."""
    try:
        return find_tritonserver().backends
    except IncompatibleError as error:
        say(f"{error}. Writing for the Python backend.")
        return frozenset({"python"})


def find_tritonserver() -> TritonInstall:
    """The tritonserver on the PATH with its backends, else the wheel's.

    Raises:
        IncompatibleError: there is none; says how to get one.
    """
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        binary = Path(on_path).resolve()
        for backends in (NATIVE_BACKENDS, binary.parent.parent / "backends"):
            if backends.is_dir():
                return TritonInstall(binary, backends, None, (), "path")
    spec = importlib.util.find_spec("pytriton")  # finds the package without importing it
    if spec is not None and spec.submodule_search_locations:
        package = Path(spec.submodule_search_locations[0])
        root = package / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
        if (root / "bin" / "tritonserver").is_file() and stub.is_file():
            libraries = (Path(sysconfig.get_config_var("LIBDIR")), package.parent / "nvidia_pytriton.libs")
            return TritonInstall(root / "bin" / "tritonserver", root / "backends", stub, libraries, "wheel")
    raise IncompatibleError(
        "no tritonserver was found, neither on the PATH (with /opt/tritonserver/backends) nor in the nvidia-pytriton "
        f"wheel: {install_line('triton')} under Python 3.11, the only one with that wheel, or run this in "
        "NVIDIA's Triton image"
    )


def check_libpython(install: TritonInstall) -> None:
    """The stub of the Python backend is linked against libpython, which some Pythons come without.

    Raises:
        IncompatibleError: the loader will not find it; says what to install.
    """
    if install.stub is None:
        return
    beside = any((folder / f"{LIBPYTHON}.so.1.0").exists() for folder in install.library_paths)
    if not beside and ctypes.util.find_library(LIBPYTHON.removeprefix("lib")) is None:
        raise IncompatibleError(
            f"{LIBPYTHON}.so.1.0 was not found, and Triton's Python backend needs it: "
            f"apt install {LIBPYTHON} (Debian, Ubuntu), or use a Python built with --enable-shared"
        )


def lay_out(install: TritonInstall, folder: Path) -> Path:
    """A backend directory that tritonserver can use.

    The wheel keeps the Python backend and its stubs apart, and the stub must lie beside the backend: so the backend is
    linked, and the stub too, below `folder`: so no program lies there, and it may be mounted noexec. An installation
    that is complete is used where it is.
    """
    if install.stub is None:
        return install.backend_directory
    target = folder / "backends"
    for backend in sorted(install.backend_directory.iterdir()):
        (target / backend.name).mkdir(parents=True)
        for path in backend.iterdir():
            (target / backend.name / path.name).symlink_to(path)
    (target / "python" / install.stub.name).symlink_to(install.stub)
    return target


def child_environment(install: TritonInstall, folder: Path, *, threads: int) -> dict[str, str]:
    """The allow-list of variables that Triton and its Python stubs get.

    Args:
        install: which tritonserver.
        folder: private folder for home and temporary files.
        threads: cores that a runtime may use.
    """
    inherited = {
        name: value
        for name, value in variables().items()
        if name.startswith(("CUDA_", "NVIDIA_")) or name in ("LD_LIBRARY_PATH", "TZ", "LD_PRELOAD")
    }
    libraries = [str(path) for path in install.library_paths]
    if inherited.get("LD_LIBRARY_PATH"):
        libraries.append(inherited["LD_LIBRARY_PATH"])
    return {
        **inherited,
        # The embedded interpreter finds its virtual environment through the first python3 on the PATH.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), variables().get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
    }
