import shutil
from pathlib import Path

import pytest

from recsys.evaluation.report.material import gather


@pytest.fixture(scope="session")
def material(tiny_world):
    return gather(tiny_world)


@pytest.fixture
def copied_world(tiny_world, tmp_path):
    """The tiny world's settings on a copy of lake, truth and releases that a test may change.

    Without what other tests streamed into the lake.
    """
    for folder in ("lake", "world", "releases"):
        streamed = shutil.ignore_patterns("stream*")
        shutil.copytree(tiny_world.data_dir / folder, Path(tmp_path) / folder, ignore=streamed)
    return tiny_world.model_copy(update={"data_dir": tmp_path})
