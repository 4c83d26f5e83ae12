"""Trending: newer clicks weigh more, ties break the same way in Redis and in memory."""

from __future__ import annotations

import numpy as np
import redis
from hypothesis import given
from hypothesis import strategies as st

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online.rows import trending
from recsys.types import DAY, HOUR

from ..conftest import START


def test_a_click_weighs_half_after_a_half_life_and_never_overflows() -> None:
    now = np.array([START, START - trending.HALF_LIFE, START + 10 * 365 * DAY])
    fresh, old, absurd = trending.weight(now, START)
    assert (fresh, old) == (1.0, 0.5)
    assert np.isfinite(absurd)


def test_fresh_clicks_beat_more_numerous_old_ones_in_each_language(catalogue: Catalogue) -> None:
    first, second, third = catalogue.post_rows([100, 107, 114])
    clicks = np.array([first] * 3 + [second] * 3 + [third])
    times = START + np.array([0] * 3 + [6 * HOUR] * 3 + [12 * HOUR])
    ranked = trending.rank(catalogue, clicks, times, START, 2)
    assert list(catalogue.post_id[ranked[-1][0]]) == [107, 114]
    np.testing.assert_allclose(ranked[-1][1], [6, 4])
    english = catalogue.languages.index("en")
    assert list(catalogue.post_id[ranked[english][0]]) == [114, 100]


def test_equal_scores_put_the_larger_id_first_in_both_places(client: redis.Redis, catalogue: Catalogue) -> None:
    rows = np.arange(catalogue.n_posts)
    ranked = trending.rank(catalogue, rows, np.full(len(rows), START), START, 10)
    client.zadd("t", dict.fromkeys(trending.to_members(catalogue.post_id), 1.0))
    in_redis = trending.from_members(client.zrevrange("t", 0, 9))
    np.testing.assert_array_equal(catalogue.post_id[ranked[-1][0]], in_redis)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True))
def test_members_keep_ids_and_their_order(ids: list[int]) -> None:
    members = trending.to_members(np.array(ids, np.int64))
    assert list(trending.from_members(members)) == ids
    assert list(trending.from_members(sorted(members))) == sorted(ids)
