"""What the routes answer, as pydantic models: the OpenAPI document and BentoML's clients read them.

The answers themselves are written by `rrrserve.api.prediction`, without pydantic; a test holds the two together.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from rrrserve.api.errors import ERRORS


class Probability(BaseModel):
    """A label and its probability."""

    label: str
    probability: float = Field(ge=0, le=1)


class MemberAnswer(Probability):
    """What one member says."""

    member: int = Field(ge=0, description="its number, from 0")


class Uncertainty(BaseModel):
    """How sure the members that were used are of one image."""

    entropy: float = Field(description="of their mean, in nats")
    mutual_information: float = Field(description="between label and member, in nats")
    agreement: float = Field(description="share of members whose label is the ensemble's")


class AnsweredBy(BaseModel):
    """The model that answered."""

    name: str
    version: str
    target: str
    members: int
    repository: str = Field(description="which version of the repository answered")


class Problem(BaseModel):
    """Why there is no result."""

    code: str = Field(json_schema_extra={"enum": list(ERRORS)})
    message: str
    request_id: str = Field(default="", description="not of a single image of several")


class Error(BaseModel):
    """The one shape of errors."""

    error: Problem


Best = Annotated[list[Probability], Field(description="the ensemble's most probable labels, best first")]
Members = Annotated[
    list[MemberAnswer],
    Field(default_factory=list, description="own label of each member used; only where members=true asks for them"),
]
Effort = Literal["fast", "auto", "full"]
MembersUsed = Annotated[int, Field(ge=1, description="members that the answer is the mean of")]
Partial = Annotated[bool, Field(description="whether a member that was asked is missing: it failed, or was late")]
Unsure = Annotated[bool, Field(description="whether nobody should act on it: an empty set, or too high an entropy")]
Set = Annotated[
    list[Probability] | None,
    Field(description="holds the right label with the coverage that was asked for; empty: no label is likely enough"),
]
SetReason = Annotated[str | None, Field(description="why there is no set although coverage was asked for")]


class Envelope(BaseModel):
    """What every answer to a prediction tells beside the results."""

    request_id: str
    model: AnsweredBy
    timing_ms: dict[str, float] = Field(default_factory=dict, description="not where timing=false says so")


class Answer(Envelope):
    """The answer to one image."""

    predictions: Best
    uncertainty: Uncertainty
    effort: Effort
    members_used: MembersUsed
    partial: Partial
    unsure: Unsure
    set: Set = None
    set_reason: SetReason = None
    members: Members


class Item(BaseModel):
    """What is told about one of several images: a result or an error."""

    # No union of two models: BentoML's clients know only the first one of such.
    predictions: Best = Field(default_factory=list)
    uncertainty: Uncertainty | None = None
    effort: Effort | None = None
    members_used: MembersUsed | None = None
    partial: Partial = False
    unsure: Unsure = False
    set: Set = None
    set_reason: SetReason = None
    members: Members
    error: Problem | None = None


class BatchAnswer(Envelope):
    """The answer to several images."""

    results: list[Item] = Field(description="one for each image, in the order of the request")


Vector = Annotated[
    list[float], Field(description="pooled features of all members in their order, of length 1: a product is a cosine")
]


class Embedding(Envelope):
    """The embedding of one image."""

    dim: int = Field(ge=1, description="how many numbers it has")
    embedding: Vector


class EmbeddingItem(BaseModel):
    """The embedding of one of several images, or an error."""

    dim: int | None = None
    embedding: Vector = Field(default_factory=list)
    error: Problem | None = None


class EmbeddingBatch(Envelope):
    """The embeddings of several images."""

    results: list[EmbeddingItem] = Field(description="one for each image, in the order of the request")


class ServedClaim(BaseModel):
    """A sentence about the model that rrr verify judged, as stamped on the model."""

    name: str
    sentence: str
    verdict: Literal["pass", "fail", "undecided", "unreadable"]
    estimate: float | None
    interval: tuple[float, float] | None
    unit: str
    verified_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None
    stale: bool = Field(description="whether hardware, versions or files differ since")
    stale_reasons: list[str]


class ListedModel(BaseModel):
    """One model of the repository."""

    name: str
    version: str
    target: str
    backend: str
    members: int
    num_classes: int
    labels: list[str]
    image_size: int
    max_batch_size: int
    parameters: int
    macs: int
    claims: list[ServedClaim]


class Models(BaseModel):
    """The repository's models."""

    default: str = Field(description="the model that /v1/predict asks, unless there is a route of that name")
    routes: dict[str, dict[str, float]] = Field(description="the share of each model in each route, from 0 to 1")
    repository: str = Field(description="which version of the repository is served")
    models: list[ListedModel]


class ListedSample(BaseModel):
    """A labelled image."""

    number: int = Field(ge=0, description="its place in GET /v1/samples/{number}")
    label: str = Field(description="the right one")
    model: str = Field(description="whose test images it is from")


class Samples(BaseModel):
    """The sample images that came with the repository."""

    samples: list[ListedSample]
