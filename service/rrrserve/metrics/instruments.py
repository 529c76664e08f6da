"""Every Prometheus metric of the service. Label sets are closed: nothing that a client sends becomes a label.

With more than one HTTP worker the supervisor sets PROMETHEUS_MULTIPROC_DIR to a fresh folder before this module is
imported (prometheus_client decides at import time); a scrape of any worker then gives the sum over all of them
(`rrrserve.metrics.multiprocess`).

Series that can be told beforehand are made before the first request: a counter that springs up at 1 has no increase
that Prometheus could see, and a path that nobody asked for yet must not add a histogram when somebody does.
"""

from collections.abc import Iterable
from itertools import product

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from rrrbuild.cascade_runner import EFFORTS, FAILED, FULL, LATE, NOT_FINITE
from rrrbuild.repository_document import MEMBER_STATUS, ServedModel

disable_created_metrics()  # type: ignore[no-untyped-call]  # a time stamp for every series: nothing that rate() needs

STAGES = ("read", "decode", "preprocess", "inference", "encode")
OUTCOMES = ("ok", "client_error", "rejected", "deadline", "server_error")
UNMATCHED = "unmatched"
PREFLIGHT = "preflight"
SAME = ("yes", "no")
SHADOW_REASONS = ("busy", "share", "failed")
FAILURES = {NOT_FINITE: "nan", FAILED: "error", LATE: "late"}


def latency_buckets(low: float = 0.00025, high: float = 30.0, factor: float = 1.25) -> tuple[float, ...]:
    """Bucket bounds in seconds from `low` to `high`, each at most `factor` times the one before."""
    bounds = [low]
    while bounds[-1] * factor < high:
        bounds.append(bounds[-1] * factor)
    # Four digits keep the `le` labels short; the rounding moves a bound by less than 0.05 %.
    return (*(float(f"{bound:.4g}") for bound in bounds), high)


BUCKETS = latency_buckets(factor=1.249)

REQUEST_DURATION = Histogram(
    "rrr_request_duration_seconds",
    "Time from a request's arrival until its answer is handed to the connection, by route, model and outcome.",
    ["route", "model", "outcome"],
    buckets=BUCKETS,
)
STAGE_DURATION = Histogram(
    "rrr_stage_duration_seconds",
    "Time of one stage of a prediction request: read (body), decode, preprocess (resize), inference, encode (JSON).",
    ["stage", "model"],
    buckets=BUCKETS,
)
INFERENCE_DURATION = Histogram(
    "rrr_inference_duration_seconds",
    "Round trip of one call to Triton, by model and target.",
    ["model", "target"],
    buckets=BUCKETS,
)
DISAGREEMENT = Histogram(
    "rrr_disagreement",
    "Share of members whose label is not the ensemble's, one observation for each image.",
    ["model"],
    buckets=tuple(step / 16 for step in range(17)),
)
MEMBERS_USED = Histogram(
    "rrr_members_used",
    "Members that an answer is the mean of, one observation for each image.",
    ["model"],
    buckets=(1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32),
)
EFFORT = Counter(
    "rrr_effort_total",
    "Images answered, by the effort that answered them.",
    ["model", "effort"],
)
EARLY_ANSWERS = Counter(
    "rrr_early_answers_total",
    "Images of effort auto that the first members of a cascade settled alone.",
    ["model"],
)
SHED = Counter(
    "rrr_shed_total",
    "Requests of effort auto that were answered by effort fast because of the load.",
    ["model"],
)
ROUTED = Counter(
    "rrr_routed_requests_total",
    "Requests to a route of several models, by the model that was chosen.",
    ["route", "variant"],
)
ROUTE_SHARE = Gauge(
    "rrr_route_share",
    "The share of its requests that a route gives to a model, from 0 to 1.",
    ["route", "variant"],
    multiprocess_mode="livemax",
)
SHADOW_COMPARED = Counter(
    "rrr_shadow_compared_total",
    "Images that a model answered and its shadow too, by whether both gave the same label.",
    ["model", "shadow", "same"],
)
SHADOW_DURATION = Histogram(
    "rrr_shadow_duration_seconds",
    "Inference of the images that a model and its shadow were compared on, each while nothing else was under way.",
    ["model"],
    buckets=BUCKETS,
)
SHADOW_DROPPED = Counter(
    "rrr_shadow_dropped_total",
    "Answers that the shadow was not asked about, or did not answer, by reason.",
    ["reason"],
)
UNSURE_KEPT = Counter(
    "rrr_unsure_images_total",
    "Images that the service was unsure of and that --keep-unsure asks to keep, by what became of them.",
    ["outcome"],
)
DRIFT_SCORE = Gauge(
    "rrr_drift_score",
    "How far the last answers are from those to the calibration images: 0 is as there, 1 an alarm; NaN: not known.",
    ["model"],
    multiprocess_mode="liveall",  # `multiprocess` takes the largest: that of `livemax` may be NaN beside numbers
)
MEMBER_FAILURES = Counter(
    "rrr_member_failures_total",
    "Images that were answered without a member which was asked, by member and reason.",
    ["model", "member", "reason"],
)
MEMBER_DURATION = Histogram(
    "rrr_member_duration_seconds",
    "Time of one member's engine; observed only by engines of plan split.",
    ["model", "member"],
    buckets=BUCKETS,
)
REJECTED = Counter(
    "rrr_requests_rejected_total",
    "Requests that were refused or failed, by error code.",
    ["reason"],
)
IN_FLIGHT = Gauge(
    "rrr_in_flight_requests",
    "Prediction requests that are being answered now.",
    multiprocess_mode="livesum",
)
MODEL_INFO = Gauge(
    "rrr_model_info",
    "Always 1; the labels tell which engine the model of that name is.",
    ["model", "version", "target", "members"],
    multiprocess_mode="livemax",
)
BUILD_INFO = Gauge(
    "rrr_build_info",
    "Always 1; the labels hold the versions of this service, its Triton and its BentoML.",
    ["version", "triton", "bentoml"],
    multiprocess_mode="livemax",
)


def outcome_of(status: int) -> str:
    """The outcome label of an HTTP status; one of `OUTCOMES`."""
    if status < 400:
        return "ok"
    if status in (408, 504):
        return "deadline"
    if status in (429, 503):
        return "rejected"
    return "client_error" if status < 500 else "server_error"


def efforts_of(model: ServedModel) -> tuple[str, ...]:
    """The efforts that a model answers by."""
    return (FULL,) if model.cascade is None else EFFORTS


def create_series(codes: Iterable[str], models: Iterable[ServedModel], answers: Iterable[tuple[str, str]]) -> None:
    """Make the series of every error code and model, and of good answers.

    Args:
        codes: of errors.
        models: those of the repository.
        answers: pairs of a prediction route and the name of a model that it reaches.
    """
    for code in codes:
        REJECTED.labels(code)
    for outcome in ("kept", "left_out", "failed"):
        UNSURE_KEPT.labels(outcome)
    for model in models:
        if model.cascade is not None:
            SHED.labels(model.name)
        MODEL_INFO.labels(model.name, model.version, model.target, str(model.members)).set(1)
        if MEMBER_STATUS in model.outputs:
            for member, reason in product(range(model.members), FAILURES.values()):
                MEMBER_FAILURES.labels(model.name, str(member), reason)
    for route, name in answers:
        REQUEST_DURATION.labels(route, name, "ok")
