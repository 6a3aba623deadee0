"""The health that an endpoint tells, as metrics of the same endpoint: what an orchestrator sees, alerts see, too."""

from collections.abc import Callable, Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.health import HealthReport


class HealthCollector(Collector):
    """Asks for the report when it is scraped."""

    def __init__(self, health: Callable[[], HealthReport]) -> None:
        self._health = health

    def describe(self) -> list[Metric]:
        """Return nothing, so that to register it asks for no report."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the two verdicts."""
        report = self._health()
        yield GaugeMetricFamily(
            "background_live", "What /healthz says: a restart would not help.", float(report.is_live)
        )
        yield GaugeMetricFamily("background_ready", "What /readyz says: all is well.", float(report.is_ready))
