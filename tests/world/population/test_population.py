"""Drawing the population: reproducible, ordered and consistent."""

from dataclasses import fields

import numpy as np
import pytest

from recsys.config import WorldConfig
from recsys.types import DAY
from recsys.world.population.population import draw_population
from recsys.world.population.posts import DAYS_BEFORE
from recsys.world.population.texts import write_texts
from recsys.world.population.vocabulary import LANGUAGES, NOUNS, PATTERNS, TOPICS

from ..conftest import SMALL


@pytest.fixture(scope="module")
def population():
    return draw_population(WorldConfig.model_validate(SMALL))


def test_the_same_settings_draw_the_same_population_and_another_seed_a_different_one(population):
    again, other = (draw_population(WorldConfig.model_validate(SMALL | {"seed": seed})) for seed in (0, 1))
    for of in ("users", "posts"):
        one, two = getattr(population, of), getattr(again, of)
        for column in fields(one):
            np.testing.assert_array_equal(getattr(one, column.name), getattr(two, column.name), column.name)
    for edges in ("follows", "blocks"):
        one, two = getattr(population, edges), getattr(again, edges)
        np.testing.assert_array_equal(one.start, two.start, edges)
        np.testing.assert_array_equal(one.authors, two.authors, edges)
    for name in ("topic_pace", "topic_peak", "topic_sharing", "topic_flips_at"):
        np.testing.assert_array_equal(getattr(population, name), getattr(again, name), name)
    assert population.start == again.start
    assert not np.array_equal(population.users.taste_start, other.users.taste_start)
    assert population.posts.texts != other.posts.texts


def test_posts_are_in_order_of_creation_and_some_are_older_than_the_logs(population):
    created = population.posts.created_at
    assert (np.diff(created) >= 0).all()
    assert (created < population.start).mean() == pytest.approx(1 - WorldConfig().new_post_share, abs=0.001)
    assert population.start - DAYS_BEFORE * DAY <= created[0]
    assert created[-1] < population.start + SMALL["n_days"] * DAY


def test_authors_are_users_and_write_in_their_own_language(population):
    assert population.n_authors == SMALL["n_authors"]
    posts, users = population.posts, population.users
    assert (posts.language == users.language[posts.author])[posts.group == posts.id].all()
    assert (users.created_at[: population.n_authors] < population.start).all()


def test_users_read_their_own_language(population):
    assert population.users.reads[np.arange(population.n_users), population.users.language].all()


def test_follows_and_blocks_ascend_without_repeats(population):
    for start, authors in (population.follows, population.blocks):
        assert len(start) == population.n_users + 1
        assert start[-1] == len(authors) > 50
        for user in range(population.n_users):
            assert (np.diff(authors[start[user] : start[user + 1]]) > 0).all()


def test_users_mostly_follow_authors_of_topics_they_like(population):
    user = np.repeat(np.arange(population.n_users), np.diff(population.follows.start))
    posts_of = np.zeros((population.n_authors, len(TOPICS)))
    np.add.at(posts_of, (population.posts.author, population.posts.topic), 1)
    usual = posts_of.argmax(axis=1)
    taste = population.users.taste_start
    followed = taste[user, usual[population.follows.authors]].mean()
    assert followed > taste[:, usual].mean() + 0.1


def test_without_homophily_users_follow_authors_even_when_no_author_matches():
    """Ten authors cannot write on all topics in all languages."""
    few = SMALL | {"n_authors": 10}
    by_interest, by_reach = (draw_population(WorldConfig.model_validate(few | {"homophily": h})) for h in (1, 0))
    assert len(by_reach.follows.authors) > 1.5 * len(by_interest.follows.authors)


def test_all_users_may_be_authors():
    config = WorldConfig(n_users=20, n_posts=200, n_authors=500, n_impressions=1000, n_days=4)
    assert draw_population(config).n_authors == 20


def test_a_text_uses_nouns_of_its_language_and_topic():
    topic = np.tile(np.arange(len(TOPICS), dtype=np.int32), len(LANGUAGES))
    language = np.repeat(np.arange(len(LANGUAGES), dtype=np.int32), len(TOPICS))
    texts = write_texts(topic, language, np.random.default_rng(0))
    assert texts == write_texts(topic, language, np.random.default_rng(0))
    for text, t, spoken in zip(texts, topic, language, strict=True):
        nouns = NOUNS[LANGUAGES[spoken]][t]
        assert sum(noun in text for noun in nouns) >= 2, text
        assert "{" not in text


def test_every_language_has_words_for_every_topic():
    for language in LANGUAGES:
        assert len(NOUNS[language]) == len(TOPICS)
        assert all(len(set(nouns)) == len(nouns) >= 6 for nouns in NOUNS[language])
        assert all("{noun}" in pattern and "{other}" in pattern for pattern in PATTERNS[language])
