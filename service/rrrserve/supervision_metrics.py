"""Metrics that the supervisor counts; any worker tells them, from the shared state."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rrrserve.shared_state import RESTARTED_PARTS, SharedState


class SupervisionCollector(Collector):
    """Reads the shared state when it is scraped.

    Attributes:
        state: set once the service has started; nothing is told before.
    """

    def __init__(self) -> None:
        self.state: SharedState | None = None

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        if self.state is None:
            return
        restarts = CounterMetricFamily(
            "rrr_restarts", "How often a part was started again after it had died, by part.", labels=["part"]
        )
        for part in RESTARTED_PARTS:
            restarts.add_metric([part], self.state.restarts(part))
        yield restarts
        yield GaugeMetricFamily(
            "rrr_triton_up", "1 while requests are sent to Triton, 0 while they are refused.", int(self.state.triton_up)
        )
        ready = GaugeMetricFamily(
            "rrr_model_ready",
            "Whether the model answered when it was last asked, by a request or by the service itself: 1 or 0.",
            labels=["model"],
        )
        for name in self.state.models:
            ready.add_metric([name], self.state.answers(name))
        yield ready
