"""Metrics that the supervisor counts; any worker tells them, from the shared state."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rrrserve.state.shared_state import RELOAD_OUTCOMES, RESTARTED_PARTS, SharedState


class SupervisionCollector(Collector):
    """Reads the shared state when it is scraped.

    Attributes:
        state: set once the service has started; nothing is told before.
        repository: the short digest of what this worker answers from.
    """

    def __init__(self) -> None:
        self.state: SharedState | None = None
        self.repository = ""

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        if self.state is None:
            return
        restarts = CounterMetricFamily(
            "rrr_restarts", "How often a part was started again after it had died, by part.", labels=["part"]
        )
        for part in RESTARTED_PARTS:
            restarts.add_metric([part], getattr(self.state.service, f"restarts_{part}"))
        yield restarts
        reloads = CounterMetricFamily("rrr_reloads", "Reloads of the repository, by outcome.", labels=["outcome"])
        for outcome in RELOAD_OUTCOMES:
            reloads.add_metric([outcome], getattr(self.state.service, f"reloads_{outcome}"))
        yield reloads
        serving = GaugeMetricFamily(
            "rrr_repository_info", "Always 1; the label is the repository that is served.", labels=["repository"]
        )
        serving.add_metric([self.repository], 1)
        yield serving
        yield GaugeMetricFamily(
            "rrr_triton_up", "1 while requests are sent to Triton, 0 while they are refused.", self.state.triton.up
        )
        if (known := self.state.triton.known) > 0:
            yield GaugeMetricFamily("rrr_tritons_known", "Of several Tritons, how many there are.", known)
            yield GaugeMetricFamily(
                "rrr_tritons_answering", "How many of them answered when last asked.", self.state.triton.answering
            )
        ready = GaugeMetricFamily(
            "rrr_model_ready",
            "Whether the model answered when it was last asked, by a request or by the service itself: 1 or 0.",
            labels=["model"],
        )
        for name in self.state.models:
            ready.add_metric([name], self.state.answers(name))
        yield ready
