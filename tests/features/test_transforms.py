"""Transforms equal scikit-learn's, and handle values that training never saw."""

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer, StandardScaler

from recsys.features.spec import CATEGORICAL, MAX_CATEGORIES, MAX_QUANTILES, NAMES
from recsys.features.transforms import Transforms, fit_transforms

NUMERIC = [i for i, name in enumerate(NAMES) if name not in CATEGORICAL]
TOPIC, MEDIA = (NAMES.index(name) for name in ("topic", "media"))
OFTEN_MISSING = (3, 10)  # places among the numeric columns
M = len(NUMERIC)
SCALINGS = ("standard", "quantile")


def rows(n, seed=0, n_topics=6):
    """Normal numbers, two columns with gaps, one half zeros; topics from frequent to rare, every fifth missing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(2.0, 3.0, (n, len(NAMES))).astype(np.float32)
    features[:, NUMERIC[0]] *= rng.random(n) < 0.5
    for place in OFTEN_MISSING:
        features[rng.random(n) < 0.3, NUMERIC[place]] = np.nan
    topic = np.minimum(rng.geometric(0.5, n) - 1, n_topics - 1).astype(np.float32)
    features[:, TOPIC] = np.where(rng.random(n) < 0.2, np.nan, topic)
    features[:, MEDIA] = rng.integers(-1, 4, n)
    return features


def numbers(features):
    return features[:, NUMERIC].astype(np.float64)


def categories_of(design, transforms, place):
    """Columns of one categorical column: kept, rare, missing."""
    sizes = np.diff(transforms.category_start) + 2
    start = M + transforms.flagged.sum() + sizes[:place].sum()
    return design[:, start : start + sizes[place]]


def test_gaps_are_filled_with_the_training_median_and_flagged_as_by_the_simple_imputer():
    train, test = rows(800), rows(300, seed=1)
    transforms = fit_transforms(train, "standard", 1)
    design = transforms.design(test)
    imputer = SimpleImputer(strategy="median", add_indicator=True).fit(numbers(train))
    plain = imputer.transform(numbers(test))
    scaler = StandardScaler().fit(imputer.transform(numbers(train))[:, :M])
    assert transforms.flagged.nonzero()[0].tolist() == list(OFTEN_MISSING)
    np.testing.assert_allclose(design[:, :M], scaler.transform(plain[:, :M]), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(design[:, M : M + len(OFTEN_MISSING)], plain[:, M:])


def test_quantile_scores_are_those_of_the_quantile_transformer_between_the_outermost_quantiles():
    train, test = rows(3000), rows(500, seed=1)
    scores = fit_transforms(train, "quantile", 1).design(test)[:, :M]
    imputer = SimpleImputer(strategy="median").fit(numbers(train))
    plain = QuantileTransformer(n_quantiles=MAX_QUANTILES, output_distribution="normal", subsample=None)
    expected = plain.fit(imputer.transform(numbers(train))).transform(imputer.transform(numbers(test)))
    end = 2.5758  # the normal deviate of half a quantile
    np.testing.assert_allclose(scores, np.clip(expected, -end, end), atol=2e-3)
    assert (np.abs(expected) > end).any(), "some rows must lie beyond"


@pytest.mark.parametrize("n", [1, 7, 99])
def test_few_rows_give_as_many_quantiles_as_rows(n):
    train = rows(n)
    transforms = fit_transforms(train, "quantile", 1)
    assert len(transforms.quantiles) == n
    assert np.isfinite(transforms.design(train)).all()


def test_rare_categories_share_a_column_as_in_the_one_hot_encoder():
    train, test = rows(400), rows(200, seed=1, n_topics=9)
    transforms = fit_transforms(train, "standard", 30)
    one_hot = categories_of(transforms.design(test), transforms, 0)
    missing = np.isnan(test[:, TOPIC])
    encoder = OneHotEncoder(min_frequency=30, handle_unknown="infrequent_if_exist", sparse_output=False)
    encoder.fit(train[~np.isnan(train[:, TOPIC])][:, [TOPIC]])
    assert len(encoder.infrequent_categories_[0])
    np.testing.assert_array_equal(one_hot[~missing, :-1], encoder.transform(test[~missing][:, [TOPIC]]))
    np.testing.assert_array_equal(one_hot[:, -1], missing)


def of_topics(*topics):
    features = np.repeat(rows(1), len(topics), axis=0)
    features[:, TOPIC] = topics
    return features


def test_a_category_with_enough_rows_is_kept_whatever_its_code():
    transforms = fit_transforms(of_topics(*[4] * 30, *[5] * 29, *[7] * 30), "standard", 30)
    asked = of_topics(4, 5, 7, 6, np.nan)
    kept_4, kept_7, rare, missing = np.eye(4)
    expected = [kept_4, rare, kept_7, rare, missing]
    np.testing.assert_array_equal(categories_of(transforms.design(asked), transforms, 0), expected)
    folded = transforms.fold(asked)
    np.testing.assert_array_equal(folded[:, TOPIC], [0, 2, 1, 2, np.nan])
    others = np.arange(len(NAMES)) != TOPIC
    others[MEDIA] = False
    np.testing.assert_array_equal(folded[:, others], asked[:, others])
    assert asked[0, TOPIC] == 4, "what came in stays as it was"


@pytest.mark.parametrize("unseen", [77.0, 2_000_000.0])
def test_a_category_never_seen_in_training_is_rare(unseen):
    transforms = fit_transforms(rows(400), "standard", 30)
    features = rows(1)
    features[:, TOPIC] = unseen
    one_hot = categories_of(transforms.design(features), transforms, 0)
    assert one_hot[0].nonzero()[0].tolist() == [one_hot.shape[1] - 2]


def test_a_category_is_missing_whether_nan_or_negative():
    transforms = fit_transforms(rows(400), "standard", 1)
    features = rows(2)
    features[:, TOPIC] = [np.nan, -1]
    assert categories_of(transforms.design(features), transforms, 0)[:, -1].tolist() == [1, 1]


def test_only_the_most_frequent_categories_have_columns():
    n = MAX_CATEGORIES + 10
    train = np.repeat(rows(1), 3 * n, axis=0)
    train[:, TOPIC] = np.concatenate([np.arange(n), np.arange(10, n), np.arange(10, n), np.zeros(20)])
    transforms = fit_transforms(train, "standard", 1)
    start, end = transforms.category_start[:2]
    assert transforms.categories[start:end].tolist() == [0, *range(10, n - 1)], "0 is the most frequent, ties go low"


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_column_first_missing_at_serving_gets_the_median_without_a_flag(scaling):
    train = rows(500)
    transforms = fit_transforms(train, scaling, 1)
    features = rows(2, seed=2)
    place = next(p for p in range(M) if p not in OFTEN_MISSING)
    features[1] = features[0]
    features[:, NUMERIC[place]] = [np.nan, np.median(train[:, NUMERIC[place]].astype(np.float64))]
    design = transforms.design(features)
    np.testing.assert_allclose(design[0], design[1], atol=1e-6)
    assert design.shape[1] == transforms.design(train).shape[1]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_constant_and_always_missing_columns_become_zero(scaling):
    train = rows(200)
    train[:, NUMERIC[5]], train[:, NUMERIC[6]] = 4.0, np.nan
    transforms = fit_transforms(train, scaling, 1)
    later = rows(50, seed=3)
    assert not transforms.design(later)[:, [5, 6]].any()
    assert np.isfinite(transforms.design(later)).all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_saved_transforms_give_the_same_bits(scaling, tmp_path):
    transforms = fit_transforms(rows(500), scaling, 20)
    transforms.save(tmp_path / "transforms")
    loaded = Transforms.load(tmp_path / "transforms")
    assert loaded.scaling == scaling
    test = rows(100, seed=1)
    assert loaded.design(test).tobytes() == transforms.design(test).tobytes()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_transforming_a_batch_equals_transforming_each_row_alone(scaling):
    transforms = fit_transforms(rows(500), scaling, 20)
    test = rows(30, seed=1)
    together = transforms.design(test)
    for row in range(len(test)):
        np.testing.assert_array_equal(transforms.design(test[row : row + 1])[0], together[row])
