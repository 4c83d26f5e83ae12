import numpy as np
import pytest
import worlds

from recsys.config import RankingConfig
from recsys.errors import ReleaseError
from recsys.evaluation.metrics.clicks import auc
from recsys.features.spec import NAMES
from recsys.ranking.examples import Examples
from recsys.ranking.trees import Trees, fit_trees

CONFIG = RankingConfig(n_trees=40, min_leaf_rows=20, n_threads=1)
TOWER = NAMES.index("tower_score")
TOPIC = NAMES.index("topic")


def taste(features):
    return -2.5 + features[:, TOWER]


def fit(examples, offset=None, config=CONFIG):
    offset = np.zeros(len(examples)) if offset is None else offset
    return fit_trees(examples, offset, config, lambda done, total: None)


def test_a_few_trees_learn_from_rare_clicks():
    train = worlds.examples(8_000, np.random.default_rng(0), taste)
    test = worlds.examples(8_000, np.random.default_rng(1), taste)
    trees = fit(train)
    assert auc(trees.logit(test.features), test.click) > auc(taste(test.features), test.click) - 0.03
    assert trees.n_trees > 10


def test_log_odds_start_from_the_base_rate():
    examples = worlds.examples(8_000, np.random.default_rng(0), taste)
    logit = fit(examples, config=CONFIG.model_copy(update={"n_trees": 1})).logit(examples.features)
    assert (1 / (1 + np.exp(-logit))).mean() == pytest.approx(examples.click.mean(), abs=0.01)


def test_the_position_offset_is_neither_learned_nor_served():
    # Only the position decides; a feature reveals the position, and the trees must not learn from it.
    rng = np.random.default_rng(2)
    bias = np.array([0.0, -1.0, -2.0])
    examples = worlds.examples(20_000, rng, lambda features: -1.0, bias)
    examples.features[:, TOWER] = examples.position + rng.normal(0, 0.1, len(examples))
    offset = bias[examples.position]
    believed, modelled = fit(examples), fit(examples, offset)
    spread = [np.ptp([trees.logit(examples.features)[examples.position == p].mean() for p in range(3)])
              for trees in (believed, modelled)]  # fmt: skip
    assert spread[0] > 1.0
    assert spread[1] < 0.15
    assert modelled.logit(examples.features).mean() == pytest.approx(-1.0, abs=0.15)


def test_saved_trees_predict_the_same(tmp_path):
    examples = worlds.examples(4_000, np.random.default_rng(3), taste)
    trees = fit(examples)
    trees.save(tmp_path / "lightgbm.txt")
    loaded = Trees.load(tmp_path / "lightgbm.txt", 1)
    assert loaded.n_trees == trees.n_trees
    assert loaded.logit(examples.features).tolist() == trees.logit(examples.features).tolist()


def test_a_missing_category_is_learned_and_recognised():
    rng = np.random.default_rng(4)
    examples = worlds.examples(20_000, rng, lambda features: np.where(features[:, TOPIC] < 0, 0.5, -2.5))
    features = examples.features[:4].copy()
    features[:] = features[0]
    features[:, TOPIC] = [-1, np.nan, 0, 3]
    missing, as_nan, zero, three = fit(examples).logit(features)
    assert missing == as_nan
    assert missing - max(zero, three) > 1.0


def test_training_stops_when_held_back_rows_stop_improving():
    noise = worlds.examples(5_000, np.random.default_rng(5), lambda features: -1.0)
    assert fit(noise, config=CONFIG.model_copy(update={"n_trees": 200})).n_trees < 100


@pytest.mark.parametrize("clicked_part", ["none in the last tenth", "none in the first nine"])
def test_a_part_without_clicks_does_not_stop_the_training(clicked_part):
    examples = worlds.examples(2_000, np.random.default_rng(6), taste)
    last = np.arange(2_000) >= 1_800
    click = examples.click & (~last if clicked_part.endswith("tenth") else last)
    assert np.isfinite(fit(Examples(examples.features, click, examples.position)).logit(examples.features)).all()


def test_uninformative_features_give_the_base_rate():
    features = np.zeros((1_000, len(NAMES)), np.float32)
    click = np.arange(1_000) % 10 == 0
    logit = fit(Examples(features, click, np.zeros(1_000, np.int32))).logit(features[:3])
    assert (1 / (1 + np.exp(-logit))).tolist() == pytest.approx([0.1] * 3, abs=1e-6)


def test_the_same_rows_give_the_same_trees(tmp_path):
    for name in ("a", "b"):
        fit(worlds.examples(3_000, np.random.default_rng(7), taste)).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_is_not_a_model_is_refused_by_name(tmp_path):
    (tmp_path / "lightgbm.txt").write_text("not a model")
    with pytest.raises(ReleaseError, match=r"lightgbm\.txt is not a LightGBM model.*recsys train"):
        Trees.load(tmp_path / "lightgbm.txt", 1)


def test_missing_numbers_are_distinct_from_zeros():
    rng = np.random.default_rng(8)
    gap = rng.random(20_000) < 0.4
    examples = worlds.examples(20_000, rng, lambda features: np.where(gap, 0.5, -2.5))
    column = NAMES.index("post_velocity")
    examples.features[gap, column] = np.nan
    features = np.repeat(examples.features[:1], 2, axis=0)
    features[:, column] = [np.nan, 0.0]
    missing, zero = fit(examples).logit(features)
    assert missing - zero > 1.5
