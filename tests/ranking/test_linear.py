import numpy as np
import pytest
import worlds

from recsys.config import RankingConfig
from recsys.features.spec import NAMES
from recsys.ranking import linear
from recsys.ranking.linear import LinearModel

CONFIG = RankingConfig()
POSITION = np.array([0.0, -0.4, -0.8, -1.2, -1.6])


def fit_linear(examples, config=CONFIG):
    return linear.fit_linear(examples, config)


def taste(features):
    return -1.0 + 0.8 * features[:, NAMES.index("tower_score")]


def test_the_position_bias_of_the_logs_is_recovered():
    model = fit_linear(worlds.examples(60_000, np.random.default_rng(0), taste, POSITION))
    np.testing.assert_allclose(model.position, POSITION, atol=0.12)


def test_good_posts_in_good_positions_do_not_inflate_the_bias():
    # A logging policy that puts the best posts on top: position and taste are confounded, not the same.
    rng = np.random.default_rng(1)
    features = worlds.examples(60_000, rng).features
    score = features[:, NAMES.index("tower_score")]
    position = np.clip(2 - np.round(score + rng.normal(0, 0.7, len(score))), 0, 4).astype(np.int32)
    click = rng.random(len(score)) < 1 / (1 + np.exp(-(taste(features) + POSITION[position])))
    model = fit_linear(linear.Examples(features, click, position))
    np.testing.assert_allclose(model.position, POSITION, atol=0.2)
    naive = [np.log(rate / (1 - rate)) for rate in (click[position == p].mean() for p in range(5))]
    assert abs(naive[4] - naive[0] - POSITION[4]) > 0.5


def test_serving_scores_ignore_the_position():
    examples = worlds.examples(20_000, np.random.default_rng(2), taste, POSITION)
    logit = fit_linear(examples).logit(examples.features)
    assert np.corrcoef(logit, taste(examples.features))[0, 1] > 0.98
    assert logit.mean() == pytest.approx(taste(examples.features).mean(), abs=0.1)


def test_positions_beyond_the_last_known_share_its_weight_and_unknown_ones_add_nothing():
    model = fit_linear(worlds.examples(5_000, np.random.default_rng(3), taste, POSITION))
    added = model.position_logit(np.array([-1, 0, 4, 5, 30_000], np.int32))
    assert added.tolist() == [0.0, 0.0, model.position[4], model.position[4], model.position[4]]


def test_a_huge_made_up_position_costs_no_memory():
    examples = worlds.examples(5_000, np.random.default_rng(4), taste, POSITION)
    examples.position[0] = 32_767
    assert len(fit_linear(examples).position) <= 100


def test_logs_without_positions_have_no_bias():
    examples = worlds.examples(5_000, np.random.default_rng(5), taste)
    examples.position[:] = -1
    model = fit_linear(examples)
    assert model.position_logit(np.array([-1, 0, 3], np.int32)).tolist() == [0.0, 0.0, 0.0]


def test_unseen_categories_get_equal_scores():
    examples = worlds.examples(5_000, np.random.default_rng(6), taste)
    model = fit_linear(examples)
    features = examples.features[:2].copy()
    features[:, NAMES.index("topic")] = [77, 78]
    features[1] = np.where(np.arange(len(NAMES)) == NAMES.index("topic"), 78, features[0])
    logit = model.logit(features)
    assert np.isfinite(logit).all()
    assert logit[0] == logit[1]


def test_a_constant_column_changes_nothing():
    examples = worlds.examples(5_000, np.random.default_rng(7), taste)
    examples.features[:, NAMES.index("weekday")] = 3.0
    assert np.isfinite(fit_linear(examples).logit(examples.features)).all()


def test_the_linear_model_trains_on_the_newest_rows_only(monkeypatch):
    monkeypatch.setattr(linear, "_MAX_ROWS", 4_000)
    old = worlds.examples(4_000, np.random.default_rng(8), lambda f: -taste(f))
    new = worlds.examples(4_000, np.random.default_rng(9), taste)
    both = linear.Examples(
        *(np.concatenate([getattr(old, c), getattr(new, c)]) for c in ("features", "click", "position"))
    )
    assert fit_linear(both).logit(new.features).tolist() == fit_linear(new).logit(new.features).tolist()


def test_missing_values_have_their_own_weight():
    """A missing value is neither high nor low: its flag has its own weight."""
    rng = np.random.default_rng(10)
    gap = rng.random(20_000) < 0.4
    examples = worlds.examples(20_000, rng, lambda features: np.where(gap, 0.5, -2.5))
    column = NAMES.index("post_velocity")
    examples.features[gap, column] = np.nan
    features = examples.features[:2].copy()
    features[1] = features[0]
    features[:, column] = [np.nan, 0.0]
    missing, there = fit_linear(examples).logit(features)
    assert missing - there > 2.0


@pytest.mark.parametrize("scaling", ["standard", "quantile"])
def test_a_saved_model_gives_the_same_bits(scaling, tmp_path):
    examples = worlds.examples(3_000, np.random.default_rng(11), taste, POSITION)
    examples.features[::7, NAMES.index("post_age")] = np.nan
    model = fit_linear(examples, RankingConfig(scaling=scaling))
    model.save(tmp_path / "linear")
    loaded = LinearModel.load(tmp_path / "linear")
    assert loaded.logit(examples.features).tobytes() == model.logit(examples.features).tobytes()
    assert loaded.position.tobytes() == model.position.tobytes()


def test_quantile_scaling_beats_standard_scaling_on_a_heavy_tail():
    rng = np.random.default_rng(12)
    drawn = worlds.examples(20_000, rng, taste)
    column = NAMES.index("tower_score")
    examples = linear.Examples(drawn.features.copy(), drawn.click, drawn.position)
    examples.features[:, column] = np.sinh(3 * drawn.features[:, column])
    wanted = taste(drawn.features)
    found = {
        scaling: np.corrcoef(fit_linear(examples, RankingConfig(scaling=scaling)).logit(examples.features), wanted)[
            0, 1
        ]
        for scaling in ("standard", "quantile")
    }
    assert found["quantile"] > 0.95
    assert found["standard"] < 0.8
