"""The claims about a model: stamped on what serves it, stamped on its engines, and of verdict files."""

from collections.abc import Iterator, Mapping
from typing import Any

from rrrnet.files import shown
from rrrserve.report.sources import Sources
from rrrserve.stamps.stamp import entry_of
from rrrserve.stamps.travelling import StampedClaim, engine_claims, judged, measured_text, served_claims
from rrrserve.stamps.verdict_document import Verdicts


def claims_section(sources: Sources, files: Mapping[str, Verdicts]) -> list[dict[str, Any]]:
    """Each claim once, by its latest verdict; what cannot be read is said."""
    found: dict[str, dict[str, Any]] = {}
    for claim, origin in _all(sources, files):
        row = _row(claim, origin)
        known = found.get(claim.name)
        if known is None or (row["verified_at"] or "") > (known["verified_at"] or ""):
            found[claim.name] = row
    return list(found.values())


def _all(sources: Sources, files: Mapping[str, Verdicts]) -> Iterator[tuple[StampedClaim, str]]:
    if sources.repository is not None and sources.served is not None:
        where = f"stamped on {shown(sources.repository.path / sources.served.name)}"
        for claim in served_claims(sources.repository, sources.served):
            yield claim, where
    for engine in sources.engines:
        for claim in engine_claims(engine.path):
            yield claim, f"stamped on {shown(engine.path)}"
    for path, run in files.items():
        for verdict in run.verdicts:
            if sources.names & set(verdict.models):
                yield judged(entry_of(verdict, run, {}), []), f"{path}; its files were not compared"


def _row(claim: StampedClaim, origin: str) -> dict[str, Any]:
    verdict = None if claim.entry is None else claim.entry.verdict
    return {
        **claim.to_json(),
        "origin": origin,
        "measured": measured_text(claim.estimate, claim.interval, claim.unit),
        "bound": verdict.bound if verdict else {},
        "explanation": (verdict and verdict.explanation) or "",
        "confidence": claim.entry and claim.entry.confidence,
        "samples": verdict.samples if verdict else {},
        "queries": verdict.queries if verdict else [],
    }
