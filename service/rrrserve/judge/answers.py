"""Claims about sets and probabilities: a running service is sent labelled images and judged by its answers."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rrrbuild.repository_document import Repository, read_repository
from rrrnet.data.reading import read_image
from rrrnet.errors import ArtifactError, ImageError
from rrrserve.claims.claims_file import nearest
from rrrserve.claims.kinds import Answered, Coverage
from rrrserve.claims.reasons import UndecidableError
from rrrserve.evidence.measured import Measured, check_served, served_there
from rrrserve.evidence.scrape import OURS, refusal, why
from rrrserve.judge.confidence import Answer, calibration_interval, coverage_interval
from rrrserve.judge.drive import MOST_FAILURES
from rrrserve.judge.labelled import Labelled, labelled_images, recorded_of
from rrrserve.judge.source import Source
from rrrserve.judge.verdicts import Verdict, judge, undecided

_TIMEOUT_SECONDS = 30.0
_REMEDY = "more labelled images narrow it"


@dataclass(frozen=True)
class _Served:
    """A model that a service lists."""

    url: str
    repository: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Told:
    """What a model answered to labelled images.

    Attributes:
        found: the usable answers.
        lost: the others, by kind.
        no_set: why answers have no set, if that is for another reason than that they are partial.
    """

    found: tuple[Answer, ...]
    lost: Counter[str]
    no_set: str = ""


async def judge_answers(
    claims: Sequence[Answered], source: Source, alpha: float, report: Callable[[float, str], None]
) -> tuple[dict[str, Verdict], list[Measured]]:
    """Verdicts by the claims' names, and what the services served.

    Args:
        claims: to judge.
        source: with the services' URLs, and where labelled images lie.
        alpha: 1 - confidence.
        report: told nothing of the time, but how many images are answered.

    Raises:
        UsageError, ArtifactError: there are no labelled images, or not for this model.
    """
    if not source.scrape:
        error = UndecidableError(
            "no_evidence", "answers are asked of a running service: give --scrape http://HOST:PORT"
        )
        return {claim.name: undecided(claim, error) for claim in claims}, []
    found: dict[str, Verdict] = {}
    async with httpx.AsyncClient(
        trust_env=False, timeout=_TIMEOUT_SECONDS, verify=source.trust or True, headers=source.headers
    ) as client:
        try:
            served = await _served(client, source.scrape)
        except UndecidableError as error:
            return {claim.name: undecided(claim, error) for claim in claims}, []
        measured = served_there({item.url: {item.repository} for item in served.values()})
        if source.stamped is not None:
            check_served(measured, source.stamped)
        repository = repository_at(source.repository)
        for model, of_model in itertools.groupby(sorted(claims, key=lambda claim: claim.model), lambda one: one.model):
            asked = list(of_model)
            if model not in served:
                there = f"{' and '.join(source.scrape)} serve {', '.join(served)}"
                text = f"{there}, and not {model!r}.{nearest(model, served)}"
                found |= {one.name: undecided(one, UndecidableError("unknown_model", text)) for one in asked}
                continue
            item = served[model]
            same = repository is not None and repository.short_digest == item.repository
            recorded = recorded_of(repository if same else None, model, source.engines)
            images = await asyncio.to_thread(labelled_images, source.data, recorded, item.labels, source.split)
            found |= await _of_model(client, item.url, images, asked, source.concurrency, alpha, report)
            now = (await _served(client, [item.url])).get(model)
            if now is None or now.repository != item.repository:
                changed = UndecidableError("engine_changed", f"{item.url} served another repository meanwhile")
                found |= {one.name: undecided(one, changed) for one in asked}
    return found, measured


async def _of_model(
    client: httpx.AsyncClient,
    url: str,
    images: Labelled,
    claims: Sequence[Answered],
    concurrency: int,
    alpha: float,
    report: Callable[[float, str], None],
) -> dict[str, Verdict]:
    """Ask once for each effort and coverage that claims name."""
    told: dict[tuple[str, float | None], Told] = {}
    verdicts = {}
    for claim in claims:
        coverage = claim.coverage if isinstance(claim, Coverage) else None
        key = (claim.effort, coverage)
        if key not in told:
            query = {"effort": claim.effort, "top_k": "1"} | ({} if coverage is None else {"coverage": str(coverage)})
            told[key] = await ask(
                client, f"{url}/v1/models/{claim.model}/predict", query, images, concurrency=concurrency, report=report
            )
        verdicts[claim.name] = verdict_on(claim, told[key], images.used, alpha)
    return verdicts


def verdict_on(claim: Answered, told: Told, used: str, alpha: float) -> Verdict:
    """The verdict on a claim.

    Args:
        claim: it.
        told: answers by the claim's effort and coverage.
        used: which images these were, for people.
        alpha: 1 - confidence.
    """
    lost, answered = told.lost.total(), len(told.found)
    counts = ", ".join(f"{count} x {kind}" for kind, count in told.lost.items())
    samples = {claim.model: answered}
    if isinstance(claim, Coverage) and told.no_set:
        return undecided(claim, UndecidableError("no_evidence", f"answers have no set: {told.no_set}", samples=samples))
    if not answered or lost > MOST_FAILURES * (lost + answered):
        text = f"{lost} of {lost + answered} images got no usable answer: {counts}"
        return undecided(claim, UndecidableError("requests_failed", text, samples=samples))
    evidence: dict[str, Any] = {
        "images": used,
        "lost": dict(told.lost),
        "efforts": dict(Counter(answer.effort for answer in told.found)),
        "members_used": {str(n): count for n, count in sorted(Counter(a.members_used for a in told.found).items())},
        "accuracy": sum(answer.correct for answer in told.found) / answered,
    }
    if isinstance(claim, Coverage):
        interval = coverage_interval(told.found, lost, alpha)
        sizes = [answer.set_size for answer in told.found]
        evidence |= {"mean_set_size": sum(sizes) / answered, "empty_sets": sizes.count(0)}
    else:
        interval = calibration_interval(told.found, lost, alpha)
    verdict, reason, text = judge(interval, claim.bound, claim.unit, remedy=_REMEDY)
    text = f"{text}; on {used}" + (f"; without a usable answer: {counts}" if lost else "")
    return Verdict(claim, verdict, reason, text, interval, samples, evidence)


async def ask(
    client: httpx.AsyncClient,
    url: str,
    query: Mapping[str, str],
    images: Labelled,
    *,
    concurrency: int,
    report: Callable[[float, str], None],
) -> Told:
    """Send every image once.

    Args:
        client: sends.
        url: of the route.
        query: parameters of each request.
        images: to send.
        concurrency: requests under way.
        report: told how many are answered.
    """
    found: list[Answer] = []
    lost: Counter[str] = Counter()
    no_set: list[str] = []
    pairs = iter(zip(images.paths, images.labels, strict=True))

    async def one_after_the_other() -> None:
        for path, label in pairs:
            try:
                answer = await _ask(client, url, query, path)
                read = _read(answer, label)
            except httpx.HTTPError as error:
                lost[type(error).__name__] += 1
            except _LostError as error:
                lost[str(error)] += 1
            else:
                found.append(read)
                if "coverage" in query and read.in_set is None:
                    no_set.append(str(answer.get("set_reason", "the service knows no sets")))
            report(0.0, f"{len(found) + lost.total()} of {len(images.paths)} images")

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(one_after_the_other())
    return Told(tuple(found), lost, no_set[0] if no_set else "")


class _LostError(Exception):
    """An image without a usable answer; counted by its text."""


async def _ask(client: httpx.AsyncClient, url: str, query: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        body = await asyncio.to_thread(read_image, path)
    except ImageError as error:
        raise _LostError("unreadable_file") from error
    answer = await client.post(url, params=query, content=body, headers={"Content-Type": "application/octet-stream"})
    if answer.status_code != httpx.codes.OK:
        raise _LostError(str(answer.status_code))
    try:
        document = answer.json()
    except ValueError as error:
        raise _LostError("bad_answer") from error
    if not isinstance(document, dict):
        raise _LostError("bad_answer")
    return document


def _read(answer: Mapping[str, Any], label: str) -> Answer:
    """What counts of an answer to an image with that label; a partial one keeps no promise, and does not count."""
    try:
        if answer.get("partial"):
            raise _LostError("partial")
        first, members = answer["predictions"][0], answer["model"]["members"]
        found = answer.get("set")
        labels = None if found is None else [item["label"] for item in found]
        return Answer(
            probability=min(max(float(first["probability"]), 0.0), 1.0),
            correct=first["label"] == label,
            in_set=None if labels is None else label in labels,
            set_size=len(labels or []),
            effort=str(answer.get("effort", "full")),
            members_used=int(answer.get("members_used", members)),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _LostError("bad_answer") from error


async def _served(client: httpx.AsyncClient, urls: Sequence[str]) -> dict[str, _Served]:
    """The models that services list; of one that several have, the first.

    Raises:
        UndecidableError: a service does not answer.
    """
    found: dict[str, _Served] = {}
    for base in urls:
        url = base.rstrip("/").removesuffix(OURS)
        try:
            answer = await client.get(f"{url}/v1/models")
            document = answer.raise_for_status().json()
            for row in document["models"]:
                item = _Served(url, str(document.get("repository") or ""), tuple(map(str, row["labels"])))
                found.setdefault(str(row["name"]), item)
        except httpx.HTTPStatusError as error:
            text = f"GET {url}/v1/models {refusal(error.response.status_code)}"
            raise UndecidableError("target_down", text) from error
        except httpx.HTTPError as error:
            raise UndecidableError("target_down", f"GET {url}/v1/models failed {why(error)}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            text = f"GET {url}/v1/models did not list models: is it an rrr service?"
            raise UndecidableError("target_down", text) from error
    return found


def repository_at(path: Path) -> Repository | None:
    """What is served, where it is at hand: only that tells which images were trained on."""
    try:
        return read_repository(path)
    except ArtifactError:
        if (path / "repository.json").is_file():
            raise
        return None
