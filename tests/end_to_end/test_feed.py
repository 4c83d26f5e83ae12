"""Feeds over HTTP: personal, paged, honest about bad input. Nothing here is faked."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from recsys import release
from recsys.config import Config
from recsys.features.spec import USER, WEEK
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.catalogue.ids import to_int64
from recsys.offline.lake.lake import Lake
from recsys.online.clock import Clock
from recsys.online.connection.client import connect
from recsys.online.store import RedisStore

from .conftest import Client


def _opposite_users(config: Config, n_pairs: int) -> list[tuple[str, str]]:
    """Pairs of the most active users whose clicks lie in the most different topics; nobody is in two."""
    lake = Lake(config.lake_url)
    actions = lake.read("actions", ["user_id", "post_id", "type"])
    clicks = actions.filter(pc.equal(actions["type"], "click"))
    joined = clicks.join(lake.read("posts", ["post_id", "topic"]), "post_id").filter(pc.is_valid(pc.field("topic")))
    users, user = np.unique(joined["user_id"].to_numpy(), return_inverse=True)
    topics, topic = np.unique(joined["topic"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    clicked = np.zeros((len(users), len(topics)))
    np.add.at(clicked, (user, topic), 1)
    active = np.argsort(-clicked.sum(axis=1))[:100]
    direction = clicked[active] / np.linalg.norm(clicked[active], axis=1, keepdims=True)
    likeness = direction @ direction.T
    pairs = []
    for _ in range(n_pairs):
        pair = list(np.unravel_index(np.argmin(likeness), likeness.shape))
        one, other = users[active[pair]]
        pairs.append((str(one), str(other)))
        likeness[pair] = likeness[:, pair] = np.inf
    return pairs


def _posts(feed: dict[str, Any]) -> set[str]:
    return {item["post_id"] for item in feed["items"]}


def test_a_feed_has_twenty_scored_items_with_reasons(client: Client, tiny_world: Config) -> None:
    feed = client.feed(str(_any_user(tiny_world)))
    assert len(feed["items"]) == 20
    assert feed["degraded"] == []
    assert [item["position"] for item in feed["items"]] == list(range(20))
    for item in feed["items"]:
        assert item["sources"], "every item names the sources that brought it"
        assert 0 < item["probabilities"]["click"] < 1
        assert 0 < item["propensity"] <= 1
        assert item["text"]


def test_users_with_opposite_interests_get_feeds_that_share_few_posts(client: Client, tiny_world: Config) -> None:
    # The small world has only so many fresh posts, so the measure is what other pairs of active users share.
    pairs = [[_posts(client.feed(user)) for user in pair] for pair in _opposite_users(tiny_world, 10)]
    of_opposites = np.mean([len(one & other) for one, other in pairs])
    shared = np.mean([len(a & b) for i, pair in enumerate(pairs) for other in pairs[:i] for a in pair for b in other])
    assert of_opposites < shared
    assert of_opposites < 10


def test_clicks_on_one_topic_bring_more_of_it_against_a_control_user(client: Client) -> None:
    """Pairs of newcomers see the same first page; one of each clicks its posts on one topic, the other nothing."""
    shown = {"clicker": 0, "control": 0}
    first = client.feed("curious", limit=60)
    topics = [topic for topic, _ in Counter(item["topic"] for item in first["items"] if item["topic"]).most_common(4)]
    for topic in topics:
        for role in shown:
            feed = client.feed(f"{role}-{topic}", limit=60)
            client.see(feed, lambda item, of=topic, role=role: role == "clicker" and item["topic"] == of)
    client.lag_gone()
    for topic in topics:
        for role in shown:
            feed = client.feed(f"{role}-{topic}")
            shown[role] += sum(item["topic"] == topic for item in feed["items"])
    assert shown["clicker"] > shown["control"]


def test_page_two_never_repeats_page_one(client: Client, tiny_world: Config) -> None:
    for user in (str(_any_user(tiny_world)), "never-seen-before"):
        seen: set[str] = set()
        cursor = None
        for _ in range(5):
            page = client.feed(user, limit=20, cursor=cursor)
            assert not seen & _posts(page)
            assert len(page["items"]) == 20
            seen |= _posts(page)
            cursor = page["cursor"]


def test_a_refresh_does_not_return_what_was_returned(client: Client, tiny_world: Config) -> None:
    user = str(_any_user(tiny_world, 3))
    assert not _posts(client.feed(user)) & _posts(client.feed(user))


def test_a_user_never_seen_gets_a_full_feed(client: Client) -> None:
    feed = client.feed("somebody-new")
    assert len(feed["items"]) == 20
    assert feed["user_id"] == "somebody-new"


def test_an_event_posted_twice_counts_once(client: Client, tiny_world: Config) -> None:
    feed = client.feed("repeater")
    event = client.event(feed, feed["items"][0], "click")
    for _ in range(3):
        assert client.send([event])["accepted"] == 1
    client.lag_gone()
    assert _clicks_in_store(tiny_world, "repeater") == pytest.approx(1.0, abs=1e-3)


def test_posted_events_and_returned_slates_reach_the_lake(client: Client, tiny_world: Config) -> None:
    feed = client.feed("reader")
    client.see(feed, lambda item: item["position"] == 0)
    request = int(feed["request_id"])
    lake = Lake(tiny_world.lake_url)
    deadline = time.monotonic() + 30
    found: dict[str, int] = {}
    while time.monotonic() < deadline and found != {"requests": 1, "returned": 20, "impressions": 20, "actions": 1}:
        time.sleep(0.5)
        found = {
            table: pc.sum(pc.equal(lake.read(table, ["request_id"])["request_id"], request)).as_py() or 0
            for table in ("requests", "returned", "impressions", "actions")
        }
    assert found == {"requests": 1, "returned": 20, "impressions": 20, "actions": 1}


def test_a_malformed_event_is_rejected_by_index_and_the_others_are_taken(client: Client) -> None:
    feed = client.feed("careless")
    good = client.event(feed, feed["items"][0], "impression")
    answer = client.send([good, {**good, "event_id": "x", "type": "applause"}, {"event_id": "y"}])
    assert answer["accepted"] == 1
    assert [rejected["index"] for rejected in answer["rejected"]] == [1, 2]
    assert "type" in answer["rejected"][0]["reason"]


@pytest.mark.parametrize("limit", ["0", "101", "-3", "many"])
def test_a_limit_outside_1_to_100_is_refused_with_the_rule(client: Client, limit: str) -> None:
    answer = client.http.get("/v1/feed", params={"user_id": "1", "limit": limit})
    assert answer.status_code == 422
    assert "limit" in answer.json()["error"]


@pytest.mark.parametrize("change", ["nonsense", "flipped", "other user"])
def test_a_malformed_or_forged_cursor_is_refused_with_the_rule(client: Client, change: str) -> None:
    cursor = client.feed("pager")["cursor"]
    middle = len(cursor) // 2
    flipped = cursor[:middle] + ("A" if cursor[middle] != "A" else "B") + cursor[middle + 1 :]
    text = {"nonsense": "???", "flipped": flipped, "other user": cursor}[change]
    user = "somebody-else" if change == "other user" else "pager"
    answer = client.http.get("/v1/feed", params={"user_id": user, "cursor": text})
    assert answer.status_code == 422
    assert "cursor" in answer.json()["error"]


def test_health_readiness_and_metrics_answer(client: Client) -> None:
    assert client.http.get("/healthz").status_code == 200
    assert client.http.get("/readyz").status_code == 200
    assert "recsys_" in client.http.get("/metrics").text


def _any_user(config: Config, place: int = 0) -> int:
    users = Lake(config.lake_url).read("users", ["user_id"])["user_id"].to_pylist()
    return int(users[place])


def _clicks_in_store(config: Config, user: str) -> float:
    loaded = release.load(config.releases_path)
    with connect(config.online, config.data_dir) as connection:
        store = RedisStore(connection.client, Catalogue.load(loaded.path / "catalogue"), config.online)
        now = Clock(connection.client, loaded.manifest.logs_end).now()
        read = store.read_counts(to_int64(user), np.zeros(1, np.int32), now)
    a, h = USER.at("click", WEEK)
    return float(read.counts["user"][0, a, h])
