"""The metrics of a server, for Prometheus."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CLOUDS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server.

    Args:
        waiting: Returns the number of clouds that wait for a batch.
        adapters: Returns the number of adapters.
    """

    def __init__(self, waiting: Callable[[], float], adapters: Callable[[], float]):
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "dapt_requests", "Requests to predict", ["adapter", "status"], registry=registry
        )
        self.seconds = Histogram(
            "dapt_request_seconds", "From request to answer", buckets=SECONDS, registry=registry
        )
        self.in_progress = Gauge(
            "dapt_requests_in_progress", "Requests not yet answered", registry=registry
        )
        self._clouds = Histogram(
            "dapt_batch_clouds", "Clouds in a batch", buckets=CLOUDS, registry=registry
        )
        self._adapters = Histogram(
            "dapt_batch_adapters", "Adapters in a batch", buckets=CLOUDS, registry=registry
        )
        Gauge("dapt_clouds_waiting", "Clouds waiting", registry=registry).set_function(waiting)
        Gauge("dapt_adapters", "Adapters loaded", registry=registry).set_function(adapters)

    def observe_batch(self, clouds: int, adapters: int) -> None:
        """Count a batch.

        Args:
            clouds: The number of its clouds.
            adapters: The number of adapters they are for.
        """
        self._clouds.observe(clouds)
        self._adapters.observe(adapters)

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)
