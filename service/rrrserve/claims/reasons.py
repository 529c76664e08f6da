"""Why a verdict is what it is: a closed set of words, each with its meaning."""

REASONS: dict[str, str] = {
    "bound_met": "pass: the whole interval satisfies the bound",
    "bound_missed": "fail: no part of the interval satisfies the bound",
    "interval_straddles_bound": "undecided: the bound lies within the interval; more samples narrow it",
    "too_few_samples": "undecided: fewer requests than the statistic needs",
    "too_few_blocks": "undecided: fewer blocks of time with answers of every model than an interval needs",
    "bucket_too_coarse": "undecided: buckets wider than the claim's margin; more samples do not help",
    "off_scale": "undecided: the percentile lies beyond the histogram's last finite bucket",
    "target_down": "undecided: a service, or the Prometheus server, did not answer",
    "no_traffic": "undecided: the histogram is empty over the time that was looked at",
    "requests_failed": "undecided: most requests that were sent for this claim failed",
    "counter_reset": "undecided: a counter fell, so the service was restarted meanwhile",
    "engine_changed": "undecided: a reload, or a restart from another repository, changed the engines meanwhile",
    "not_a_number": "undecided: a metric is NaN or infinite",
    "bad_metrics": "undecided: the answer is not in Prometheus's format, or its histogram contradicts itself",
    "metric_missing": "undecided: the metric is not among those that were read",
    "unknown_model": "undecided: the metric is there, but not for this model",
    "untrusted_metric": "undecided: the metric cannot be trusted for this statistic or model",
    "not_saturated": "undecided: the rate is below the bound, but nothing tells whether more was asked for",
    "not_verified": "undecided: the engine's manifest holds no such comparison",
    "sources_disagree": "undecided: the interval from Prometheus and the one from our own scrapes exclude each other",
    "no_evidence": "undecided: this source holds no evidence for this claim, or several runs that fit it",
}


class UndecidableError(Exception):
    """A claim that cannot be decided from the evidence at hand; caught where verdicts are made.

    Attributes:
        reason: a key of `REASONS`.
        samples: what there was, by model.
    """

    def __init__(self, reason: str, explanation: str, *, samples: dict[str, int] | None = None) -> None:
        super().__init__(explanation)
        self.reason = reason
        self.samples = samples or {}
