"""Of a model's engines, the one to serve on this machine: by what their manifests say was measured on its CPU."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from rrrbuild import machine
from rrrbuild.engine import unfitness
from rrrbuild.manifest import MANIFEST, Manifest, read_engine
from rrrbuild.targets import TARGETS
from rrrnet.errors import IncompatibleError


@dataclass(frozen=True)
class Picked:
    """An engine out of a model's folder, and why."""

    folder: Path
    engine: Path
    target: str
    why: str

    def to_json(self) -> dict[str, str]:
        """A JSON-ready dict."""
        return {name: str(value) for name, value in vars(self).items()}


def engines_below(folder: Path) -> list[Path]:
    """The engines of a model's folder, as `rrr build` lays them; none if it is an engine itself, or something else."""
    if not folder.is_dir() or (folder / MANIFEST).exists():
        return []
    return sorted(path.parent for path in folder.glob(f"[!.]*/{MANIFEST}"))


def best_engines(folders: Sequence[Path], say: Callable[[str], None]) -> tuple[list[Path], list[Picked]]:
    """The folders, with the best engine of each that holds several in its place, and what was picked; `say` is told.

    Raises:
        ArtifactError, IncompatibleError: see `pick_engine`.
    """
    picked = {folder: pick_engine(folder) for folder in folders if engines_below(folder)}
    for choice in picked.values():
        say(f"{choice.folder}: {choice.why}")
    return [picked[folder].engine if folder in picked else folder for folder in folders], list(picked.values())


def pick_engine(folder: Path) -> Picked:
    """The fastest engine below `folder` that may run on this machine.

    Of engines of several checkpoints only those of the one built last are looked at: the others are another network.
    Those measured on this CPU come before all others.

    Raises:
        ArtifactError: an engine is damaged.
        IncompatibleError: none may run here; says why of each, and the command that builds one.
    """
    manifests = [read_engine(path) for path in engines_below(folder)]
    newest = max(manifests, key=lambda manifest: (manifest.path / MANIFEST).stat().st_mtime_ns)
    same = [manifest for manifest in manifests if manifest.checkpoint["sha256"] == newest.checkpoint["sha256"]]
    aside = {manifest.path.name: "of another checkpoint" for manifest in manifests if manifest not in same}
    obstacles = {manifest.path.name: obstacle for manifest in same if (obstacle := _obstacle(manifest))}
    usable = [manifest for manifest in same if manifest.path.name not in obstacles]
    if not usable:
        told = "; ".join(f"{name}: {reason}" for name, reason in obstacles.items())
        checkpoint = shlex.split(newest.command)[2:3]
        raise IncompatibleError(
            f"none of the engines in {folder} can run here: {told}. The best target for this machine is built by: "
            f"{shlex.join(['rrr', 'build', *(checkpoint or ['CHECKPOINT'])])}"
        )
    here = [manifest for manifest in usable if _measured_here(manifest)]
    if here:
        aside |= {manifest.path.name: "measured elsewhere" for manifest in usable if manifest not in here}
    compared = here or usable
    sizes = set.intersection(*(set(medians(manifest)) for manifest in compared))
    best = min(compared, key=lambda manifest: geometric_mean(medians(manifest)[size] for size in sizes))
    why = "the only one to compare" if len(compared) == 1 else _fastest(compared, measured_here=bool(here))
    others = "".join(f"; not {name} ({reason})" for name, reason in (aside | obstacles).items())
    return Picked(folder, best.path, best.target, f"{best.target} is {why}{others}")


def _fastest(compared: list[Manifest], *, measured_here: bool) -> str:
    """Why the best of several is taken."""
    times = ", ".join(f"{manifest.target} {medians(manifest)['1']:.2f} ms" for manifest in compared)
    where = "here" if measured_here else "on another machine (rrr build measures on this one)"
    return f"the fastest of {len(compared)} by their manifests, measured {where}; at batch 1: {times}"


def _obstacle(manifest: Manifest) -> str | None:
    target = TARGETS.get(manifest.target)
    if target is None:
        return "this rrr does not know that target"
    if obstacle := unfitness(manifest, target):
        return obstacle
    return None if manifest.verified else f"not verified: {manifest.unverified_reason}"


def _measured_here(manifest: Manifest) -> bool:
    now = machine.describe()
    parts = ("cpu", "cpu_features", *(("gpu",) if TARGETS[manifest.target].on_gpu else ()))
    return all(manifest.device.get(part) == now[part] for part in parts)


def medians(manifest: Manifest) -> dict[str, float]:
    """Milliseconds of a call by batch size, of the plan that runs it; of a cascade what is expected, where measured."""
    expected = {} if manifest.cascade is None else manifest.cascade["cost_ms"]["expected"]
    medians = {
        str(size): manifest.latency_ms[manifest.plan_by_batch.get(str(size), manifest.plan)][str(size)]["median"]
        for size in manifest.batch.sizes()
    }
    return medians | expected


def best_batch(manifest: Manifest) -> int:
    """The batch size of most images a second, of those that were measured; without measurements the tuned one."""
    if not manifest.latency_ms:
        return manifest.batch.opt
    found = medians(manifest)
    return min(map(int, found), key=lambda size: found[str(size)] / size)
