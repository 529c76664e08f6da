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


class Uncertainty(BaseModel):
    """How sure the ensemble is of one image."""

    entropy: float = Field(description="of the members' mean, in nats")
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
    list[Probability],
    Field(default_factory=list, description="each member's own label; only where members=true asks for them"),
]


class Envelope(BaseModel):
    """What every answer to a prediction tells beside the results."""

    request_id: str
    model: AnsweredBy
    timing_ms: dict[str, float] = Field(default_factory=dict, description="not where timing=false says so")


class Answer(Envelope):
    """The answer to one image."""

    predictions: Best
    uncertainty: Uncertainty
    members: Members


class Item(BaseModel):
    """What is told about one of several images: a result or an error."""

    # No union of two models: BentoML's clients know only the first one of such.
    predictions: Best = Field(default_factory=list)
    uncertainty: Uncertainty | None = None
    members: Members
    error: Problem | None = None


class BatchAnswer(Envelope):
    """The answer to several images."""

    results: list[Item] = Field(description="one for each image, in the order of the request")


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

    default: str = Field(description="the model that /v1/predict asks")
    repository: str = Field(description="which version of the repository is served")
    models: list[ListedModel]
