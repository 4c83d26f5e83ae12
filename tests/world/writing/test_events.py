"""Delivery of events: in order of time, mostly prompt, sometimes late, sometimes twice under the same id."""

import numpy as np

from recsys.types import SECOND

from .test_simulate import binomial_band


def test_request_impression_action_and_arrival_are_in_order_of_time(small, shown):
    assert (shown.event_time > shown.now).all()
    assert (shown.ingest_time > shown.event_time).all()
    seconds = (shown.event_time - shown.now) / SECOND
    assert ((seconds >= 1 + 2 * shown.position) & (seconds < 2 + 2 * shown.position)).all()
    of_shown = shown[["request_id", "post_id", "event_time", "click"]]
    actions = small.table("actions").merge(of_shown, on=["request_id", "post_id"], suffixes=("", "_shown"))
    assert len(actions) == len(small.table("actions")), "every action is on a post that was on screen"
    assert (actions.event_time > actions.event_time_shown).all()
    assert (actions.click[actions.type != "hide"] == 1).all()
    assert (actions.click[actions.type == "hide"] == 0).all()
    dwell = actions[actions.type == "dwell"]
    assert len(dwell.drop_duplicates("event_id")) == shown.click.sum()
    assert (dwell.value > 0).all()
    assert actions.value[actions.type != "dwell"].isna().all()


def test_a_dwell_is_logged_its_seconds_after_the_click_and_likes_and_shares_after_the_click(small):
    actions = small.table("actions").drop_duplicates("event_id")
    times = actions.pivot(index=["request_id", "post_id"], columns="type", values="event_time")
    value = actions.pivot(index=["request_id", "post_id"], columns="type", values="value").dwell
    clicked = times.click.notna()
    seconds = (times.dwell - times.click)[clicked] / SECOND
    np.testing.assert_allclose(seconds, value[clicked], atol=1e-3, rtol=1e-6)
    for kind in ("like", "share"):
        assert (times[kind] > times.click)[times[kind].notna()].all()


def test_a_share_of_events_is_late(small):
    config = small.config
    for table in ("impressions", "actions"):
        events = small.table(table).sort_values("ingest_time", kind="stable").drop_duplicates("event_id")
        late = int((events.ingest_time - events.event_time > 60 * SECOND).sum())
        low, high = binomial_band(len(events), config.late_share * np.exp(-1 / 60))
        assert low < late < high, table


def test_a_share_of_shown_posts_is_sent_twice_with_all_its_actions(small):
    impressions, actions = small.table("impressions"), small.table("actions")
    n = impressions.event_id.nunique()
    resent = impressions[impressions.duplicated("event_id")]
    low, high = binomial_band(n, small.config.redelivered_share)
    assert low < len(resent) < high
    keys = set(zip(resent.request_id, resent.post_id, strict=True))
    twice = actions[[key in keys for key in zip(actions.request_id, actions.post_id, strict=True)]]
    repeated = actions[actions.duplicated("event_id", keep=False)]
    assert len(repeated) > 5
    assert set(repeated.index) == set(twice.index)
    for table in (impressions, actions):
        deliveries = table[table.duplicated("event_id", keep=False)]
        by_event = deliveries.groupby("event_id")
        assert (by_event.size() == 2).all()
        assert (by_event.ingest_time.nunique() == 2).all()
        later = by_event.ingest_time.max() - by_event.ingest_time.min()
        assert later.between(SECOND, 601 * SECOND).all()
        same = deliveries.drop(columns="ingest_time").drop_duplicates()
        assert len(same) == len(by_event)


def test_without_faults_every_event_arrives_promptly_and_once(flat):
    for table in ("impressions", "actions"):
        events = flat.table(table)
        assert events.event_id.is_unique
        assert (events.ingest_time - events.event_time < 60 * SECOND).all()


def test_event_ids_are_unique_over_impressions_and_actions(flat):
    ids = np.concatenate([flat.table(table).event_id for table in ("impressions", "actions")])
    assert len(np.unique(ids)) == len(ids)
