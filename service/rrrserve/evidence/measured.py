"""What was measured, by digest: verdicts are stamped only on the very files that they are about."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rrrbuild.manifest import MANIFEST
from rrrbuild.repository_document import Repository
from rrrnet.errors import UsageError
from rrrserve.evidence.continuity import REPOSITORY

LABEL = "repository"  # of the gauge that tells what a service serves
# Judged by what a service, or a bench, did, not by documents.
MEASURED_KINDS = ("speedup", "latency", "throughput", "coverage", "calibration")
_NOTHING_STAMPED = "nothing was stamped"


@dataclass(frozen=True)
class Measured:
    """One thing that evidence is about.

    Attributes:
        where: URL of a service, Prometheus's name of one, or an engine's folder.
        repositories: short digests of what was served there meanwhile; "" for an answer that told none.
        model: of a run of `rrr bench`; None where all that is served there was looked at.
        engine_sha256: of the manifest of an engine that was measured by itself.
    """

    where: str
    repositories: tuple[str, ...] = ()
    model: str | None = None
    engine_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For the document of verdicts."""
        return {**vars(self), "repositories": list(self.repositories)}


def served_there(found: Mapping[str, Iterable[str]]) -> list[Measured]:
    """From the digests that were seen at each place."""
    return [Measured(where, tuple(sorted(set(digests)))) for where, digests in found.items()]


def check_served(measured: Iterable[Measured], repository: Repository) -> None:
    """Make sure that every service serves `repository` and nothing else.

    Raises:
        UsageError: one does not, or does not tell; names both digests.
    """
    wanted = f"--repository {repository.path} is {repository.short_digest}"
    for item in measured:
        digests = [digest for digest in item.repositories if digest]
        if digests == [repository.short_digest] == list(item.repositories):
            continue
        if others := [digest for digest in digests if digest != repository.short_digest]:
            raise UsageError(
                f"--stamp: {item.where} served the repository {', '.join(others)}, and {wanted}: {_NOTHING_STAMPED}; "
                "name the one that it serves, or have it serve this one with rrr reload"
            )
        raise UsageError(
            f"--stamp: {item.where} told no repository ({REPOSITORY}), and {wanted}: {_NOTHING_STAMPED}; "
            "it must be an rrr serve that answers"
        )


def check_measured(document: Mapping[str, Any], repository: Repository) -> None:
    """Make sure that verdicts on what was measured are about what `repository` holds.

    Args:
        document: what `rrr verify --json` prints.
        repository: to be stamped.

    Raises:
        UsageError: something else was measured, or nothing tells what; names both digests.
    """
    if not any(verdict["kind"] in MEASURED_KINDS for verdict in document["verdicts"]):
        return
    found = [Measured(**{**item, "repositories": tuple(item["repositories"])}) for item in document["measured"]]
    if not found:
        raise UsageError(
            f"--stamp: nothing tells that --repository {repository.path} ({repository.short_digest}) was measured: "
            f"{_NOTHING_STAMPED}"
        )
    check_served((item for item in found if item.model is None), repository)
    for item in found:
        if item.model is not None:
            _check_run(item, item.model, repository)


def _check_run(run: Measured, model: str, repository: Repository) -> None:
    """A run of `rrr bench` has to be of this repository, or of the engine that the model was made from."""
    if run.repositories:
        check_served([run], repository)
        return
    if run.engine_sha256 is None:
        raise UsageError(
            f"--stamp: the bench result has no digest of {model} at {run.where}, and --repository {repository.path} is "
            f"{repository.short_digest}: {_NOTHING_STAMPED}; measure it again with rrr bench --url or --engine"
        )
    served = next((item for item in repository.models if item.name == model), None)
    if served is None:
        held = ", ".join(item.name for item in repository.models)
        raise UsageError(f"--stamp: {model} was measured, and {repository.path} holds {held}: {_NOTHING_STAMPED}")
    copied = repository.files.get(f"{model}/{served.version}/{MANIFEST}")
    if run.engine_sha256 not in (served.engine_sha256, copied):
        here = served.engine_sha256 or copied or "not known"
        raise UsageError(
            f"--stamp: the engine {run.engine_sha256[:12]} of {model} ({run.where}) was measured, and that of "
            f"--repository {repository.path} is {here[:12]}: {_NOTHING_STAMPED}; measure that one with rrr bench"
        )
