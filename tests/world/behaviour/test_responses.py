"""Simulated responses to any slate follow the true probabilities, which equal those of the logs."""

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.types import DAY, SECOND
from recsys.world.behaviour.sessions import SCROLL_ON
from recsys.world.world import Session

COLUMNS = {
    "examination": "examination",
    "relevance": "relevance",
    "click": "click_probability",
    "like": "like_probability",
    "share": "share_probability",
    "hide": "hide_probability",
    "dwell_s": "dwell_s",
}


@pytest.fixture(scope="module")
def eager(simulated):
    """A world whose users click half of what they examine, so that every action is frequent."""
    return simulated(n_impressions=1000, base_logit=0.0, bot_share=0.05, delayed_share=0.2).world()


@pytest.fixture(scope="module")
def now(eager):
    return eager.population.start + 2 * DAY


@pytest.fixture(scope="module")
def slate(eager):
    """Ten posts, of which four share a topic with another."""
    topic = eager.population.posts.topic
    first = [int(np.flatnonzero(topic == of)[0]) for of in range(7)]
    return np.array([*first, *np.flatnonzero(topic == 2)[1:4]], np.int32)[[0, 2, 1, 7, 3, 8, 4, 9, 5, 6]]


def person_of(world):
    return int(np.flatnonzero(~world.population.users.bot)[7])


def bot_of(world):
    return int(np.flatnonzero(world.population.users.bot)[0])


def slate_probabilities(world, user, slate, now, counts=None):
    """`true_probability` of each post of a slate given those above it, as columns."""
    counts = world.new_session().n_shown_of_topic if counts is None else counts.copy()
    rows = []
    for position, post in enumerate(slate):
        rows.append(world.true_probability(user, slate[position : position + 1], now, position, Session(counts)))
        counts[world.population.posts.topic[post]] += 1
    return {name: np.array([getattr(row, name)[0] for row in rows]) for name in COLUMNS}


def test_true_probabilities_equal_the_truth_table_for_sessions_rebuilt_from_the_log(small, shown):
    world = small.world()
    bots = shown[shown.bot].session_id.unique()[:3]
    sessions = shown[shown.session_id.isin([*shown.session_id.unique()[:60], *bots])]
    assert sessions.groupby("session_id").request_id.nunique().max() >= 4
    n_checked = 0
    for _, rows in sessions.sort_values(["request_id", "position"]).groupby("session_id"):
        counts = world.new_session().n_shown_of_topic
        user = world.user_row(int(rows.user_id.iloc[0]))
        for now, request in rows.groupby("now"):
            posts = world.post_rows(request.post_id.to_numpy())
            truth = slate_probabilities(world, user, posts, now, counts)
            for name, column in COLUMNS.items():
                np.testing.assert_allclose(truth[name], request[column], rtol=2e-5, err_msg=column)
            np.add.at(counts, world.population.posts.topic[posts], 1)
            n_checked += len(posts)
    assert n_checked > 500


def test_positions_may_be_one_for_all_posts_or_one_each(eager, slate, now):
    user = person_of(eager)
    each = eager.true_probability(user, slate, now, np.arange(10))
    for position in (0, 3, 9):
        for_all = eager.true_probability(user, slate, now, position)
        for name in COLUMNS:
            assert getattr(each, name)[position] == getattr(for_all, name)[position]
    np.testing.assert_allclose(each.examination, (1.0 + np.arange(10)) ** -eager.config.position_bias)
    np.testing.assert_allclose(each.click, each.examination * each.relevance)
    first = eager.true_probability(user, slate, now)
    assert (first.examination == 1).all()


@pytest.mark.parametrize(
    ("user", "posts", "message"),
    [
        (-1, [0], "user row -1 is not in this world; rows are 0 to 299"),
        (300, [0], "user row 300 is not in this world; rows are 0 to 299"),
        (0, [5, -1], r"post rows must be integers from 0 to 1999, got \[ 5 -1\]"),
        (0, [5, 2000], r"post rows must be integers from 0 to 1999, got \[   5 2000\]"),
        (0, [5, 1999], r"post row 1999 is created after \d+; use a later moment"),
    ],
)
def test_an_invalid_row_is_named(eager, now, user, posts, message):
    posts = np.array(posts, np.int32)
    with pytest.raises(DataError, match=message):
        eager.true_probability(user, posts, now)
    with pytest.raises(DataError, match=message):
        eager.respond(user, posts, now, np.random.default_rng(0))


def test_negative_positions_and_fractional_rows_are_refused(eager, slate, now):
    with pytest.raises(DataError, match="a position must be >= 0, got -1"):
        eager.true_probability(0, slate, now, np.arange(10) - 1)
    with pytest.raises(DataError, match="post rows must be integers"):
        eager.true_probability(0, slate + 0.5, now)


def test_the_same_generator_state_gives_the_same_responses(eager, slate, now):
    one, two = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(3):
        first, second = (eager.respond(person_of(eager), slate, now, rng) for rng in (one, two))
        assert first.shown == second.shown
        assert first.actions == second.actions
        assert (first.session.n_shown_of_topic == second.session.n_shown_of_topic).all()
    later = [eager.respond(person_of(eager), slate, now, one).shown for _ in range(5)]
    assert any(later[0] != other for other in later[1:])


def test_responses_are_as_frequent_as_true_probabilities_say(eager, slate, now):
    user, rng, n = person_of(eager), np.random.default_rng(0), 6000
    truth = slate_probabilities(eager, user, slate, now)
    counts = {kind: np.zeros(10) for kind in ("impression", "click", "like", "share", "hide", "dwell")}
    seconds, delayed = np.zeros(10), 0
    for _ in range(n):
        response = eager.respond(user, slate, now, rng)
        at = [shown.event_time for shown in response.shown]
        for act in (*response.shown, *response.actions):
            counts[act.type][act.position] += 1
            assert act.post == slate[act.position]
            if act.type == "dwell":
                seconds[act.position] += act.value
            else:
                assert act.value is None
            if act.type == "click":
                delayed += act.event_time - at[act.position] > 60 * SECOND
    shown = counts["impression"]
    on_screen = SCROLL_ON ** np.arange(10)
    assert (np.abs(shown - n * on_screen) <= 4 * np.sqrt(n * on_screen * (1 - on_screen))).all()
    for kind in ("click", "like", "share", "hide"):
        p = truth[kind]
        expected, sigma = shown * p, np.sqrt(shown * p * (1 - p))
        assert (np.abs(counts[kind] - expected) < 4 * sigma + 1).all(), kind
        assert abs(counts[kind].sum() - expected.sum()) < 4 * np.sqrt((sigma**2).sum()), kind
    clicks = counts["click"]
    assert (counts["dwell"] == clicks).all()
    assert (np.abs(seconds / clicks - truth["dwell_s"]) < 4 * truth["dwell_s"] / np.sqrt(clicks)).all()
    late = eager.config.delayed_share * np.exp(-56 / 1200)
    assert abs(delayed - clicks.sum() * late) < 5 * np.sqrt(clicks.sum() * late)


def test_a_response_is_in_order_of_time_after_the_slate_was_served(eager, slate, now):
    for seed in range(50):
        response = eager.respond(person_of(eager), slate, now, np.random.default_rng(seed))
        seconds = [(shown.event_time - now) / SECOND for shown in response.shown]
        assert [shown.position for shown in response.shown] == list(range(len(response.shown)))
        assert all(1 + 2 * k <= second < 2 + 2 * k for k, second in enumerate(seconds))
        for act in response.actions:
            assert act.event_time > response.shown[act.position].event_time


def test_a_session_continues_over_two_slates(eager, slate, now):
    topic, n_topics = eager.population.posts.topic, len(eager.truth.topics)
    first = eager.respond(person_of(eager), slate, now, np.random.default_rng(0))
    shown = [act.post for act in first.shown]
    assert (first.session.n_shown_of_topic == np.bincount(topic[shown], minlength=n_topics)).all()
    before = first.session.n_shown_of_topic.copy()
    second = eager.respond(person_of(eager), slate + 20, now, np.random.default_rng(1), first.session)
    shown += [act.post for act in second.shown]
    assert (second.session.n_shown_of_topic == np.bincount(topic[shown], minlength=n_topics)).all()
    assert (first.session.n_shown_of_topic == before).all(), "the earlier session is not modified"


def test_fatigue_lowers_a_topic_shown_often_in_the_session(eager, slate, now):
    user, post = person_of(eager), slate[:1]
    session = eager.new_session()
    logit = []
    for _ in range(5):
        p = eager.true_probability(user, post, now, 0, session).relevance[0]
        logit.append(np.log(p / (1 - p)))
        session.n_shown_of_topic[eager.population.posts.topic[post[0]]] += 1
    np.testing.assert_allclose(np.diff(logit), [0, *[-eager.config.fatigue] * 3], atol=1e-6)
    session.n_shown_of_topic[:] = 8
    rng, n = np.random.default_rng(3), 3000
    fresh, tired = (
        sum(any(act.type == "click" for act in eager.respond(user, post, now, rng, of).actions) for _ in range(n)) / n
        for of in (None, session)
    )
    for rate, of in ((fresh, None), (tired, session)):
        p = eager.true_probability(user, post, now, 0, of).click[0]
        assert abs(rate - p) < 4 * np.sqrt(p * (1 - p) / n)
    assert tired < fresh / 3


def test_a_bot_sees_every_post_and_clicks_at_one_rate(eager, slate, now):
    bot, rng, n = bot_of(eager), np.random.default_rng(0), 1000
    truth = eager.true_probability(bot, slate, now, np.arange(10))
    np.testing.assert_array_equal(truth.click, 0.3)
    assert (truth.hide == 0).all()
    responses = [eager.respond(bot, slate, now, rng) for _ in range(n)]
    assert {len(response.shown) for response in responses} == {10}
    clicks = np.bincount([a.position for r in responses for a in r.actions if a.type == "click"], minlength=10)
    assert (np.abs(clicks - 0.3 * n) < 4 * np.sqrt(n * 0.3 * 0.7)).all()


def test_an_empty_slate_has_an_empty_response(eager, now):
    response = eager.respond(person_of(eager), np.empty(0, np.int32), now, np.random.default_rng(0))
    assert (response.shown, response.actions) == ([], [])
    assert (response.session.n_shown_of_topic == 0).all()
