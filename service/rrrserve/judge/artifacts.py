"""Evidence that needs no running service: what the repository and the engines' manifests hold."""

import math
from pathlib import Path
from typing import Any

from rrrbuild.manifest import MANIFEST, Manifest, read_engine
from rrrbuild.repository_document import Repository, ServedModel, read_repository
from rrrnet.errors import ArtifactError
from rrrnet.files import shown
from rrrnet.proportions import changed, difference, proportion
from rrrserve.claims.claims_file import nearest
from rrrserve.claims.kinds import AccuracyDifference, Agreement, Size
from rrrserve.claims.reasons import UndecidableError
from rrrserve.judge.verdicts import Interval, Verdict, judge, undecided, unit_of

_REMEDY = "build with more images (rrr build --images)"
_POINTS = 100.0


class Artifacts:
    """A repository, and the folder in which `rrr build` leaves engines.

    Everything is read when it is first needed, and its digests are checked.
    """

    def __init__(self, repository: Path, engines: Path) -> None:
        self._path = repository
        self._engines = engines
        self._read: Repository | None = None

    def verdict(self, claim: Size | AccuracyDifference | Agreement, alpha: float) -> Verdict:
        """The verdict on a claim about artifacts; `alpha` is 1 - confidence."""
        queries = (f"rrr verify --repository {shown(self._path)}",)
        try:
            if isinstance(claim, Size):
                interval, samples, evidence = self._size(claim)
            elif isinstance(claim, AccuracyDifference):
                interval, samples, evidence = self._accuracy(claim, alpha)
            else:
                interval, samples, evidence = self._agreement(claim, alpha)
        except UndecidableError as error:
            return undecided(claim, error, queries)
        verdict, reason, text = judge(interval, claim.bound, unit_of(claim), remedy=_REMEDY)
        return Verdict(claim, verdict, reason, text, interval, samples, evidence, queries)

    def _size(self, claim: Size) -> tuple[Interval, dict[str, int], dict[str, Any]]:
        figures = {model: self._figure(claim.kind, model) for model in claim.models}
        value = float(figures[claim.model])
        if claim.baseline is not None:
            value = figures[claim.baseline] / figures[claim.model]
        return Interval(value, value, value), {}, {claim.kind: figures}

    def _figure(self, kind: str, model: str) -> int:
        served = self._model(model)
        if kind == "parameters":
            return served.parameters
        if kind == "macs":
            return served.macs
        parts = [read_engine(folder) for folder in self._repository().engine_folders(served)]
        return sum(part.engine_bytes for part in parts or [self._manifest(model, None)])

    def _accuracy(self, claim: AccuracyDifference, alpha: float) -> tuple[Interval, dict[str, int], dict[str, Any]]:
        verified = [_verified(self._manifest(model, None), model) for model in claim.models]
        for model, found in zip(claim.models, verified, strict=True):
            if found["accuracy"] is None:
                raise UndecidableError(
                    "not_verified",
                    f"{model} was verified on {found['images']} {found['source']}, which have no labels: build it with "
                    "rrr build --data DIR",
                )
        samples = {model: int(found["images"]) for model, found in zip(claim.models, verified, strict=True)}
        if claim.baseline is None:
            (one,) = verified
            images = one["images"]
            gain = round(images * one["accuracy"]) - round(images * one["reference_accuracy"])
            moved = images - round(images * one["label_agreement"])
            shares = changed(gain, moved, images, alpha)
            evidence = {"accuracy": one["accuracy"], "reference_accuracy": one["reference_accuracy"], "changed": moved}
        else:
            one, two = verified
            hits = [(round(part["images"] * part["accuracy"]), part["images"]) for part in (one, two)]
            shares = difference(hits[0], hits[1], alpha)
            evidence = {"accuracy": {claim.model: one["accuracy"], claim.baseline: two["accuracy"]}}
        value, low, high = (_POINTS * end for end in shares)
        return Interval(value, low, high), samples, evidence

    def _agreement(self, claim: Agreement, alpha: float) -> tuple[Interval, dict[str, int], dict[str, Any]]:
        one = self._manifest(claim.model, claim.target)
        first = _verified(one, claim.model)
        images = int(first["images"])
        agree = round(images * first["label_agreement"])
        evidence: dict[str, Any] = {
            "label_agreement": {one.target: first["label_agreement"]},
            "source": first["source"],
        }
        if claim.other_target is None:
            return Interval(*proportion(agree, images, alpha)), {claim.model: images}, evidence
        two = self._manifest(claim.model, claim.other_target)
        second = _verified(two, claim.model)
        if (one.checkpoint["sha256"], images, first["source"]) != (
            two.checkpoint["sha256"],
            second["images"],
            second["source"],
        ):
            raise UndecidableError(
                "not_verified",
                f"{one.target} and {two.target} of {claim.model} were not verified on the same images of one "
                "checkpoint: build both again",
            )
        evidence["label_agreement"][two.target] = second["label_agreement"]
        # Each differs from PyTorch on some images; on the same ones at best, on different ones at worst.
        moved, moved_too = images - agree, images - round(images * second["label_agreement"])
        worst = proportion(max(images - moved - moved_too, 0), images, alpha)
        best = proportion(images - abs(moved - moved_too), images, alpha)
        return Interval(worst.value, worst.low, best.high), {claim.model: images}, evidence

    def _repository(self) -> Repository:
        if self._read is None:
            try:
                self._read = read_repository(self._path)
            except ArtifactError as error:
                if (self._path / "repository.json").is_file():
                    raise
                raise UndecidableError("no_evidence", f"{error}; name it with --repository") from error
        return self._read

    def _model(self, name: str) -> ServedModel:
        models = {model.name: model for model in self._repository().models}
        if name not in models:
            raise UndecidableError(
                "unknown_model", f"{self._path} holds {', '.join(models)}, and not {name!r}.{nearest(name, models)}"
            )
        return models[name]

    def _manifest(self, model: str, target: str | None) -> Manifest:
        """Of the engine that is served, or of one of a given target among the engines."""
        if target is None:
            served = self._model(model)
            target = served.target
            for path in sorted((self._path / model).glob(f"*/{MANIFEST}")):
                return read_engine(path.parent)
        folder = self._engines / model / target
        if not (folder / MANIFEST).is_file():
            built = [path.parent.name for path in sorted((self._engines / model).glob(f"*/{MANIFEST}"))]
            raise UndecidableError(
                "no_evidence",
                f"there is no engine {folder}; targets of {model} there: {', '.join(built) or 'none'}."
                f"{nearest(target, built)} Build it with rrr build, or name its folder with --engines",
            )
        return read_engine(folder)


def _verified(manifest: Manifest, model: str) -> dict[str, Any]:
    if manifest.verified is False:
        raise UndecidableError(
            "not_verified", f"the engine {manifest.target} of {model} was never run: {manifest.unverified_reason}"
        )
    if not math.isfinite(manifest.verified["label_agreement"]):
        raise UndecidableError("not_a_number", f"the manifest of {model} holds {manifest.verified['label_agreement']}")
    return manifest.verified
