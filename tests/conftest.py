"""What all tests share. Nothing heavy is imported before a test asks for it: `make check` runs through here too."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# The tests run in two processes on two cores. An OpenMP loop of two threads would wait for a core that is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = Path(__file__).resolve().parent.parent / "configs" / "tiny.yaml"

# One thread: two of them wait for each other on a busy machine.
ONE_THREAD = "ranking.n_threads=1"

# A few seconds from nothing to a release that serves, if badly.
SMALL = (
    ONE_THREAD, "world.n_users=150", "world.n_posts=1500", "world.n_impressions=15000", "retrieval.towers.epochs=1",
    "ranking.n_trees=15", "evaluation.n_requests=20", "evaluation.n_bootstrap=20",
)  # fmt: skip

# The same examples in every run, however busy the machine.
settings.register_profile("recsys", deadline=None, derandomize=True)
settings.load_profile("recsys")


@pytest.fixture(scope="session")
def data_folder():
    """An empty folder with a short path: a socket lies below it."""
    folder = Path(tempfile.mkdtemp(prefix="recsys-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def tiny_world(data_folder):
    """A simulated and trained data folder as its `Config`; its Redis runs as long as the session."""
    from recsys.config import load
    from recsys.online.connection.client import connect
    from recsys.progress import Progress
    from recsys.steps import simulate_step
    from recsys.training import train

    config = load(TINY, [f"data_dir={data_folder / 'tiny'}", ONE_THREAD])
    with connect(config.online, config.data_dir):
        simulate_step(config, Progress())
        train(config, Progress())
        yield config


@pytest.fixture
def small(data_folder):
    """Options of the command line for a small world in an empty folder of its own."""
    folder = Path(tempfile.mkdtemp(dir=data_folder))
    return ["--config", str(TINY), *(word for setting in (f"data_dir={folder}", *SMALL) for word in ("--set", setting))]


@pytest.fixture
def small_config(small):
    from recsys.config import load

    return load(small[1], small[3::2])
