"""What the world's difficulties cost is counted against the oracle, and every difficulty can be taken away."""

import pytest

from recsys.bench.world.difficulty import DIFFICULTIES, costs, learning_curve
from recsys.config import DEFAULT_PATH, WorldConfig, load
from recsys.progress import Progress
from recsys.ranking.rankers import RANKERS

SMALL = (
    "world.n_users=300", "world.n_posts=1500", "world.n_authors=60", "world.n_impressions=20000",
    "retrieval.towers.epochs=1", "ranking.n_trees=20", "ranking.n_threads=1",
)  # fmt: skip


@pytest.fixture
def config(tmp_path):
    return load(DEFAULT_PATH.with_name("tiny.yaml"), [*SMALL, f"data_dir={tmp_path / 'data'}"])


def test_each_difficulty_is_made_of_settings_that_change_the_default_world():
    for name, settings in DIFFICULTIES.items():
        easier = WorldConfig.model_validate(WorldConfig().model_dump() | settings)
        assert all(getattr(easier, key) != getattr(WorldConfig(), key) for key in settings), name


def test_a_cost_is_what_the_distance_to_the_oracle_shrinks_by(config, tmp_path):
    figures = costs(config, ["fatigue"], Progress())
    whole, easier = figures["whole"], figures["without"]["fatigue"]
    for ranker in RANKERS:
        shrunk = (whole["oracle"] - whole[ranker]) - (easier["oracle"] - easier[ranker])
        assert easier[f"{ranker}_cost"] == pytest.approx(shrunk)
        assert 0.4 < whole[ranker] < whole["oracle"] < 1
    assert list(tmp_path.iterdir()) == [], "worlds are removed"


def test_the_curve_has_a_point_per_size(config):
    curve = learning_curve(config, [10_000, 20_000], Progress())
    assert [point["impressions"] for point in curve] == [10_000, 20_000]
    assert all(set(point) == {"impressions", "oracle", *RANKERS} for point in curve)
