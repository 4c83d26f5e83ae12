"""The logs: the same for the same seed, honest about time, nothing shown that must not be."""

import filecmp
import os
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import WorldConfig
from recsys.errors import ConfigError, DataError
from recsys.offline.lake import Lake
from recsys.offline.schemas import TABLES
from recsys.types import DAY, SECOND
from recsys.world.population import DAILY, draw_moments, start_of
from recsys.world.simulate import simulate
from recsys.world.world import World

FEW = {"n_impressions": 6000}


def files_below(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def binomial_band(n, p, sigmas=4):
    return n * p + np.array([-1, 1]) * sigmas * np.sqrt(n * p * (1 - p))


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_threads(simulated):
    one, two = simulated(n_threads=1, **FEW), simulated(n_threads=2, **FEW)
    names = files_below(one.folder)
    assert names == files_below(two.folder)
    assert len(names) > 4 * 5
    different = filecmp.cmpfiles(one.folder, two.folder, names, shallow=False)
    assert [sorted(map(str, each)) for each in different[1:]] == [[], []]
    assert one.written == two.written


def test_another_seed_gives_another_world(simulated):
    one, other = simulated(**FEW), simulated(seed=1, **FEW)
    for table in ("users", "posts", "follows", "requests", "impressions", "actions", "truth"):
        assert not one.table(table).equals(other.table(table)), table


def test_the_lake_holds_the_tables_of_the_schema_and_nothing_else(small):
    assert sorted(path.name for path in small.folder.iterdir()) == ["lake", "world"]
    assert sorted(os.listdir(small.folder / "lake")) == sorted([*TABLES, "_lake.json"])
    assert sorted(os.listdir(small.folder / "world")) == ["truth", "world.json"]
    lake = small.lake
    assert all(len(lake.read(table)) for table in TABLES)
    assert not lake.quarantined


def test_what_was_written_is_what_was_wanted_and_is_reported(small, shown):
    assert len(shown) == small.written.impressions >= small.config.n_impressions
    assert shown.click.sum() == small.written.clicks
    assert len(small.table("requests")) == small.written.requests
    assert small.lake.info() == {"complete": True, "origin": "world", "logs_end": small.written.logs_end}
    assert small.written.logs_end == start_of(small.config) + 4 * DAY


def test_the_click_rate_is_like_that_of_a_feed(small):
    assert 0.03 < small.written.clicks / small.written.impressions < 0.10


def test_files_lie_under_the_date_on_which_a_session_began(small):
    dates = sorted(os.listdir(small.folder / "lake" / "requests"))
    assert dates == [f"date=2026-01-0{day}" for day in (5, 6, 7, 8)]
    for day, path in enumerate(small.lake.files("requests")):
        times = pq.read_table(path, columns=["now"], partitioning=None)["now"].cast(pa.int64()).to_numpy()
        times = times - start_of(small.config)
        assert times.min() >= day * DAY
        assert times.max() < (day + 1) * DAY + 3600 * SECOND


def test_shares_of_missing_hidden_and_repeated_things_are_as_set(small):
    posts, users, config = small.table("posts"), small.table("users"), small.config
    repeats = int((posts.duplicate_group != posts.post_id).sum())
    for name, count, n, share in (
        ("missing topic", posts.topic.isna().sum(), len(posts), config.missing_topic),
        ("missing country", users.country.isna().sum(), len(users), config.missing_country),
        ("hidden", (~posts.visible).sum(), len(posts), config.hidden_share),
        ("repeated", repeats, len(posts), config.duplicate_share),
    ):
        low, high = binomial_band(n, share)
        assert low < count < high, name


def test_shares_that_are_switched_off_leave_nothing_missing_hidden_or_repeated(flat):
    posts, users = flat.table("posts"), flat.table("users")
    assert posts.topic.notna().all()
    assert users.country.notna().all()
    assert posts.visible.all()
    assert (posts.duplicate_group == posts.post_id).all()


def test_a_repeated_post_has_text_topic_and_language_of_its_first(small):
    population = small.world().population
    first = population.post_group - population.post_id[0]
    repeats = np.flatnonzero(first != np.arange(len(first)))
    assert len(repeats) > 20
    assert (first[first] == first).all(), "a repeat of a repeat names the first of all"
    for post in repeats:
        assert population.texts[post] == population.texts[first[post]]
    for column in (population.post_topic, population.post_language):
        assert (column == column[first]).all()


def test_hidden_posts_and_blocked_authors_are_never_returned(small):
    posts = small.table("posts").set_index("post_id")
    returned = small.table("returned")
    assert (~posts.visible).any()
    assert posts.visible[returned.post_id].all()
    pairs = set(zip(returned.user_id, posts.author_id[returned.post_id], strict=True))
    blocks = small.table("blocks")
    assert len(blocks) > 50
    assert not pairs & set(zip(blocks.user_id, blocks.author_id, strict=True))


def test_nobody_blocks_an_author_they_follow(small):
    follows, blocks = small.table("follows"), small.table("blocks")
    assert not set(zip(follows.user_id, follows.author_id, strict=True)) & set(
        zip(blocks.user_id, blocks.author_id, strict=True)
    )


def test_a_slate_is_chosen_from_recorded_candidates_that_exist_and_differ(small):
    requests, posts = small.table("requests"), small.table("posts").set_index("post_id")
    slates = small.table("returned").groupby("request_id").post_id.agg(list)
    assert len(slates) == len(requests)
    born = posts.created_at.to_dict()
    for request in requests.itertuples():
        candidates = request.candidates.tolist()
        assert len(set(candidates)) == len(candidates) <= small.config.policy.n_candidates
        assert max(born[post] for post in candidates) <= request.now
        slate = slates[request.request_id]
        assert len(slate) == min(small.config.policy.slate_size, len(candidates))
        assert len(set(slate)) == len(slate)
        assert set(slate) <= set(candidates)


def test_a_session_does_not_show_a_post_twice(small):
    """Neighbouring requests of one user, 40 to 180 seconds apart, are of one session, but for coincidences."""
    shown = small.table("impressions").groupby("request_id").post_id.agg(set)
    requests = small.table("requests").sort_values("request_id")
    continued = repeats = 0
    for before, after in pairwise(requests.itertuples()):
        if before.user_id == after.user_id and 40 * SECOND <= after.now - before.now < 180 * SECOND:
            continued += 1
            repeats += bool(shown[before.request_id] & shown[after.request_id])
    assert continued > 1000
    assert repeats < 0.003 * continued


def test_users_do_nothing_before_they_join(small):
    joined = small.table("users").set_index("user_id").created_at
    requests = small.table("requests")
    assert (joined[requests.user_id].to_numpy() <= requests.now).all()
    assert 0.05 < (joined > start_of(small.config)).mean() < 0.15


def test_events_follow_each_other_in_time(small, shown):
    assert (shown.event_time > shown.now).all()
    assert (shown.ingest_time > shown.event_time).all()
    seconds = (shown.event_time - shown.now) / SECOND
    assert ((seconds >= 1 + 2 * shown.position) & (seconds < 2 + 2 * shown.position)).all()
    actions = small.table("actions").merge(
        shown[["request_id", "post_id", "event_time", "click"]], on=["request_id", "post_id"], suffixes=("", "_shown")
    )
    assert len(actions) == len(small.table("actions")), "nobody acts on what was not on screen"
    assert (actions.event_time > actions.event_time_shown).all()
    assert (actions.click[actions.type != "hide"] == 1).all()
    assert (actions.click[actions.type == "hide"] == 0).all()
    dwell = actions[actions.type == "dwell"]
    assert len(dwell.drop_duplicates("event_id")) == shown.click.sum()
    assert (dwell.value > 0).all()
    assert actions.value[actions.type != "dwell"].isna().all()


def test_a_share_of_events_is_late_and_of_actions_delivered_twice(small):
    impressions, actions = small.table("impressions"), small.table("actions")
    delay = impressions.ingest_time - impressions.event_time
    late = int((delay > 60 * SECOND).sum())
    low, high = binomial_band(len(impressions), small.config.late_share * np.exp(-1 / 60))
    assert low < late < high
    repeated = actions[actions.duplicated("event_id", keep=False)]
    low, high = binomial_band(actions.event_id.nunique(), small.config.redelivered_share)
    assert low < repeated.event_id.nunique() < high
    for _, deliveries in repeated.groupby("event_id"):
        same = deliveries.drop(columns="ingest_time").drop_duplicates()
        assert (len(deliveries), len(same)) == (2, 1)
        assert deliveries.ingest_time.nunique() == 2


def test_delivery_without_faults_is_prompt_and_once(flat):
    for table in ("impressions", "actions"):
        events = flat.table(table)
        assert events.event_id.is_unique
        assert (events.ingest_time - events.event_time < 60 * SECOND).all()


def test_event_ids_are_unique_over_impressions_and_actions(flat):
    ids = np.concatenate([flat.table(table).event_id for table in ("impressions", "actions")])
    assert len(np.unique(ids)) == len(ids)


def test_the_mixture_of_policies_is_as_stated(small):
    requests, policy = small.table("requests"), small.config.policy
    for name in ("random", "popularity", "personalised"):
        low, high = binomial_band(len(requests), getattr(policy, name))
        assert low < (requests.policy == name).sum() < high, name


def test_the_week_has_its_rhythm_on_whatever_day_the_logs_start():
    saturday = start_of(WorldConfig(start="2026-01-03"))
    rng = np.random.default_rng(0)
    days = np.bincount(draw_moments(400_000, saturday, 7, rng) // DAY)
    expected = DAILY[[5, 6, 0, 1, 2, 3, 4]] / DAILY.sum() * days.sum()
    assert (np.abs(days - expected) < 4 * np.sqrt(expected)).all()


def test_an_interrupted_run_leaves_a_lake_that_says_so_and_no_world_and_can_run_again(tmp_path):
    config = WorldConfig(n_users=50, n_posts=200, n_impressions=1000, n_days=4, n_authors=20)
    lake, truth = Lake(str(tmp_path / "lake")), tmp_path / "world" / "truth"

    def stop(done, total):
        raise KeyboardInterrupt

    def go_on(done, total):
        assert 0 < done <= total == 1000

    simulate(config, lake, truth, 1, go_on)
    with pytest.raises(KeyboardInterrupt):
        simulate(config, lake, truth, 1, stop)
    with pytest.raises(DataError, match="incomplete"):
        lake.info()
    with pytest.raises(DataError, match="run `recsys simulate`"):
        World.open(tmp_path / "world")
    simulate(config, lake, truth, 1, go_on)
    assert lake.info()["origin"] == "world"


def test_a_start_that_is_no_date_is_refused():
    with pytest.raises(ConfigError, match="start must be a date"):
        start_of(WorldConfig().model_copy(update={"start": "monday"}))
