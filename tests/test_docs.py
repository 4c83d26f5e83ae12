"""The documents say what the code does: commands, make targets, settings and files that they name."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from recsys.cli import app
from recsys.config import Config

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CHAPTERS = sorted((ROOT / "recsys").glob("*/README.md"))
DOCUMENTS = [README, *CHAPTERS]


def commands(group=app, prefix=()):
    """Every command as its words."""
    for command in group.registered_commands:
        yield (*prefix, command.name or command.callback.__name__.replace("_", "-"))
    for below in group.registered_groups:
        yield from commands(below.typer_instance, (*prefix, below.name))


def sections(model=Config, prefix=()):
    """Every section of the settings by its dotted path."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield ".".join((*prefix, name))
            yield from sections(field.annotation, (*prefix, name))


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_is_in_the_readme(command):
    assert re.search(rf"recsys {' '.join(command)}\b", README.read_text()), (
        f"README.md lacks recsys {' '.join(command)}"
    )


@pytest.mark.parametrize("target", re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split())
def test_every_make_target_is_in_the_readme(target):
    listed = re.search(r"^Make targets: `([\w -]+)`", README.read_text(), re.M)
    by_name = re.search(rf"make {target}(?![\w-])", README.read_text())
    assert by_name or (listed and target in listed[1].split()), f"README.md lacks make {target}"


@pytest.mark.parametrize("section", list(sections()))
def test_every_section_of_the_settings_is_in_a_chapter(section):
    texts = [path.read_text() for path in CHAPTERS]
    assert any(re.search(rf"`{re.escape(section)}[.`]", text) for text in texts), f"no chapter mentions `{section}`"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_is_unfinished(path):
    found = re.findall(r"\b(?:TBD|TODO|FIXME|XXX)\b|@\w+@", path.read_text())
    assert not found, f"{path} says {found}"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.parent.name)
def test_every_file_a_chapter_names_exists(path):
    named = set(re.findall(r"`([\w/.-]+\.(?:py|yaml|md))`", path.read_text()))
    missing = [
        name for name in named if not any((base / name).exists() for base in (path.parent, ROOT, ROOT / "recsys"))
    ]
    assert not missing, f"{path} names {missing}"


def is_code(keys):
    """Whether these words name a module, or something inside one."""
    return any((ROOT / "recsys").joinpath(*keys[:n]).with_suffix(".py").exists() for n in range(2, len(keys) + 1))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.parent.name)
def test_every_setting_a_chapter_names_exists(path):
    for name in re.findall(r"`((?:[a-z_]+\.)+[a-z_]+)`", path.read_text()):
        model, *keys = (Config, *name.split("."))
        if keys[0] not in Config.model_fields or keys[-1] == "py" or is_code(keys):
            continue
        for key in keys:
            assert isinstance(model, type), f"{path}: {name} goes below a value"
            assert key in model.model_fields, f"{path}: there is no setting {name}"
            model = model.model_fields[key].annotation
