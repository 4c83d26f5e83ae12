"""What the server counts about itself, as Prometheus text.

Takes durations and counts, gives the page that `/metrics` serves. Every app has a registry of its own; with several
workers `PROMETHEUS_MULTIPROC_DIR` is set and the page adds all of them up. It does not know what a feed is.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bucket bounds, fine where a feed should be."""

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
            "recsys_feed_candidates", "Candidates of a request by what became of them", ["fate"], buckets=COUNTS,
            registry=registry,
        )  # fmt: skip
        self.degraded = Counter(
            "recsys_feeds_degraded", "Feeds that had to leave something out", ["what"], registry=registry
        )
        self.events = Counter("recsys_events", "Events posted, by outcome", ["outcome"], registry=registry)
        self.errors = Counter("recsys_errors", "Requests that were refused or failed", ["kind"], registry=registry)
        self.stream_lag = Gauge(
            "recsys_stream_lag_seconds",
            "Age of the oldest event that features do not reflect yet",
            registry=registry,
            multiprocess_mode="mostrecent",
        )

    def page(self) -> bytes:
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self._registry)
