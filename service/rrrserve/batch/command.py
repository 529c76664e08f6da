"""`rrr predict --out`: who answers, from the options."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from rrrbuild.best_engine import engines_below, pick_engine
from rrrbuild.cascade_runner import AUTO, FULL
from rrrbuild.commands.first_step import to_repository
from rrrbuild.manifest import MANIFEST, Manifest, read_engine
from rrrnet import sealed
from rrrnet.cluster import check_installed
from rrrnet.errors import UsageError
from rrrnet.output import Working, say
from rrrserve.batch.answers import Answered, Wanted
from rrrserve.batch.listing import File
from rrrserve.batch.run import Answerer, check_out, run
from rrrserve.batch.table import Table
from rrrserve.net.addresses import check_url
from rrrserve.net.tls import client_trust

_TOP_K = 3


@dataclass(frozen=True)
class Asked:
    """The options of `rrr predict` that a table takes; see its help."""

    sources: list[str]
    out: Path
    engine: Path | None
    url: str | None
    default_url: str
    ray: str | None
    model: str | None
    top_k: int | None
    effort: str | None
    coverage: float | None
    resume: bool
    as_json: bool

    def wanted(self, labels: tuple[str, ...]) -> Wanted:
        """What is asked of a model with these labels."""
        return Wanted(min(self.top_k or _TOP_K, len(labels)), self.effort or AUTO, self.coverage)


def predict_all(asked: Asked, headers: dict[str, str], authorities: Path | None) -> None:
    """Write the table.

    Args:
        asked: the options.
        headers: of requests to a service.
        authorities: PEM certificates that it is trusted by; None for those of the machine.

    Raises:
        UsageError: options that do not belong together.
        RRRError: see `run.run`.
    """
    if asked.engine is not None and asked.url is not None:
        raise UsageError("--engine and --url both say who answers: give one of them")
    if asked.engine is not None and asked.model is not None:
        raise UsageError("--model names a model of a service: with --engine leave it out")
    if asked.engine is None and asked.ray is not None:
        raise UsageError("--ray needs --engine ENGINE, which its machines run: a service has machines of its own")
    if asked.engine is not None:
        _by_engine(asked, asked.engine)
    else:
        _by_service(asked, headers, authorities)


def _by_engine(asked: Asked, path: Path) -> None:
    if engines_below(path):
        picked = pick_engine(path)
        say(picked.why)
        path = picked.engine
    manifest = read_engine(path)
    wanted = asked.wanted(manifest.labels)
    table = Table(asked.out, wanted.columns())
    check_out(table, resume=asked.resume)
    if asked.ray is not None:
        from rrrserve.batch import by_ray

        check_installed()
        address = asked.ray
        answerer = _answerer(manifest, wanted, path, lambda files: by_ray.answers(address, path, files, wanted))
        return run(asked.sources, answerer, table, wanted, resume=asked.resume, as_json=asked.as_json)
    from rrrserve.batch import by_engine

    with Working("loading the engine"):
        engine = by_engine.LocalEngine(path, wanted)
    answerer = _answerer(manifest, wanted, path, lambda files: by_engine.answers(engine, files))
    return run(asked.sources, answerer, table, wanted, resume=asked.resume, as_json=asked.as_json)


def _by_service(asked: Asked, headers: dict[str, str], authorities: Path | None) -> None:
    from rrrserve.batch import by_service

    url = asked.url or asked.default_url
    check_url("--url", url)
    # Of what cannot be written nobody is asked.
    check_out(Table(asked.out, {}), resume=asked.resume)
    with by_service.opened(url, asked.model, headers, client_trust(authorities)) as service:
        wanted = asked.wanted(service.labels)
        answerer = Answerer(
            answers=lambda files: by_service.answers(service, files, wanted),
            name=service.model,
            who={"model": service.model, "engine": "that of a service"},
            labels=service.labels,
            members=1,
            next_step=("rrr", "bench", "--url", url, "--concurrency", "1,8", "--out", "bench.json"),
        )
        table = Table(asked.out, wanted.columns())
        run(asked.sources, answerer, table, wanted, resume=asked.resume, as_json=asked.as_json)


def _answerer(
    manifest: Manifest, wanted: Wanted, path: Path, answers: Callable[[Iterable[File]], Generator[list[Answered]]]
) -> Answerer:
    return Answerer(
        answers=answers,
        name=manifest.name,
        who={"model": manifest.name, "engine": f"{manifest.target} {sealed.sha256_of(path / MANIFEST)[:12]}"},
        labels=manifest.labels,
        members=manifest.architecture.members,
        confidence=manifest.confidence,
        effort=FULL if manifest.cascade is None else wanted.effort,
        next_step=to_repository(path),
    )
