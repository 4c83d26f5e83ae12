"""Prometheus metrics of the server.

Takes durations and counts and returns the page that `/metrics` serves. Every app has its own registry. With several
workers, `PROMETHEUS_MULTIPROC_DIR` is set and the page sums over all workers. It does not know what a feed is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from recsys.online.stream.lag import Lag

SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bucket bounds in seconds, finest around the expected latency of a feed."""

COUNTS = (0, 1, 5, 10, 20, 50, 100, 200, 300, 400, 500, 750, 1000)


class Metrics:
    """The counters and histograms of one app."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Histogram(
            "recsys_http_request_seconds",
            "Time from request to last byte of the response",
            ["route", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "recsys_feed_stage_seconds", "Time of one stage of a feed", ["stage"], buckets=SECONDS, registry=registry
        )
        self.candidates = Histogram(
            "recsys_feed_candidates", "Candidates of a request, by outcome", ["fate"], buckets=COUNTS,
            registry=registry,
        )  # fmt: skip
        self.degraded = Counter(
            "recsys_feeds_degraded", "Feeds served without one of their parts", ["what"], registry=registry
        )
        self.events = Counter("recsys_events", "Events posted, by outcome", ["outcome"], registry=registry)
        self.errors = Counter("recsys_errors", "Requests that were refused or failed", ["kind"], registry=registry)

    def page(self, lag: Lag | None = None) -> bytes:
        """The page as Prometheus text. It includes `lag`, the stores' delay behind the stream, unless that is None."""
        registry = self._registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry) + (b"" if lag is None else generate_latest(_LagCollector(lag)))


class _LagCollector:
    """Collector of the lag metrics. They are read from Redis for each page and are the same for every worker."""

    def __init__(self, lag: Lag) -> None:
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        lag = self._lag
        for name, meaning, seconds in (
            ("recsys_stream_lag_seconds", "Age of the oldest event that features do not reflect yet", lag.online),
            ("recsys_lake_lag_seconds", "Age of the oldest event that the lake does not hold yet", lag.lake),
        ):
            if seconds is not None:
                yield GaugeMetricFamily(name, meaning, seconds)
        yield CounterMetricFamily(
            "recsys_dead_letters", "Stream records that could not be applied and were set aside", lag.dead_letters
        )
