"""What /metrics says, in Prometheus' format. Counts; changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeAlias

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from weft.controller.service import Service, Timings
from weft.model.names import Kind

#: What is so at the moment of being asked, of something beside the service.
Figures: TypeAlias = Callable[[], Iterable[Metric]]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """One registry for one service: two controllers in one process do not share counters."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, service: Service, figures: Figures = tuple) -> None:
        """figures: what else there is to say, by whoever knows."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "weft_http_requests", "Requests answered", ["method", "path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "weft_http_request_seconds",
            "From a request to the beginning of its answer",
            ["method", "path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        commit = Histogram(
            "weft_store_commit_seconds", "A commit, until it is durable", buckets=_SECONDS, registry=self._registry
        )
        write = Histogram(
            "weft_write_seconds", "A write: checked, durable, compiled", buckets=_SECONDS, registry=self._registry
        )
        service.timings = Timings(commit.observe, write.observe)
        self._registry.register(_Present(service, figures))

    @contextmanager
    def request(self, method: str, path: str) -> Iterator[Callable[[int], None]]:
        """path: as in the table, so that names do not become labels. The caller says how it ended."""
        began = perf_counter()
        status = 500

        def ended(as_status: int) -> None:
            nonlocal status
            status = as_status

        try:
            yield ended
        finally:
            self._requests.labels(method, path, str(status)).inc()
            self._seconds.labels(method, path).observe(perf_counter() - began)

    def exposition(self) -> bytes:
        return generate_latest(self._registry)


class _Present(Collector):
    """What is so at the moment of being asked."""

    def __init__(self, service: Service, figures: Figures) -> None:
        self._service = service
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        service = self._service
        yield from self._figures()
        yield GaugeMetricFamily("weft_revision", "Of the last commit", value=service.revision)
        yield GaugeMetricFamily("weft_store_schema", "Schema version that the store is in", value=service.schema)
        objects = GaugeMetricFamily("weft_objects", "Objects there are", labels=["kind"])
        for kind in Kind:
            objects.add_metric([kind.value], service.count(kind))
        yield objects
        yield GaugeMetricFamily("weft_ports_active", "Ports whose host says so", value=service.statuses.ports_active())
        announced = CounterMetricFamily(
            "weft_announcements", "What guests have announced, by what became of it", labels=["outcome"]
        )
        for outcome, count in service.announcements.items():
            announced.add_metric([outcome], count)
        yield announced
        lag = GaugeMetricFamily(
            "weft_host_applied_lag", "Revisions that a host has yet to say it has applied", labels=["host"]
        )
        for host, applied in service.statuses.applied():
            lag.add_metric([host], max(0, service.revision - applied))
        yield lag
        counters = service.feed.counters
        yield GaugeMetricFamily("weft_feed_listeners", "Feeds that are open", value=counters.listeners)
        yield CounterMetricFamily("weft_feed_bytes_sent", "To all listeners", value=counters.bytes_sent)
        yield CounterMetricFamily("weft_feed_bytes_encoded", "Once for all listeners", value=counters.bytes_encoded)
        yield CounterMetricFamily(
            "weft_feed_cut_off", "Listeners that did not read fast enough", value=counters.streams_cut_off
        )
