"""The chapter names every setting of the world, and the measurements show each difficulty."""

from pathlib import Path

import pytest

import recsys.world
from recsys.config import PolicyConfig, WorldConfig

from .test_effects import EFFECTS

FOLDER = Path(recsys.world.__file__).parent
CHAPTER = (FOLDER / "README.md").read_text()
MEASUREMENTS = (FOLDER.parent / "bench" / "results" / "world.md").read_text()


@pytest.mark.parametrize("name", [*WorldConfig.model_fields, *PolicyConfig.model_fields])
def test_the_chapter_names_the_setting(name):
    assert f"`{name}`" in CHAPTER or f"`world.{name}`" in CHAPTER


@pytest.mark.parametrize("setting", sorted({effect.setting for effect in EFFECTS}))
def test_the_measurements_show_the_difficulty_on_and_off(setting):
    n_rows = sum(line.startswith(f"| `{setting}`") for line in MEASUREMENTS.splitlines())
    assert n_rows == sum(effect.setting == setting for effect in EFFECTS)


def test_the_chapter_can_be_read_in_one_sitting():
    assert len(CHAPTER.split()) <= 2000
