from functools import partial

import contracts
import numpy as np
import pytest
import worlds

from recsys.config import RankingConfig
from recsys.errors import DataError
from recsys.evaluation.metrics.clicks import auc
from recsys.features.spec import NAMES
from recsys.ranking.examples import Examples
from recsys.ranking.rankers import RANKERS, Rankers, fit_rankers

CONFIG = RankingConfig(n_trees=30, min_leaf_rows=20, n_threads=1)
POSITION = (0.0, -0.5, -1.0)
RATE = NAMES.index("post_click_rate_7d")


def taste(features):
    return -2.0 + 0.8 * features[:, NAMES.index("tower_score")] + 0.4 * (features[:, RATE] + 3)


def share(n, seed) -> Examples:
    rng = np.random.default_rng(seed)
    drawn = worlds.examples(n, rng, lambda features: taste(with_rates(features)), POSITION)
    return Examples(with_rates(drawn.features), drawn.click, drawn.position)


def with_rates(features):
    """Standard normal columns; the popularity column is the logarithm of a rate."""
    features = features.copy()
    features[:, RATE] = -3 + 0.5 * np.tanh(features[:, RATE])
    return features


def quiet(done, total):
    pass


@pytest.fixture(scope="module")
def rankers() -> Rankers:
    return fit_rankers(share(30_000, 0), share(30_000, 1), CONFIG, quiet)


class Named:
    """One of the rankers as a `Scorer`."""

    def __init__(self, rankers, name):
        self.probability = partial(rankers.probability, name=name)


@pytest.mark.parametrize("name", RANKERS)
def test_every_ranker_is_a_scorer(rankers, name):
    contracts.check_scorer(Named(rankers, name), share(40, 2).features)


@pytest.mark.parametrize("name", RANKERS)
def test_every_ranker_beats_chance_and_is_calibrated_at_the_logged_position(rankers, name):
    test = share(40_000, 3)
    probability = rankers.probability(test.features, name, test.position)
    assert auc(probability, test.click) > 0.55
    assert probability.mean() == pytest.approx(test.click.mean(), rel=0.05)
    for position in range(3):
        at = test.position == position
        assert probability[at].mean() == pytest.approx(test.click[at].mean(), rel=0.1)


@pytest.mark.parametrize("name", RANKERS)
def test_lower_positions_lower_the_probability_but_not_the_order(rankers, name):
    features = share(200, 4).features
    top = rankers.probability(features, name)
    low = rankers.probability(features, name, np.full(200, 2, np.int32))
    assert (low < top).all()
    assert np.argsort(low, kind="stable").tolist() == np.argsort(top, kind="stable").tolist()
    assert rankers.probability(features, name, np.zeros(200, np.int32)).tolist() == top.tolist()


def test_saved_rankers_score_the_same(rankers, tmp_path):
    rankers.save(tmp_path / "ranking")
    loaded = Rankers.load(tmp_path / "ranking", 1)
    examples = share(100, 5)
    for name in RANKERS:
        expected = rankers.probability(examples.features, name, examples.position)
        assert loaded.probability(examples.features, name, examples.position).tolist() == expected.tolist()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("clicked", [False, True])
def test_a_share_with_one_class_only_is_refused_by_name(which, clicked):
    shares = [share(200, 6), share(200, 7)]
    shares[which] = Examples(shares[which].features, np.full(200, clicked), shares[which].position)
    with pytest.raises(DataError, match=f"the {('rankers', 'calibrators')[which]} share of the logs"):
        fit_rankers(*shares, CONFIG, quiet)


def test_rankers_train_on_the_newest_rows_only():
    old, new, later = share(300, 8), share(2_000, 9), share(2_000, 10)
    both = Examples(*(np.concatenate([getattr(old, c), getattr(new, c)]) for c in ("features", "click", "position")))
    limited = fit_rankers(both, later, CONFIG.model_copy(update={"max_rows": 2_000}), quiet)
    alone = fit_rankers(new, later, CONFIG, quiet)
    features = share(50, 11).features
    for name in RANKERS:
        assert limited.probability(features, name).tolist() == alone.probability(features, name).tolist()


def test_transforms_learn_from_the_rankers_share_only():
    """Later rows change the calibration, not the transforms."""
    train, later = share(3_000, 12), share(1_000, 13)
    strange = Examples(later.features * 50 + 7, later.click, later.position)
    strange.features[::2, NAMES.index("post_age")] = np.nan
    one, other = (fit_rankers(train, calibrators, CONFIG, quiet).linear for calibrators in (later, strange))
    for name in ("median", "flagged", "mean", "scale", "quantiles", "category_start", "categories"):
        np.testing.assert_array_equal(getattr(one.transforms, name), getattr(other.transforms, name), name)
    assert one.weight.tobytes() == other.weight.tobytes()


@pytest.mark.parametrize("name", RANKERS)
def test_missing_values_and_unseen_categories_give_a_probability(rankers, name):
    features = share(5, 14).features
    features[:, [i for i, n in enumerate(NAMES) if n != "post_click_rate_7d"]] = np.nan
    features[1:, NAMES.index("topic")] = [5_000, -1, 3, 2**24]
    probability = rankers.probability(features, name)
    assert np.isfinite(probability).all()


def test_topics_are_folded_alike_in_training_and_serving():
    """Folding renumbers the kept topics: 100 to 104 become 0 to 4."""
    topic = NAMES.index("topic")
    train, later = (
        worlds.examples(8_000, np.random.default_rng(seed), lambda f: np.where(f[:, topic] == 3, 1.0, -2.0))
        for seed in (15, 16)
    )
    for examples in (train, later):
        examples.features[:] = with_rates(examples.features)
        examples.features[:, topic] += 101
    rankers = fit_rankers(train, later, CONFIG, quiet)
    features = np.repeat(later.features[:1], 2, axis=0)
    features[:, topic] = [104, 102]
    liked, other = rankers.probability(features)
    assert liked > 2 * other
