"""One real server over a small trained world, for all end-to-end tests: real Redis, real HTTP, real consumer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from recsys.config import Config
from recsys.serving.processes.server import running_server


@dataclass
class Client:
    """A small client of the HTTP interface."""

    http: httpx.Client

    def feed(self, user: str, limit: int = 20, cursor: str | None = None) -> dict[str, Any]:
        parameters: dict[str, Any] = {"user_id": user, "limit": limit}
        if cursor is not None:
            parameters["cursor"] = cursor
        answer = self.http.get("/v1/feed", params=parameters)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def send(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        answer = self.http.post("/v1/events", json={"events": events})
        assert answer.status_code == 202, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def event(self, feed: dict[str, Any], item: dict[str, Any], kind: str, **more: Any) -> dict[str, Any]:
        return {
            "event_id": uuid.uuid4().hex,
            "request_id": feed["request_id"],
            "user_id": feed["user_id"],
            "post_id": item["post_id"],
            "type": kind,
            "event_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **more,
        }

    def see(self, feed: dict[str, Any], clicked: Callable[[dict[str, Any]], bool]) -> None:
        """Report every item as seen, and those as clicked that `clicked` picks."""
        events = []
        for item in feed["items"]:
            events.append(self.event(feed, item, "impression"))
            if clicked(item):
                events.append(self.event(feed, item, "click"))
        assert self.send(events)["accepted"] == len(events)

    def lag_gone(self) -> None:
        """Wait until the consumer has applied everything that was sent."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            lines = self.http.get("/metrics").text.splitlines()
            lag = [float(line.split()[-1]) for line in lines if line.startswith("recsys_stream_lag")]
            if lag and lag[-1] == 0:
                return
            time.sleep(0.05)
        raise AssertionError("the consumer did not catch up within 20 s")


@pytest.fixture(scope="session")
def client(tiny_world: Config) -> Iterator[Client]:
    with running_server(tiny_world) as url, httpx.Client(base_url=url, timeout=30.0) as http:
        yield Client(http)
