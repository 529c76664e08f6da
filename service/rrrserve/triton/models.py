"""The models as Triton finds them: those of the repository, with no more threads than there are cores to keep busy."""

from pathlib import Path
from typing import Any

from rrrbuild.triton_config import CONFIG, THREADS_PARAMETER, read_config, write_config
from rrrnet.processor import Threads

# Their runtimes count cores by affinity; our own model.py counts for itself.
_NATIVE = {"openvino", "onnxruntime"}


def link_models(repository: Path, target: Path, threads: Threads) -> None:
    """Make `target` the repository, by links; a configuration that has to name other threads is written anew.

    Args:
        repository: the Triton model repository; is not changed.
        target: does not exist.
        threads: where the number is exact, no model gets more.
    """
    configs = ((path.parent.name, read_config(path)) for path in repository.glob(f"*/{CONFIG}") if threads.exact)
    changed = {name: config for name, config in configs if _lower_threads(config, threads.count)}
    if not changed:
        target.symlink_to(repository)
        return
    target.mkdir()
    for model in repository.iterdir():
        if model.name not in changed:
            (target / model.name).symlink_to(model)
            continue
        (target / model.name).mkdir()
        for part in model.iterdir():  # one folder of a version, whatever its number
            if part.name != CONFIG:
                (target / model.name / part.name).symlink_to(part)
        write_config(changed[model.name], target / model.name / CONFIG)


def _lower_threads(config: Any, most: int) -> bool:
    """Whether a configuration named no threads, or more, on the CPU of a native backend; it is changed then."""
    if config.backend not in _NATIVE or config.instance_group[0].kind != config.instance_group[0].KIND_CPU:
        return False
    parameter = THREADS_PARAMETER[config.backend]
    if parameter in config.parameters and int(config.parameters[parameter].string_value) <= most:
        return False
    config.parameters[parameter].string_value = str(most)
    return True
