"""LightGBM for P(click), with position bias as an offset.

The position's log-odds, estimated by the logistic regression, enter as a fixed offset of each row; the trees explain
the rest. So position is modelled as a bias and is not a feature. Serving leaves the offset out. Source: Ke et al.,
"LightGBM", NeurIPS 2017.
"""

from __future__ import annotations

from pathlib import Path

import lightgbm as lgb
import numpy as np

from recsys.config import RankingConfig
from recsys.errors import ReleaseError
from recsys.features.spec import CATEGORICAL, NAMES
from recsys.progress import Report
from recsys.ranking.calibration import fit_intercept
from recsys.ranking.examples import Examples
from recsys.types import Doubles, Floats

_PATIENCE = 25
"""Trees without improvement on the held-back rows after which training stops."""


class Trees:
    """A trained booster; safe to share between threads."""

    def __init__(self, booster: lgb.Booster, n_threads: int) -> None:
        self._booster = booster
        self._n_threads = n_threads

    @property
    def n_trees(self) -> int:
        return int(self._booster.num_trees())

    def logit(self, features: Floats) -> Doubles:
        """Log-odds at position 0, (N,)."""
        raw = self._booster.predict(
            np.ascontiguousarray(features), raw_score=True, num_threads=self._n_threads, validate_features=False
        )
        return np.asarray(raw, np.float64)

    def save(self, path: Path) -> None:
        self._booster.save_model(str(path))

    @classmethod
    def load(cls, path: Path, n_threads: int) -> Trees:
        try:
            return cls(lgb.Booster(model_file=str(path)), n_threads)
        except lgb.basic.LightGBMError as error:
            raise ReleaseError(
                f"{path} is not a LightGBM model: {error}; run `recsys train` to make it again"
            ) from None


def fit_trees(examples: Examples, offset: Doubles, config: RankingConfig, progress: Report) -> Trees:
    """Train on the first nine tenths of the rows; stop when log loss on the last tenth stops improving.

    Args:
        examples: in order of time.
        offset: log-odds that positions add, (E,).
    """
    cut = int(0.9 * len(examples))
    if any(examples.click[part].all() or not examples.click[part].any() for part in (slice(cut), slice(cut, None))):
        cut = len(examples)
    # With an offset LightGBM does not start from the base rate. From zero, the first trees would only approach the base
    # rate, and early stopping might end training before they reach it. So the base rate is part of the offset.
    base = fit_intercept(offset[:cut], examples.click[:cut].astype(np.float64))
    parameters = {
        "objective": "binary", "metric": "binary_logloss", "num_leaves": config.n_leaves,
        "learning_rate": config.learning_rate, "min_data_in_leaf": config.min_leaf_rows, "lambda_l2": 10.0,
        "feature_fraction": 0.5, "cat_smooth": 20.0, "max_cat_to_onehot": 4,
        "num_threads": config.n_threads, "seed": 0, "deterministic": True, "force_row_wise": True, "verbose": -1,
    }  # fmt: skip

    # LightGBM treats NaN as missing, in training and prediction, for categories too.
    def dataset(rows: slice, reference: lgb.Dataset | None) -> lgb.Dataset:
        return lgb.Dataset(
            examples.features[rows], examples.click[rows].astype(np.float32),
            init_score=base + offset[rows], feature_name=list(NAMES), categorical_feature=list(CATEGORICAL),
            reference=reference, params=parameters,
        )  # fmt: skip

    train = dataset(slice(0, cut), None)
    held_back = [dataset(slice(cut, None), train)] if cut < len(examples) else []

    def report(environment: lgb.callback.CallbackEnv) -> None:
        progress(environment.iteration + 1, config.n_trees)

    stop = [lgb.early_stopping(_PATIENCE, verbose=False)] if held_back else []
    booster = lgb.train(parameters, train, config.n_trees, valid_sets=held_back, callbacks=[*stop, report])
    _add_to_first_tree(booster, base)
    best = booster.best_iteration if held_back and booster.best_iteration > 0 else booster.num_trees()
    # Keep the trees up to the best one, read back from text as another process will load them.
    return Trees(lgb.Booster(model_str=booster.model_to_string(num_iteration=best)), config.n_threads)


def _add_to_first_tree(booster: lgb.Booster, base: float) -> None:
    """Add the base rate to every leaf of the first tree, where LightGBM itself keeps it."""
    for leaf in range(booster.dump_model(num_iteration=1)["tree_info"][0]["num_leaves"]):
        booster.set_leaf_output(0, leaf, booster.get_leaf_output(0, leaf) + base)
