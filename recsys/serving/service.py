"""One request through the system: understand it, recommend, remember what was returned, put it in words.

Takes what the client sent, gives bodies; ties a recommender to the online store, the event stream and the clock. It
does not know HTTP, and it decides nothing about a feed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from recsys.errors import DependencyError, RecsysError, RequestError
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.catalogue.ids import to_int64
from recsys.online.clock import Clock
from recsys.online.generations import current
from recsys.online.store import RedisStore
from recsys.online.stream import records
from recsys.online.stream.lag import read_lag
from recsys.online.stream.log import EventStream
from recsys.serving.http.cursor import Cursors, grow
from recsys.serving.http.metrics import Metrics
from recsys.serving.http.wire import Rejected, feed_body, parse_events
from recsys.types import FeedRequest, Shown, Slate

POLICY = "full"
"""Name under which the three stages' choices are logged."""


class Recommends(Protocol):
    """What the service needs of a loaded release."""

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def release_name(self) -> str: ...

    def recommend(self, request: FeedRequest) -> Slate: ...


class Stores(NamedTuple):
    """What a service reads and writes."""

    online: RedisStore
    stream: EventStream


class Service:
    """A loaded release, ready to answer; safe to call from several threads."""

    def __init__(
        self,
        recommender: Recommends,
        stores: Stores,
        clock: Clock,
        cursors: Cursors,
        *,
        api_key: str | None = None,
        wall: Callable[[], int] | None = None,
        eraser: Callable[[str], dict[str, Any]] | None = None,
        resources: ExitStack | None = None,
    ) -> None:
        """
        Args:
            api_key: required of writes; None lets everybody write.
            wall: the wall clock in microseconds, when `clock` is a world's and clients may report wall times.
            eraser: erases the user of this id from both stores and returns the receipt (`erasing.Receipt`); None where
                there is no lake.
            resources: closed by `close`.
        """
        self.api_key = api_key
        self.metrics = Metrics()
        self._recommender = recommender
        self._store, self._stream = stores
        self._clock = clock
        self._cursors = cursors
        self._wall = wall
        self._eraser = eraser
        self._resources = resources if resources is not None else ExitStack()

    @property
    def release_name(self) -> str:
        return self._recommender.release_name

    def feed(self, user_id: str, limit: int, cursor: str) -> dict[str, Any]:
        """One page for a user, known or not, as `wire.Feed`.

        Args:
            cursor: of the page before; empty for the first.
        Raises: RequestError for an impossible id or cursor, DependencyError or DataError when a store cannot answer.
        """
        user = _id("user_id", user_id)
        now = self._clock.now()
        shown = self._cursors.read(cursor, user, now) if cursor else Shown()
        request = FeedRequest(secrets.randbelow(2**63 - 1) + 1, user, now, limit, shown)
        with self._timed("recommend"):
            slate = self._recommender.recommend(request)
        with self._timed("log"):
            self._store.record_returned(self._record(slate))
        with self._timed("write"):
            next_cursor = self._cursors.write(user, self._after(slate), now)
            body = feed_body(slate, self._recommender.catalogue, user_id, self.release_name, next_cursor)
        self._count(slate)
        return body

    def take_events(self, body: bytes) -> tuple[int, list[Rejected]]:
        """Append a batch to the stream; gives how many were taken, repeats included, and those that were not.

        Raises: RequestError for a body that is no batch, DependencyError when the stream does not answer: then none
        was taken.
        """
        now = self._clock.now()
        events, rejected = parse_events(body, now, self._wall() if self._wall is not None else None)
        self._stream.append(
            [
                records.Event(
                    kind=event.type,
                    event_id=event.event_id,
                    request_id=event.request_id,
                    user_id=event.user_id,
                    post_id=event.post_id,
                    event_time=event.event_time,
                    ingest_time=now,
                    position=event.position,
                    value=event.value,
                )
                for event in events
            ]
        )
        self.metrics.events.labels("accepted").inc(len(events))
        self.metrics.events.labels("rejected").inc(len(rejected))
        return len(events), rejected

    def erase(self, user_id: str) -> dict[str, Any]:
        """Remove a user, known or not, from both stores; gives `erasing.Receipt`. Takes as long as reading the lake.

        Raises: RequestError for an impossible id, DependencyError when it cannot be done, or not all of it, now.
        """
        _id("user_id", user_id)
        if self._eraser is None:
            raise DependencyError("this service knows no lake to erase from; run `recsys erase` where the lake is")
        return self._eraser(user_id)

    def not_ready(self) -> list[str]:
        """Why a feed cannot be answered now, as sentences; empty when it can."""
        try:
            current(self._store.client)
        except RecsysError as error:
            return [str(error)]
        return []

    def metrics_page(self) -> bytes:
        """Prometheus text; without the stores' lag when Redis does not answer or a key of it cannot be read."""
        try:
            lag = read_lag(self._store.client, self._stream)
        except RecsysError:
            lag = None
        return self.metrics.page(lag)

    def close(self) -> None:
        self._resources.close()

    def _record(self, slate: Slate) -> records.Returned:
        chosen = slate.candidates
        post_id = np.asarray(self._recommender.catalogue.post_id[chosen.post_row])
        return records.Returned(
            request_id=slate.context.request.request_id,
            user_id=slate.context.request.user_id,
            now=slate.context.now,
            release=self.release_name,
            policy=POLICY,
            watermark=slate.watermark,
            user_watermark=slate.context.user_watermark,
            post_id=post_id,
            position=np.arange(len(chosen), dtype=np.int32),
            propensity=slate.propensity,
            sources=chosen.sources,
            score=chosen.score if chosen.score is not None else np.full(len(chosen), np.nan, np.float32),
            features=chosen.features if chosen.features is not None else np.empty((len(chosen), 0), np.float32),
            candidates=np.asarray(self._recommender.catalogue.post_id[slate.recorded]),
        )

    def _after(self, slate: Slate) -> Shown:
        catalogue, rows = self._recommender.catalogue, slate.candidates.post_row
        author, topic = catalogue.author[rows], catalogue.topic[rows]
        return grow(
            slate.context.request.shown,
            catalogue.post_id[rows].tolist(),
            catalogue.author_id[author[author >= 0]].tolist(),
            [catalogue.topics[row] for row in topic[topic >= 0].tolist()],
        )

    def _count(self, slate: Slate) -> None:
        self.metrics.candidates.labels("ranked").observe(len(slate.recorded))
        self.metrics.candidates.labels("returned").observe(len(slate.candidates))
        for reason, rows in slate.candidates.removed.items():
            self.metrics.candidates.labels(reason).observe(len(rows))
        for what in slate.degraded:
            self.metrics.degraded.labels(what).inc()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.metrics.stages.labels(stage).observe(time.perf_counter() - start)


def _id(name: str, text: str) -> int:
    try:
        return to_int64(text)
    except RequestError as error:
        raise RequestError(f"{name} is not an id: {error}") from None
