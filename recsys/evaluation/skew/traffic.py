"""Synthetic HTTP traffic: several clients request feeds and send events at once.

Takes a server's address and users; sends requests; gives what was sent. The users click at random: the traffic changes
the stores, and says nothing about the quality of the feeds.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np

from recsys.progress import Report

N_CLIENTS = 4
"""Clients that run at once, so that one client's events are applied while another's feed is made."""

_ACTIONS = {"click": 0.2, "like": 0.04, "share": 0.02, "hide": 0.02}
_LATE_SHARE = 0.1
_LATEST_S = 7200
_REPEATED_SHARE = 0.05


@dataclass
class Sent:
    """What the server accepted."""

    requests: int = 0
    events: int = 0


def drive(
    url: str, users: Sequence[str], n_requests: int, limit: int, seed: int, report: Report
) -> Sent:  # fmt: skip
    """Request feeds, and send impressions and actions for each: some events late, some batches twice.

    Args:
        users: user ids, drawn at random for each request.
    Raises: httpx.HTTPError when the server refuses a request.
    """
    sent, lock = Sent(), threading.Lock()
    run = uuid.uuid4().hex  # makes event ids differ from those of earlier runs, which would count as repeats

    def client(number: int) -> None:
        rng = np.random.default_rng((seed, number))
        with httpx.Client(base_url=url, timeout=30.0) as http:
            for turn in range(number, n_requests, N_CLIENTS):
                user = users[int(rng.integers(len(users)))]
                feed = http.get("/v1/feed", params={"user_id": user, "limit": limit}).raise_for_status().json()
                events = _events(feed, f"{run}-{turn}", rng)
                http.post("/v1/events", json={"events": events}).raise_for_status()
                if rng.random() < _REPEATED_SHARE:
                    http.post("/v1/events", json={"events": events}).raise_for_status()
                with lock:
                    sent.requests += 1
                    sent.events += len(events)
                    report(sent.requests, n_requests)

    with ThreadPoolExecutor(N_CLIENTS) as pool:
        list(pool.map(client, range(N_CLIENTS)))
    return sent


def _events(feed: dict[str, object], name: str, rng: np.random.Generator) -> list[dict[str, object]]:
    """Events of one feed: an impression of every item, and random actions."""
    items = feed["items"]
    assert isinstance(items, list)
    now_us = int(np.datetime64("now", "us").astype(np.int64))
    events: list[dict[str, object]] = []
    for place, item in enumerate(items):
        for kind, share in {"impression": 1.0, **_ACTIONS}.items():
            if rng.random() < share:
                late_s = rng.integers(1, _LATEST_S) if rng.random() < _LATE_SHARE else 0
                events.append(
                    {
                        "event_id": f"{name}-{place}-{kind}",
                        "request_id": feed["request_id"],
                        "user_id": feed["user_id"],
                        "post_id": item["post_id"],
                        "type": kind,
                        "event_time": now_us - int(late_s) * 1_000_000,
                    }
                )
    return events
