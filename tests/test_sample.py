"""The sample world that comes with the sources is one that this version reads, and draws."""

from recsys.config import DEFAULT_PATH, load
from recsys.offline.lake.description import describe
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import SCHEMA_VERSION, TABLES
from recsys.world.world import World

ROOT = DEFAULT_PATH.parent.parent
CONFIG = load(DEFAULT_PATH.with_name("sample.yaml"), [f"data_dir={ROOT / 'data' / 'sample'}"])
AGAIN = "run `recsys simulate --config configs/sample.yaml` and commit what it writes"


def test_its_tables_are_of_this_version_and_clean():
    lake = Lake(CONFIG.lake_url)
    about = describe(lake)
    assert {table["schema_versions"][0] for table in about["tables"].values()} == {SCHEMA_VERSION}, AGAIN
    assert about["tables"].keys() == TABLES.keys() - {"ids"}
    assert all(len(lake.read(table)) == about["tables"][table]["rows"] for table in about["tables"])
    assert not lake.quarantined


def test_this_version_draws_the_same_people_and_posts():
    world = World.open(CONFIG.world_path)
    assert world.config == CONFIG.world, AGAIN
    posts = Lake(CONFIG.lake_url).read("posts")
    assert world.population.posts.texts == posts["text"].to_pylist(), AGAIN


def test_it_stays_small():
    assert sum(path.stat().st_size for path in CONFIG.data_dir.rglob("*") if path.is_file()) < 1 << 20
