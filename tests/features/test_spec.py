"""The table of features is consistent, and its fingerprint notices every change."""

import subprocess
import sys

import numpy as np
import pytest

from recsys.features import spec
from recsys.features.spec import CATEGORICAL, COUNTS, ENTITIES, FEATURES, NAMES, OTHERS, RATES
from recsys.types import DAY, SECOND


def test_names_are_unique_and_in_the_order_of_the_features():
    assert len(set(NAMES)) == len(NAMES) == len(COUNTS) + len(RATES) + len(OTHERS)
    assert tuple(feature.name for feature in FEATURES) == NAMES
    assert set(CATEGORICAL) <= set(NAMES)


@pytest.mark.parametrize(("entity", "action", "half_life"), [*COUNTS, *RATES], ids=str)
def test_every_count_a_feature_reads_is_kept(entity, action, half_life):
    a, h = entity.at(action, half_life)
    assert (entity.actions[a], entity.half_lives[h]) == (action, half_life)


@pytest.mark.parametrize(("entity", "action", "half_life"), RATES, ids=str)
def test_every_rate_has_its_impressions_and_a_prior(entity, action, half_life):
    entity.at("impression", half_life)
    assert 0 < spec.PRIOR_RATE[action] < 1


def test_every_feature_names_an_entity_and_has_a_meaning():
    names = {entity.name for entity in ENTITIES} | {"request"}
    for feature in FEATURES:
        assert feature.entity in names, feature
        assert feature.meaning, feature
        assert feature.source, feature
        assert feature.transform in ("none", "log", "log1p"), feature


def test_columns_with_a_logarithm_come_first_and_among_them_counts_then_rates():
    with_logarithm = [feature.transform != "none" for feature in FEATURES]
    assert with_logarithm == sorted(with_logarithm, reverse=True)
    assert tuple(feature.read for feature in FEATURES if feature.read) == (*COUNTS, *RATES)
    assert all(feature.read for feature in FEATURES[: len(COUNTS) + len(RATES)])


@pytest.mark.parametrize("name", CATEGORICAL)
def test_categories_use_nan_for_missing(name):
    assert np.isnan(FEATURES[NAMES.index(name)].default)


def test_session_depth_is_a_count_with_a_half_life_of_ten_minutes():
    entity, action, half_life = FEATURES[NAMES.index("session_depth")].read
    assert (entity, action, half_life) == (spec.USER, "impression", 600 * SECOND)


def test_action_rows_map_kept_action_codes_and_mark_the_others():
    assert spec.USER.actions == ("impression", "click", "hide")
    assert spec.USER.action_rows.tolist() == [0, 1, -1, -1, 2, -1], "impression, click, like, share, hide, dwell"


def test_rows_live_long_enough_online_for_the_longest_half_life():
    from recsys.config import OnlineConfig

    assert 10 * max(max(entity.half_lives) for entity in ENTITIES) <= OnlineConfig().ttl_s * 1_000_000
    assert max(max(entity.half_lives) for entity in ENTITIES) == 7 * DAY


CHANGES = {
    "ROW_FORMAT": spec.ROW_FORMAT + 1,
    "FORMULAS": spec.FORMULAS + 1,
    "MIN_CLICKS": 0.02,
    "MAX_QUANTILES": 50,
    "MAX_CATEGORIES": 128,
    "CATEGORICAL": ("topic",),
    "MEDIA_TYPES": ("text", "video", "image", "link"),
    "PRIOR_IMPRESSIONS": spec.PRIOR_IMPRESSIONS + 1,
    "PRIOR_RATE": {**spec.PRIOR_RATE, "click": 0.06},
    "ENTITIES": (*ENTITIES[:-1], ENTITIES[-1]._replace(half_lives=(DAY,))),
    "FEATURES": (FEATURES[1], FEATURES[0], *FEATURES[2:]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_fingerprint_changes_when_the_spec_does(monkeypatch, name):
    before = spec.fingerprint()
    monkeypatch.setattr(spec, name, CHANGES[name])
    assert spec.fingerprint() != before


def test_the_fingerprint_is_a_positive_int64_and_the_same_in_another_process():
    code = "from recsys.features.spec import fingerprint; print(fingerprint())"
    elsewhere = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 0 < spec.fingerprint() <= np.iinfo(np.int64).max
    assert int(elsewhere) == spec.fingerprint()
