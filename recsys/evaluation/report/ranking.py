"""The ranking report: metrics of every ranker and of the oracle on the test share, at the logged positions.

The oracle is the true P(click) of each impression as shown; a ranker beats it only by luck. For logs without
impressions, the unclicked rows are randomly drawn posts (`Logs.negatives`): the metrics then say how well clicked posts
are separated from random posts, and nothing about click rates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys.evaluation.metrics.clicks import auc_by_rank, bootstrap_over_users, dense_ranks, ranking_figures
from recsys.evaluation.report.material import Material
from recsys.ranking.examples import build_examples
from recsys.ranking.rankers import RANKERS
from recsys.types import Doubles, Ids


def ranking_report(material: Material) -> dict[str, dict[str, Any]]:
    """Metrics by ranker, with `auc_ci`; the oracle's are None without a world."""
    test = material.test()
    examples = build_examples(
        material.catalogue,
        material.logs.events,
        test,
        material.towers,
        material.post_vectors,
        material.config.online.history_size,
        material.config.ranking.n_threads,
    )
    probability: dict[str, Doubles] = {
        name: material.rankers.probability(examples.features, name, examples.position) for name in RANKERS
    }
    if material.world is not None:
        probability["oracle"], _ = material.world.true_click_probability(test.request_id, test.position)

    rank = {name: dense_ranks(p) for name, p in probability.items()}

    def aucs(rows: Ids) -> dict[str, float | None]:
        return {name: auc_by_rank(r[rows], test.click[rows]) for name, r in rank.items()}

    settings = material.config.evaluation
    rng = np.random.default_rng([settings.seed, 1])
    intervals = bootstrap_over_users(aucs, test.user_row, settings.n_bootstrap, rng)
    report: dict[str, dict[str, Any]] = {}
    for name in (*RANKERS, "oracle"):
        if name in probability:
            report[name] = {**ranking_figures(probability[name], test.click, test.user_row), "auc_ci": intervals[name]}
        else:
            report[name] = dict.fromkeys(("auc", "gauc", "log_loss", "ne", "ece", "calibration_error", "auc_ci"))
    return report
