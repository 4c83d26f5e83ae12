"""Who lives in the world, and that nothing about it depends on how it is asked."""

from dataclasses import fields

import numpy as np
import pytest

from recsys.config import WorldConfig
from recsys.world.population import DAYS_BEFORE, draw_population
from recsys.world.text import write_texts
from recsys.world.vocabulary import LANGUAGES, NOUNS, PATTERNS, TOPICS

from .conftest import SMALL


@pytest.fixture(scope="module")
def population():
    return draw_population(WorldConfig.model_validate(SMALL))


def test_the_same_settings_draw_the_same_people_and_another_seed_others(population):
    again, other = (draw_population(WorldConfig.model_validate(SMALL | {"seed": seed})) for seed in (0, 1))
    for column in fields(population):
        np.testing.assert_array_equal(getattr(population, column.name), getattr(again, column.name), column.name)
    assert not np.array_equal(population.taste_start, other.taste_start)
    assert population.texts != other.texts


def test_posts_are_in_order_of_birth_and_some_are_older_than_the_logs(population):
    born = population.post_created_at
    assert (np.diff(born) >= 0).all()
    share = DAYS_BEFORE / (DAYS_BEFORE + SMALL["n_days"])
    assert (born < population.start).mean() == pytest.approx(share, abs=0.001)


def test_authors_are_users_and_write_in_their_own_language(population):
    assert population.n_authors == SMALL["n_authors"]
    assert (population.post_language == population.user_language[population.post_author])[
        population.post_group == population.post_id
    ].all()
    assert (population.user_created_at[: population.n_authors] < population.start).all()


def test_users_read_their_own_language(population):
    assert population.user_reads[np.arange(population.n_users), population.user_language].all()


def test_lists_of_follows_ascend_without_repeats(population):
    for start, authors in (
        (population.follows_start, population.follows),
        (population.blocks_start, population.blocks),
    ):
        for user in range(population.n_users):
            assert (np.diff(authors[start[user] : start[user + 1]]) > 0).all()
    assert population.follows_start[-1] == len(population.follows)


def test_users_mostly_follow_authors_of_topics_they_like(population):
    user = np.repeat(np.arange(population.n_users), np.diff(population.follows_start))
    posts_of = np.zeros((population.n_authors, len(TOPICS)))
    np.add.at(posts_of, (population.post_author, population.post_topic), 1)
    usual = posts_of.argmax(axis=1)
    followed = population.taste_start[user, usual[population.follows]].mean()
    assert followed > population.taste_start[:, usual].mean() + 0.1


def test_a_population_of_authors_only_is_possible():
    config = WorldConfig(n_users=20, n_posts=200, n_authors=500, n_impressions=1000, n_days=4)
    assert draw_population(config).n_authors == 20


def test_a_text_speaks_its_language_on_its_topic():
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
