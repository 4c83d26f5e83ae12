"""The chapter names every setting of the world."""

from pathlib import Path

import pytest

import recsys.world
from recsys.config import PolicyConfig, WorldConfig

CHAPTER = (Path(recsys.world.__file__).parent / "README.md").read_text()


@pytest.mark.parametrize("name", [*WorldConfig.model_fields, *PolicyConfig.model_fields])
def test_the_chapter_names_the_setting(name):
    assert f"`{name}`" in CHAPTER or f"`world.{name}`" in CHAPTER
