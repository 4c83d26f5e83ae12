"""The ranking report: every ranker and the oracle on the test share, position as logged.

The oracle is the true P(click) of each impression as shown; nothing that only knows what a server knows can beat it but
by luck. Where logs hold clicks only, unclicked rows are posts drawn at random (`Logs.negatives`): figures then say how
well clicks stand out from any posts, and say nothing about click rates.
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
    """Figures by ranker, with `auc_ci`; the oracle's are None without a world."""
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
