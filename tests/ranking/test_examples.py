"""An example has the features its own request could have read, however imported logs number requests."""

from dataclasses import replace

import numpy as np
from outside_logs import clicks_only, settings

from recsys.progress import Progress
from recsys.ranking.examples import build_examples
from recsys.training import read_training_logs, train_models


def test_rows_with_the_same_request_id_keep_their_own_users_history(tmp_path):
    config = settings(tmp_path)
    training_logs = read_training_logs(config, clicks_only(tmp_path / "lake", n_clicks=400), Progress())
    models = train_models(config, training_logs, Progress())

    def features(exposures):
        return build_examples(
            training_logs.catalogue, training_logs.logs.events, exposures, models.towers, models.post_vectors, 50, 1
        ).features

    shown = training_logs.logs.exposures
    same_id = replace(shown, request_id=np.zeros_like(shown.request_id))
    np.testing.assert_array_equal(features(same_id), features(shown))
