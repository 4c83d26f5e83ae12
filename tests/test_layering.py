"""A later stage may import an earlier one, never the reverse; what trains and serves cannot reach the world's truth.

Reads the sources without importing them, so it is fast and sees imports inside functions too.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "recsys"

LAYERS = (
    ("errors", "types", "config"),
    ("progress", "memory", "kernel_cache", "hashing", "lookup"),
    ("offline",),
    ("world",),
    ("features",),
    ("online",),
    ("retrieval",),
    ("ranking",),
    ("reranking",),
    ("release",),
    ("pipeline",),
    ("serving",),
    ("evaluation",),
    ("training",),
    ("steps",),
    ("demo",),
    ("bench",),
    ("cli",),
    ("__main__",),
)
"""Earlier first; parts of one layer may import each other."""

KNOW_THE_WORLD = {"world", "evaluation", "steps", "demo", "bench", "cli"}

LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
FOLDERS = sorted({path.parent for path in MODULES} - {PACKAGE})
PARTS = sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES})


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(source: str, folder: tuple[str, ...] = ()) -> set[str]:
    """First names below `recsys` that a source imports anywhere; `folder` is where it stands below `recsys`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[list[str]] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ["recsys", *folder][: len(folder) + 2 - node.level] if node.level else []
            base = [*above, *(node.module.split(".") if node.module else [])]
            names = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names = [[*ast.literal_eval(argument).split(".")] for argument in node.args[:1]]
        found |= {name[1] for name in names if name[0] == "recsys" and len(name) > 1}
    return found


def violations(part: str, imported: set[str]) -> list[str]:
    late = [name for name in imported if name != part and LEVEL[name] > LEVEL[part]]
    hidden = [name for name in imported if name == "world" and part not in KNOW_THE_WORLD]
    return sorted({*late, *hidden})


def test_every_part_has_a_place_in_the_order():
    assert set(PARTS) == set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_a_later_stage(path):
    imported = imported_parts(path.read_text(), path.relative_to(PACKAGE).parts[:-1])
    assert imported <= set(LEVEL), f"{path} imports unknown parts"
    wrong = violations(part_of(path), imported)
    assert not wrong, f"{part_of(path)} must not import {', '.join(wrong)} ({path})"


@pytest.mark.parametrize("path", [path for path in MODULES if path.read_text().strip()], ids=lambda p: p.stem)
def test_every_module_says_what_it_does(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} needs a docstring"


@pytest.mark.parametrize("folder", [path for path in FOLDERS if path.parent == PACKAGE], ids=lambda path: path.name)
def test_every_stage_has_its_chapter(folder):
    assert (folder / "README.md").is_file(), f"{folder} needs a README.md"


@pytest.mark.parametrize("folder", [path for path in FOLDERS if path.parent != PACKAGE], ids=lambda path: path.name)
def test_every_sub_folder_says_what_is_inside(folder):
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), f"{folder}/__init__.py needs a docstring"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import numpy\nfrom recsys.types import Rows", {"types"}),
        ("def late():\n    from recsys.world.world import World", {"world"}),
        ("from recsys import release, pipeline", {"release", "pipeline"}),
        ("import recsys.serving.http.app as app", {"serving"}),
        ("from . import metrics", {"evaluation"}),
        ("from ..world import choice", {"world"}),
        ("import importlib\nimportlib.import_module('recsys.world.behaviour.choice')", {"world"}),
    ],
)
def test_imports_are_found_wherever_they_are(source, found):
    assert imported_parts(source, ("evaluation",)) == found


def test_a_wrong_import_would_be_told():
    assert violations("ranking", {"types", "evaluation", "world", "ranking"}) == ["evaluation", "world"]
    assert violations("training", {"world", "evaluation"}) == ["world"]
    assert violations("bench", {"world", "demo"}) == []
