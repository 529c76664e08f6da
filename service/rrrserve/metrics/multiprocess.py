"""The metrics of several HTTP workers, which lie as files in one folder: a scrape of any worker gives all of them.

prometheus_client names a worker's files by its process id. Here they are named by the worker's number: the worker that
is started in place of a dead one goes on where that one stopped, so counters neither fall nor leave a file for every
death behind, which each scrape would have to read.
"""

import logging
import math
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, ProcessCollector, values
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from rrrserve.process.environment import variables

log = logging.getLogger("rrrserve")

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client looks at it when it is imported
# What prometheus_client raises for files that a killed process left empty, short or half-written.
_UNREADABLE = (OSError, struct.error, RuntimeError, ValueError, TypeError, AttributeError)
_SET_ASIDE = ".unreadable"


def folder_in_use() -> Path | None:
    """The workers' folder, or None where there is one worker, whose metrics stay in its memory."""
    name = variables().get(FOLDER_VARIABLE)
    return Path(name) if name else None


def adopt(folder: Path, worker: int) -> None:
    """Make this process the worker of that number. To be called before `rrrserve.metrics.instruments` is imported.

    Args:
        folder: see `folder_in_use`.
        worker: its number, from 1; no two processes may have the same one at the same time.
    """
    folder.mkdir(parents=True, exist_ok=True)  # somebody may have cleaned up: counts are lost, not the worker
    forget_gauges(folder, worker)
    for path in folder.glob(f"*_{worker}.db"):
        if not _readable(path):
            log.warning("%s cannot be read, being the file of a killed worker: its counts are lost", path.name)
            path.rename(path.with_suffix(_SET_ASIDE))
    (folder / f"{worker}.pid").write_text(str(os.getpid()))
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]


def forget_gauges(folder: Path, worker: int) -> None:
    """Take a dead worker's gauges, its requests in flight above all, out of the sums. What it counted stays."""
    mark_process_dead(worker, str(folder))  # type: ignore[no-untyped-call]


def forget_gauges_of_the_dead(folder: Path) -> None:
    """The same for every worker whose files bear the id of a process that no longer runs.

    Only for `bentoml serve`: our own workers' files bear numbers, and no process of that id need run.
    """
    for path in folder.glob("gauge_live*.db"):
        identity = path.stem.rpartition("_")[2]
        if not Path("/proc", identity).exists():
            forget_gauges(folder, int(identity))


def registry_of(folder: Path | None, *others: Collector) -> CollectorRegistry:
    """What a scrape gives: `others`, and counters and histograms of all workers summed, `process_*` of each.

    Args:
        folder: see `folder_in_use`.
        others: collectors of what is not counted by workers.
    """
    registry = REGISTRY if folder is None else CollectorRegistry()
    for collector in (*others, *([] if folder is None else [_Workers(folder)])):
        registry.register(collector)
    return registry


class _Workers(Collector):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """The sums, how many files are missing from them, and memory, processor time and files of each worker."""
        files = readable = sorted(self._folder.glob("*.db"))
        try:
            sums = _merge(files)
        except _UNREADABLE:  # told by a gauge instead of ending the scrape
            readable = [path for path in files if _readable(path)]
            sums = _merge(readable)
        yield from sums
        yield GaugeMetricFamily(
            "rrr_metrics_unreadable_files",
            "Files of workers that were left out of this scrape, or set aside, because a killed process damaged them.",
            len(files) - len(readable) + len(list(self._folder.glob(f"*{_SET_ASIDE}"))),
        )
        families: dict[str, Metric] = {}
        for path in sorted(self._folder.glob("*.pid")):
            for metric in ProcessCollector(pid=path.read_text, registry=None).collect():
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    family.add_sample(sample.name, {"worker": path.stem}, sample.value)
        yield from families.values()


def _merge(files: list[Path]) -> list[Metric]:
    families = list(MultiProcessCollector.merge([str(path) for path in files]))  # type: ignore[no-untyped-call]
    for family in families:
        if any("pid" in sample.labels for sample in family.samples):
            family.samples = list(_largest(family.samples))
    return families


def _largest(samples: Iterable[Sample]) -> Iterable[Sample]:
    """The largest value of all workers, by series; NaN, which is 'not known', only where it is every worker's."""
    found: dict[tuple[str, ...], Sample] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != "pid"}
        key = (sample.name, *labels.values())
        if key not in found or math.isnan(found[key].value) or sample.value > found[key].value:
            found[key] = sample._replace(labels=labels)
    return found.values()


def _readable(path: Path) -> bool:
    try:
        _merge([path])
    except _UNREADABLE:
        return False
    return True
