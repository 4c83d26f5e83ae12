"""The choice model follows its formula, and the logs were drawn from it."""

import numpy as np
import pytest

from recsys.config import WorldConfig
from recsys.types import DAY, HOUR
from recsys.world.behaviour.choice import BOT_CLICKS, logits_for_user, post_logits, relevance_logits, truth_of
from recsys.world.population.population import draw_population

from ..conftest import SMALL, exposures

STRENGTHS = (
    "taste", "style", "author_quality", "post_quality", "follow_bonus", "foreign_language", "ageing", "daily_rhythm",
    "media_rhythm",
)  # fmt: skip


def logits(days=2.5, **settings):
    """Logit before fatigue of every post for a few users at one moment, (users, posts)."""
    config = WorldConfig.model_validate(SMALL | settings)
    population = draw_population(config)
    truth = truth_of(population, config)
    posts = np.arange(population.n_posts, dtype=np.int32)
    return np.array(
        [relevance_logits(truth, user, posts, population.start + int(days * DAY)) for user in range(0, 300, 20)]
    )


def test_clicks_are_as_frequent_as_the_truth_says(shown):
    for name, rows in [("all", shown), *shown.groupby("position"), *shown.groupby("policy")]:
        expected = rows.click_probability.sum()
        sigma = np.sqrt((rows.click_probability * (1 - rows.click_probability)).sum())
        assert abs(rows.click.sum() - expected) < 4 * sigma, name


def test_clicks_are_as_frequent_as_the_truth_says_in_every_tenth(shown):
    tenth = shown.click_probability.rank(method="first") * 10 // (len(shown) + 1)
    for _, rows in shown.groupby(tenth):
        p = rows.click_probability
        assert abs(rows.click.sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())


@pytest.fixture(scope="module")
def active_world(simulated):
    """Exposures of a world whose users click often."""
    return exposures(simulated(n_impressions=100_000, base_logit=-0.5))


def groups_of(rows, column):
    """Groups of rows in which a wrong truth would show."""
    tenth = rows[column].rank(method="first") * 10 // (len(rows) + 1)
    local = rows.assign(
        tenth=tenth, hour=rows.now % DAY // HOUR, day=rows.now // DAY, again=rows.n_same_topic.clip(upper=4)
    )
    yield "all", local
    for by in ("tenth", "position", "policy", "hour", "day", "again", "bot"):
        for value, part in local.groupby(by):
            yield f"{by} {value}", part


@pytest.mark.parametrize("kind", ["click", "like", "share", "hide"])
def test_every_action_is_as_frequent_as_its_column_of_the_truth_says(active_world, kind):
    n_checked = 0
    for name, rows in groups_of(active_world, f"{kind}_probability"):
        p = rows[f"{kind}_probability"]
        sigma = np.sqrt((p * (1 - p)).sum())
        if p.sum() >= 20:  # below, counts are not normal
            n_checked += 1
            assert abs(rows[kind].sum() - p.sum()) < 4 * sigma, name
        else:
            assert rows[kind].sum() < p.sum() + 4 * sigma + 2, name
    assert n_checked > 25


def test_dwells_last_as_long_on_average_as_the_truth_says(active_world):
    clicked = active_world[active_world.click == 1]
    for name, rows in groups_of(clicked, "dwell_s"):
        sigma = np.sqrt((rows.dwell_s**2).sum())  # an exponential's deviation is its mean
        assert abs(rows.dwell.sum() - rows.dwell_s.sum()) < 4 * sigma, name
    assert clicked.dwell_s.std() > 0.3 * clicked.dwell_s.mean()
    scaled = np.sort(clicked.dwell / clicked.dwell_s)
    expected = 1 - np.exp(-scaled)
    distance = np.abs(expected - np.arange(len(scaled)) / len(scaled)).max()
    assert distance < 1.95 / np.sqrt(len(scaled)), "Kolmogorov-Smirnov at 1 in 1000: exponential around the mean"


def test_click_probability_is_examination_times_relevance(small, shown):
    people = shown[~shown.bot]
    np.testing.assert_allclose(people.examination, (1.0 + people.position) ** -small.config.position_bias, rtol=1e-6)
    np.testing.assert_allclose(shown.click_probability, shown.examination * shown.relevance, rtol=1e-6)
    assert shown.relevance.between(0, 1, inclusive="neither").all()


def test_a_bot_examines_everything_and_clicks_at_one_rate(shown):
    bots = shown[shown.bot]
    assert len(bots) > 200
    assert (bots.examination == 1).all()
    np.testing.assert_allclose(bots.relevance, BOT_CLICKS, rtol=1e-6)
    assert bots.groupby("request_id").size().min() >= 10, "bots scroll to the end of every slate"
    assert (bots.hide_probability == 0).all()


def click_rates(rows):
    """Clicks and impressions by position of what the random policy showed to people."""
    random = rows[(rows.policy == "random") & ~rows.bot].groupby("position").click
    return random.sum().to_numpy(), random.size().to_numpy()


@pytest.mark.parametrize("bias", ["on", "off"])
def test_clicks_fall_along_the_slate_as_the_examination_curve_does(request, bias):
    world, rows = ("small", "shown") if bias == "on" else ("flat", "flat_shown")
    config = request.getfixturevalue(world).config
    clicks, n = click_rates(request.getfixturevalue(rows))
    curve = n * (1.0 + np.arange(len(n))) ** -config.position_bias
    expected = clicks.sum() * curve / curve.sum()
    assert (np.abs(clicks - expected) < 4 * np.sqrt(expected)).all()
    low_half, high_half = (clicks[part].sum() / n[part].sum() for part in (slice(0, 2), slice(5, None)))
    # Fatigue takes a little more away than examination alone.
    assert (high_half < 0.75 * low_half) if bias == "on" else (0.8 < high_half / low_half < 1.25)


def logged_logits(simulated, rows):
    """Logit of the logged relevance, and the logit before fatigue recomputed for the same user, post and time."""
    world = simulated.world()
    users = [world.user_row(user) for user in rows.user_id]
    posts = world.post_rows(rows.post_id.to_numpy())
    again = [
        relevance_logits(world.truth, user, posts[i : i + 1], now)[0]
        for i, (user, now) in enumerate(zip(users, rows.now, strict=True))
    ]
    return np.log(rows.relevance / (1 - rows.relevance)).to_numpy(), np.array(again)


def test_logged_relevance_is_the_logit_less_fatigue(small, shown):
    rows = shown[~shown.bot][::7]
    logged, again = logged_logits(small, rows)
    fatigue = small.config.fatigue * np.maximum(rows.n_same_topic - 1, 0)
    np.testing.assert_allclose(logged, again - fatigue, atol=1e-5)
    assert (fatigue > 0).mean() > 0.1


def test_without_fatigue_logged_relevance_is_the_logit(flat, flat_shown):
    rows = flat_shown[::7]
    logged, again = logged_logits(flat, rows)
    np.testing.assert_allclose(logged, again, atol=1e-5)
    assert (rows.n_same_topic > 1).mean() > 0.1


def test_fatigue_counts_the_posts_of_a_topic_shown_earlier_in_the_session(small, shown):
    rows = shown.sort_values(["request_id", "position"]).merge(small.table("truth/posts"), on="post_id")
    above_in_slate = rows.groupby(["request_id", "topic"]).cumcount()
    above_in_session = rows.groupby(["session_id", "topic"]).cumcount()
    assert (rows.n_same_topic == above_in_session).all()
    assert (above_in_session > above_in_slate).any(), "later requests of a session count the earlier ones"


@pytest.mark.parametrize("name", STRENGTHS)
def test_every_strength_moves_the_logit_in_proportion(name):
    none, half, whole = (logits(**{name: size}) for size in (0, 0.25, 0.5))
    assert np.abs(whole - none).max() > 0.05
    np.testing.assert_allclose(whole - none, 2 * (half - none), atol=1e-4)


def test_logits_by_columns_equal_logits_post_by_post(small):
    world = small.world()
    posts = np.arange(world.population.n_posts, dtype=np.int32)
    for user in (0, 150, 299):
        for now in (small.written.logs_end, world.population.start + DAY // 3):
            by_columns = logits_for_user(world.truth, post_logits(world.truth, now), user, now)
            np.testing.assert_allclose(by_columns, relevance_logits(world.truth, user, posts, now), atol=1e-6)


def test_taste_moves_to_other_topics_over_the_period_only_with_drift():
    rest = dict.fromkeys(("ageing", "daily_rhythm", "media_rhythm"), 0)
    start, end = (logits(days, drift=0, **rest) for days in (0, 4))
    np.testing.assert_allclose(start, end, atol=1e-5)
    start, half, end = (logits(days, drift=0.5, **rest) for days in (0, 2, 4))
    assert np.abs(end - start).mean() > 0.05
    np.testing.assert_allclose(half - start, (end - start) / 2, atol=1e-5)


def test_posts_age_at_the_pace_of_their_topic_only_with_ageing():
    for ageing in (0.0, 2.0):
        config = WorldConfig.model_validate(SMALL | {"ageing": ageing})
        population = draw_population(config)
        truth = truth_of(population, config)
        for post in (100, 900, 1700):
            row, born = np.array([post], np.int32), int(population.posts.created_at[post])
            pace = int(population.topic_pace[population.posts.topic[post]] * HOUR)
            ages = (0, pace, 30 * DAY)
            lost = [
                relevance_logits(truth._replace(ageing=0.0), 0, row, born + age)[0]
                - relevance_logits(truth, 0, row, born + age)[0]
                for age in ages
            ]
            assert lost[:2] == pytest.approx([0, ageing / 2], abs=1e-6)
            assert 0.95 * ageing <= lost[2] <= ageing
