"""`recsys index tune`: run the tuner on a release's vectors and users, and time every configuration on this machine.

Takes settings, gives the trials, the choice and the reason, and writes them to a file. It changes no release.
"""

from __future__ import annotations

import json
import os
from typing import Any

from recsys.bench.one_core import one_core
from recsys.bench.retrieval.vectors import halves, users_of
from recsys.config import Config
from recsys.evaluation.report.material import gather
from recsys.progress import Progress
from recsys.retrieval.index import tuner
from recsys.retrieval.index.bitmap import Bitmap

_TIMED = 200
"""Queries that time each configuration."""


def tune_release(config: Config, progress: Progress) -> dict[str, Any]:
    """Tune, time and choose by the times; also write the figures to `<data_dir>/index-tuning.json`.

    Raises: ReleaseError without a release, DataError when the lake is not the one it learned from.
    """
    material = gather(config)
    k, settings = config.retrieval.sources.budget, config.retrieval.index
    tuning_queries, queries = halves(users_of(material))
    with progress.stage("tune") as report:
        tuned = tuner.tune(material.post_vectors, tuning_queries, k, settings, report, thorough=True)
    visible = Bitmap.of(material.catalogue.visible)
    with progress.stage("time") as report, one_core():
        timed = []
        for number, trial in enumerate(tuned.trials):
            timed.append(tuner.measure(trial, queries[:_TIMED], k, visible))
            report(number + 1, len(tuned.trials))
    chosen = tuner.choose(timed, material.catalogue.n_posts, k, settings)
    path = config.data_dir / "index-tuning.json"
    figures = chosen.figures() | {
        "posts": material.catalogue.n_posts,
        "k": k,
        "target_recall": settings.target_recall,
        "release": material.release.version,
        "release_has": material.index.name,
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(figures, indent=1))
    os.replace(partial, path)
    return figures | {"path": str(path)}
