"""The matrix has the columns of the spec, for one candidate or many, in training and serving."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from recsys.features.assemble import Inputs, assemble
from recsys.features.spec import (
    COUNTS,
    ENTITIES,
    FEATURES,
    FORMULAS,
    NAMES,
    POST,
    PRIOR_IMPRESSIONS,
    PRIOR_RATE,
    RATES,
    TOPIC,
    USER,
)
from recsys.types import DAY, HOUR

from .conftest import START

UNKNOWN_POST = 9
OF_FORMULAS_2 = {
    "post_impressions_1h": 4.2054, "post_click_rate_1h": -23.087, "text_length": 15.1044, "post_age": 17.5023,
    "post_velocity": 7.6, "user_topic_share": 4.9, "same_language": 4.0, "topic": 4.0, "topic_missing": 4.0,
    "media": 12.0, "hour_of_day": 11.0, "weekday": 44.0,
}  # fmt: skip


def random_inputs(seed, n, n_posts=11):
    rng = np.random.default_rng(seed)
    return Inputs(
        counts={entity.name: rng.gamma(1.0, 20.0, (n, *entity.shape)) for entity in ENTITIES},
        post_row=rng.integers(0, n_posts, n).astype(np.int32),
        user_language=rng.integers(-1, 2, n).astype(np.int32),
        follows_author=rng.random(n) < 0.5,
        follows_topic_share=rng.random(n).astype(np.float32),
        history_language_share=rng.random(n).astype(np.float32),
        history_media_share=rng.random(n).astype(np.float32),
        tower_score=rng.normal(size=n).astype(np.float32),
        now=START + rng.integers(0, DAY, n),
    )


def nothing_known(n=1, post_row=UNKNOWN_POST, now=0):
    return Inputs(
        counts={entity.name: np.zeros((n, *entity.shape)) for entity in ENTITIES},
        post_row=np.full(n, post_row, np.int32),
        user_language=np.full(n, -1, np.int32),
        follows_author=np.zeros(n, bool),
        follows_topic_share=np.full(n, np.nan, np.float32),
        history_language_share=np.full(n, np.nan, np.float32),
        history_media_share=np.full(n, np.nan, np.float32),
        tower_score=np.zeros(n, np.float32),
        now=np.full(n, now, np.int64),
    )


def column(matrix, name):
    return matrix[:, NAMES.index(name)]


def part(inputs, rows):
    return Inputs(
        counts={name: counts[rows] for name, counts in inputs.counts.items()},
        **{name: getattr(inputs, name)[rows] for name in Inputs.__dataclass_fields__ if name != "counts"},
    )


def test_columns_come_in_the_order_of_the_spec(catalogue):
    """Every count has a different value, so that a misplaced column is found."""
    inputs = random_inputs(0, 4)
    matrix = assemble(catalogue, inputs)
    assert matrix.shape == (4, len(NAMES))
    assert matrix.dtype == np.float32
    n_checked = 0
    for feature in FEATURES:
        if feature.read is None:
            continue
        entity, action, half_life = feature.read
        actions, shown = (inputs.counts[entity.name][:, *entity.at(a, half_life)] for a in (action, "impression"))
        expected = np.log1p(actions)
        if feature.kind == "smoothed rate":
            smoothed = actions + PRIOR_RATE[action] * PRIOR_IMPRESSIONS
            expected = np.log(smoothed / (np.maximum(shown, actions) + PRIOR_IMPRESSIONS))
        np.testing.assert_allclose(column(matrix, feature.name), expected, rtol=1e-6, atol=1e-6, err_msg=feature.name)
        n_checked += 1
    assert n_checked == len(COUNTS) + len(RATES)


def test_the_other_columns_follow_their_definition(catalogue):
    inputs = replace(
        nothing_known(3, now=START + 30 * HOUR + HOUR // 2),
        post_row=np.array([0, 4, 3], np.int32),
        user_language=np.array([0, 0, -1], np.int32),
        follows_author=np.array([True, False, False]),
        follows_topic_share=np.float32([0.25, 0, 0]),
        history_language_share=np.float32([0.75, 0, 1]),
        history_media_share=np.float32([0.5, 0, 0.125]),
        tower_score=np.float32([0.5, -1, 0]),
    )
    a, h = POST.at("click", HOUR)
    inputs.counts["post"][0, a, h] = 3
    inputs.counts["post"][0, a, POST.half_lives.index(DAY)] = 4
    inputs.counts["user_topic"][0, 1, 1] = 2
    inputs.counts["user"][0][USER.at("click", 7 * DAY)] = 8
    matrix = assemble(catalogue, inputs)
    np.testing.assert_array_equal(column(matrix, "post_velocity"), [0.75, np.nan, np.nan])
    np.testing.assert_array_equal(column(matrix, "user_topic_share"), [0.25, np.nan, np.nan])
    assert column(matrix, "tower_score").tolist() == [0.5, -1, 0]
    assert column(matrix, "follows_author").tolist() == [1, 0, 0]
    assert column(matrix, "follows_topic_share").tolist() == [0.25, 0, 0]
    assert column(matrix, "history_language_share").tolist() == [0.75, 0, 1]
    assert column(matrix, "history_media_share").tolist() == [0.5, 0, 0.125]
    np.testing.assert_array_equal(column(matrix, "same_language"), [1, 0, np.nan])
    assert column(matrix, "topic").tolist() == [0, 1, 0], "post 3 has its author's usual topic"
    assert column(matrix, "topic_missing").tolist() == [0, 0, 1]
    np.testing.assert_array_equal(column(matrix, "media"), [0, np.nan, 3])
    np.testing.assert_allclose(column(matrix, "text_length"), np.log1p([0, 4, 3]), rtol=1e-6)
    np.testing.assert_allclose(column(matrix, "post_age"), np.log1p([30.5, 34.5, 33.5]), rtol=1e-6)
    weekday = datetime.fromtimestamp((START + 30 * HOUR) / 1e6, UTC).weekday()
    assert column(matrix, "hour_of_day").tolist() == [6.5] * 3
    assert column(matrix, "weekday").tolist() == [weekday] * 3


@pytest.mark.parametrize("post_row", [UNKNOWN_POST, -1])
def test_every_feature_has_its_default_when_nothing_is_known(catalogue, post_row):
    monday = 4 * DAY  # midnight of Monday, 5 January 1970: hour 0, weekday 0, the defaults
    row = assemble(catalogue, nothing_known(post_row=post_row, now=monday))[0]
    for feature, value in zip(FEATURES, row, strict=True):
        expected = 1.0 if feature.name == "topic_missing" else feature.default
        assert value == pytest.approx(expected, abs=1e-6, nan_ok=True), feature.name


def test_only_columns_with_default_nan_may_be_nan(catalogue):
    may_be_missing = np.isnan([feature.default for feature in FEATURES])
    for post in range(-1, catalogue.n_posts):
        row = assemble(catalogue, nothing_known(post_row=post, now=START))[0]
        assert (np.isfinite(row) | may_be_missing).all()
        assert not np.isinf(row).any()


def test_age_and_length_are_known_for_posts_with_a_description(catalogue):
    """Post 0 has no text: its length is zero, not unknown."""
    matrix = assemble(catalogue, replace(nothing_known(3, now=START), post_row=np.array([0, 9, -1], np.int32)))
    np.testing.assert_array_equal(column(matrix, "text_length"), [0, np.nan, np.nan])
    np.testing.assert_array_equal(column(matrix, "post_age"), [0, np.nan, np.nan])


def test_a_text_of_unknown_age_still_has_its_length(catalogue):
    of_1970 = replace(catalogue, created_at=np.zeros_like(catalogue.created_at))
    matrix = assemble(of_1970, nothing_known(post_row=4, now=START))
    assert np.isnan(column(matrix, "post_age")).all()
    np.testing.assert_allclose(column(matrix, "text_length"), np.log1p(4), rtol=1e-6)


def test_a_ratio_to_long_faded_clicks_is_missing_whether_or_not_the_row_has_expired(catalogue):
    inputs = nothing_known(3, post_row=0, now=START)
    inputs.counts["user"][:, *USER.at("click", 7 * DAY)] = [0, 0.009, 0.011]
    inputs.counts["post"][:, *POST.at("click", DAY)] = [0, 0.009, 0.011]
    matrix = assemble(catalogue, inputs)
    for name in ("user_topic_share", "post_velocity"):
        np.testing.assert_array_equal(column(matrix, name), [np.nan, np.nan, 0])


def test_equal_counts_give_equal_numbers_as_long_as_the_formula_version_stays(catalogue):
    """A changed table changes the fingerprint by itself; a changed formula needs a new `FORMULAS`."""
    ramp = np.linspace(0, 1, 11)
    inputs = replace(
        nothing_known(11, now=START + HOUR),
        counts={entity.name: ramp[:, None, None] * np.arange(1.0, np.prod(entity.shape) + 1).reshape(entity.shape)
                for entity in ENTITIES},
        post_row=np.arange(11, dtype=np.int32),
        user_language=np.zeros(1, np.int32),
        tower_score=ramp.astype(np.float32),
    )  # fmt: skip
    sums = np.nansum(assemble(catalogue, inputs), axis=0)
    found = {name: round(float(column), 4) for name, column in zip(NAMES, sums, strict=True) if name in OF_FORMULAS_2}
    assert FORMULAS == 2
    assert found == pytest.approx(OF_FORMULAS_2, abs=2e-4)


def test_a_post_from_the_future_has_age_zero(catalogue):
    inputs = nothing_known(post_row=0, now=START - HOUR)
    assert column(assemble(catalogue, inputs), "post_age").tolist() == [0]


def test_a_rate_stays_at_most_one_when_a_click_arrives_before_its_impression(catalogue):
    inputs = nothing_known()
    inputs.counts["post"][:, POST.actions.index("click"), :] = 1000.0
    assert (column(assemble(catalogue, inputs), "post_click_rate_1h") < 0).all()


def test_one_shared_row_equals_the_row_repeated(catalogue):
    """The user's counts, language and time are one row in serving, and one row per candidate in training."""
    many = random_inputs(1, 6)
    one = replace(
        many,
        counts=many.counts | {name: many.counts[name][:1] for name in ("user", "topic")},
        user_language=many.user_language[:1],
        now=many.now[:1],
    )
    repeated = replace(
        one,
        counts=one.counts | {name: np.repeat(one.counts[name], 6, axis=0) for name in ("user", "topic")},
        user_language=np.repeat(one.user_language, 6),
        now=np.repeat(one.now, 6),
    )
    np.testing.assert_array_equal(assemble(catalogue, one), assemble(catalogue, repeated))
    assert one.counts["topic"].shape == (1, *TOPIC.shape)


def test_a_batch_of_many_requests_equals_each_candidate_alone(catalogue):
    inputs = random_inputs(2, 40)
    together = assemble(catalogue, inputs)
    for row in range(40):
        np.testing.assert_array_equal(together[row : row + 1], assemble(catalogue, part(inputs, slice(row, row + 1))))


def test_the_result_does_not_depend_on_the_block_size(catalogue, monkeypatch):
    inputs = replace(random_inputs(2, 40), now=np.array([START + HOUR]))
    inputs.counts["user"] = inputs.counts["user"][:1]
    expected = assemble(catalogue, inputs)
    monkeypatch.setattr("recsys.features.assemble._BLOCK", 7)
    np.testing.assert_array_equal(assemble(catalogue, inputs), expected)


def test_no_candidates_give_an_empty_matrix(catalogue):
    assert assemble(catalogue, part(random_inputs(3, 1), slice(0, 0))).shape == (0, len(NAMES))


def test_posts_without_topic_and_author_are_marked(catalogue):
    matrix = assemble(catalogue, replace(random_inputs(4, 2), post_row=np.array([7, UNKNOWN_POST], np.int32)))
    assert np.isnan(column(matrix, "topic")).all()
    assert column(matrix, "topic_missing").tolist() == [1, 1]
