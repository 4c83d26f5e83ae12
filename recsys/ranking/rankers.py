"""The three rankers of a release: popularity, logistic regression and LightGBM, each with its calibration.

Takes examples of two shares of time (rankers, calibrators); gives P(click) for any feature rows, at position 0 for
serving or at the logged position for evaluation. It does not know requests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recsys.config import RankingConfig
from recsys.errors import DataError
from recsys.features.spec import NAMES
from recsys.progress import Report
from recsys.ranking.calibration import Calibration, fit_calibration
from recsys.ranking.examples import Examples
from recsys.ranking.linear import LinearModel, fit_linear
from recsys.ranking.trees import Trees, fit_trees
from recsys.types import Doubles, Floats, Rows

RANKERS = ("popularity", "logistic", "lightgbm")
_POPULARITY = NAMES.index("post_click_rate_7d")


@dataclass(frozen=True)
class Rankers:
    """Three rankers that share one estimate of position bias."""

    linear: LinearModel
    trees: Trees
    calibrations: dict[str, Calibration]

    def logit(self, name: str, features: Floats) -> Doubles:
        """Uncalibrated log-odds at position 0, (N,)."""
        if name == "popularity":
            rate = np.exp(features[:, _POPULARITY].astype(np.float64))
            return np.log(rate / np.maximum(1.0 - rate, 1e-6))
        if name == "logistic":
            return self.linear.logit(features)
        return self.trees.logit(self.linear.transforms.fold(features))

    def probability(self, features: Floats, name: str = "lightgbm", position: Rows | None = None) -> Doubles:
        """Calibrated P(click), (N,), in (0, 1).

        Args:
            position: logged positions, (N,); None means position 0.
        """
        offset = self.linear.position_logit(position) if position is not None else 0.0
        return self.calibrations[name].probability(self.logit(name, features), offset)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.trees.save(folder / "lightgbm.txt")
        self.linear.save(folder / "linear")
        (folder / "calibrations.json").write_text(json.dumps(self.calibrations, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path, n_threads: int) -> Rankers:
        calibrations = json.loads((folder / "calibrations.json").read_text())
        return cls(
            linear=LinearModel.load(folder / "linear"),
            trees=Trees.load(folder / "lightgbm.txt", n_threads),
            calibrations={name: Calibration(*numbers) for name, numbers in calibrations.items()},
        )


def fit_rankers(
    rankers_share: Examples, calibrators_share: Examples, config: RankingConfig, progress: Report
) -> Rankers:
    """Train the rankers on one share of time and calibrate them on the next.

    Raises: DataError when all rows of a share are clicked, or none.
    """
    for name, examples in (("rankers", rankers_share), ("calibrators", calibrators_share)):
        if not examples.click.any() or examples.click.all():
            raise DataError(f"the {name} share of the logs must have clicked and unclicked exposures; use more logs")
    newest = Examples(
        features=rankers_share.features[-config.max_rows :],
        click=rankers_share.click[-config.max_rows :],
        position=rankers_share.position[-config.max_rows :],
    )
    linear = fit_linear(newest, config)
    folded = replace(newest, features=linear.transforms.fold(newest.features))
    trees = fit_trees(folded, linear.position_logit(newest.position), config, progress)
    uncalibrated = Rankers(linear, trees, {})
    offset = linear.position_logit(calibrators_share.position)
    calibrations = {
        name: fit_calibration(uncalibrated.logit(name, calibrators_share.features), calibrators_share.click, offset)
        for name in RANKERS
    }
    return Rankers(linear, trees, calibrations)
