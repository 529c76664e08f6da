"""What a service answers, typed (docs/http.md tells what each field means), and what it refuses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rrrnet.errors import RRRError


class ServiceError(RRRError):
    """A service refused a request.

    Attributes:
        code: the word for it, such as "overloaded"; docs/http.md lists them. Empty if no rrr service answered.
        message: what was wrong, in words.
        request_id: finds the request in the service's log.
        status: the answer's HTTP status.
    """

    def __init__(self, code: str, message: str, *, request_id: str = "", status: int = 0) -> None:
        super().__init__(f"{message} ({code})" if code else message)
        self.code, self.message, self.request_id, self.status = code, message, request_id, status


class NoAnswerError(RRRError):
    """A service could not be reached, or did not answer in time."""


@dataclass(frozen=True)
class Prediction:
    """A label and its calibrated probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Vote:
    """What one member says alone: its number, label and calibrated probability."""

    member: int
    label: str
    probability: float


@dataclass(frozen=True)
class Uncertainty:
    """`entropy` and `mutual_information` in nats, `agreement` the share of members with the ensemble's label."""

    entropy: float
    mutual_information: float
    agreement: float


@dataclass(frozen=True)
class Answer:
    """What a service says of one image.

    Attributes:
        predictions: the likeliest labels, best first.
        uncertainty: how much to doubt them.
        effort: by which it was answered, "fast", "auto" or "full".
        members_used: how many members it is the mean of.
        partial: whether a member that was asked is missing.
        unsure: whether nobody should act on it.
        set: the smallest set of labels that holds the right one as often as asked; None if not asked, or there is none.
        set_reason: why there is none; empty otherwise.
        members: each member's own label, if asked.
        timing_ms: of the request by stage.
        model: the name of the one that answered.
        request_id: of the request.
        document: the answer as it came, in a batch the image's part of it.
    """

    predictions: tuple[Prediction, ...]
    uncertainty: Uncertainty
    effort: str
    members_used: int
    partial: bool
    unsure: bool
    set: tuple[Prediction, ...] | None
    set_reason: str
    members: tuple[Vote, ...]
    timing_ms: Mapping[str, float]
    model: str
    request_id: str
    document: Mapping[str, Any] = field(repr=False)

    @property
    def label(self) -> str:
        """The likeliest label."""
        return self.predictions[0].label

    @property
    def probability(self) -> float:
        """That label's."""
        return self.predictions[0].probability


@dataclass(frozen=True)
class Embedding:
    """What a service's model sees in an image.

    Attributes:
        vector: pooled features of all members in their order; of length 1, so that a product of two is their cosine.
        model: the name of the one that answered.
        request_id: of the request.
    """

    vector: tuple[float, ...] = field(repr=False)
    model: str
    request_id: str


@dataclass(frozen=True)
class Model:
    """A model that a service holds; `is_default` is asked where none is named."""

    name: str
    target: str
    members: int
    labels: tuple[str, ...]
    image_size: int
    is_default: bool


def answer_of(item: Mapping[str, Any], document: Mapping[str, Any]) -> Answer:
    """Read one image's part of a service's answer; what an older service does not tell, it did not have.

    Raises:
        KeyError, TypeError: it is no such answer.
    """
    return Answer(
        predictions=_predictions(item["predictions"]),
        uncertainty=Uncertainty(**{name: item["uncertainty"][name] for name in Uncertainty.__dataclass_fields__}),
        effort=item.get("effort", "full"),
        members_used=item.get("members_used", document["model"]["members"]),
        partial=item.get("partial", False),
        unsure=item.get("unsure", False),
        set=_predictions(item["set"]) if "set" in item else None,
        set_reason=item.get("set_reason", ""),
        members=tuple(Vote(row["member"], row["label"], row["probability"]) for row in item.get("members", ())),
        timing_ms=document.get("timing_ms", {}),
        model=document["model"]["name"],
        request_id=document["request_id"],
        document=item,
    )


def embedding_of(item: Mapping[str, Any], document: Mapping[str, Any]) -> Embedding:
    """Read one image's part of an answer about embeddings; see `answer_of`."""
    return Embedding(tuple(item["embedding"]), document["model"]["name"], document["request_id"])


def models_of(document: Mapping[str, Any]) -> tuple[Model, ...]:
    """Read the answer of `GET /v1/models`; see `answer_of`."""
    return tuple(
        Model(
            name=row["name"],
            target=row["target"],
            members=row["members"],
            labels=tuple(row["labels"]),
            image_size=row["image_size"],
            is_default=row["name"] == document["default"],
        )
        for row in document["models"]
    )


def _predictions(rows: list[dict[str, Any]]) -> tuple[Prediction, ...]:
    return tuple(Prediction(row["label"], row["probability"]) for row in rows)
