"""An example has the features its own request could have read, however imported logs number requests."""

from dataclasses import replace

import numpy as np
from outside_logs import clicks_only, settings

from recsys.progress import Progress
from recsys.ranking.examples import build_examples
from recsys.training import learn, read_material


def test_rows_with_the_same_request_id_keep_their_own_users_history(tmp_path):
    config = settings(tmp_path)
    material = read_material(config, clicks_only(tmp_path / "lake", n_clicks=400), Progress())
    learned = learn(config, material, Progress())

    def features(exposures):
        return build_examples(
            material.catalogue, material.logs.events, exposures, learned.towers, learned.post_vectors, 50, 1
        ).features

    shown = material.logs.exposures
    same_id = replace(shown, request_id=np.zeros_like(shown.request_id))
    np.testing.assert_array_equal(features(same_id), features(shown))
