"""The service behind the HTTP routes: answer feed requests, take events, erase users.

A feed request is parsed, passed to the recommender, logged as served and turned into a response body. The service
connects the recommender, the online store, the event stream and the clock. It does not know HTTP. The recommender
alone decides what is in a feed.
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
from recsys.serving.http.cursor import Cursors, add_page
from recsys.serving.http.metrics import Metrics
from recsys.serving.http.wire import Rejected, feed_body, parse_events
from recsys.types import FeedRequest, Shown, Slate

POLICY = "full"
"""Policy name in the log of returned posts: the feeds of the full three-stage system."""


class RecommenderLike(Protocol):
    """The interface of a recommender: a loaded release that can answer requests."""

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def release_name(self) -> str: ...

    def recommend(self, request: FeedRequest) -> Slate: ...


class Stores(NamedTuple):
    """The online store and the event stream of a service."""

    online: RedisStore
    stream: EventStream


class Service:
    """A loaded release with its stores, ready to answer requests. Thread-safe."""

    def __init__(
        self,
        recommender: RecommenderLike,
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
            api_key: key that writes must carry; None accepts writes without a key.
            wall: returns the wall clock in microseconds. Pass it when `clock` runs on simulated time, because clients
                may still report wall times.
            eraser: erases the user with this id from both stores and returns the receipt (`erasing.Receipt`); None
                where there is no lake.
            resources: `close` closes them.
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
        """One page of a user's feed, as `wire.Feed`. The user may be unknown.

        Args:
            cursor: cursor of the previous page; empty for the first page.
        Raises: RequestError for an invalid id or cursor, DependencyError or DataError when a store cannot answer.
        """
        user = _parse_id("user_id", user_id)
        now = self._clock.now()
        shown = self._cursors.read(cursor, user, now) if cursor else Shown()
        request = FeedRequest(secrets.randbelow(2**63 - 1) + 1, user, now, limit, shown)
        with self._timed("recommend"):
            slate = self._recommender.recommend(request)
        with self._timed("log"):
            self._store.record_returned(self._returned_record(slate))
        with self._timed("write"):
            next_cursor = self._cursors.write(user, self._shown_after(slate), now)
            body = feed_body(slate, self._recommender.catalogue, user_id, self.release_name, next_cursor)
        self._count_slate(slate)
        return body

    def take_events(self, body: bytes) -> tuple[int, list[Rejected]]:
        """Append a batch of events to the stream. Returns the number accepted (with repeats) and the rejected events.

        Raises: RequestError when the body is not a batch, DependencyError when the stream does not answer (then no
        event was accepted).
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
        """Erase a user from both stores. Returns `erasing.Receipt`.

        The user may be unknown. It takes about as long as reading the whole lake.

        Raises: RequestError for an invalid id, DependencyError when the user cannot be erased now, or only in part.
        """
        _parse_id("user_id", user_id)
        if self._eraser is None:
            raise DependencyError("this service has no lake to erase from; run `recsys erase` where the lake is")
        return self._eraser(user_id)

    def not_ready(self) -> list[str]:
        """The reasons why feeds cannot be answered now, as sentences; empty when ready."""
        try:
            current(self._store.client)
        except RecsysError as error:
            return [str(error)]
        return []

    def metrics_page(self) -> bytes:
        """The metrics as Prometheus text, without the stores' lag when it cannot be read from Redis."""
        try:
            lag = read_lag(self._store.client, self._stream)
        except RecsysError:
            lag = None
        return self.metrics.page(lag)

    def close(self) -> None:
        self._resources.close()

    def _returned_record(self, slate: Slate) -> records.Returned:
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

    def _shown_after(self, slate: Slate) -> Shown:
        catalogue, rows = self._recommender.catalogue, slate.candidates.post_row
        author, topic = catalogue.author[rows], catalogue.topic[rows]
        return add_page(
            slate.context.request.shown,
            catalogue.post_id[rows].tolist(),
            catalogue.author_id[author[author >= 0]].tolist(),
            [catalogue.topics[row] for row in topic[topic >= 0].tolist()],
        )

    def _count_slate(self, slate: Slate) -> None:
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


def _parse_id(name: str, text: str) -> int:
    try:
        return to_int64(text)
    except RequestError as error:
        raise RequestError(f"{name} is not an id: {error}") from None
