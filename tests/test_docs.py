"""The documents say what the code does: generated pages are current, and what the written ones name exists."""

import re
from pathlib import Path

import make_docs
import pytest
import typer
from pydantic import BaseModel

from recsys.cli import app
from recsys.config import Config

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CHAPTERS = sorted((ROOT / "recsys").rglob("README.md"))
RESULTS = sorted((ROOT / "recsys" / "bench" / "results").glob("*.md"))
COMMANDS, SETTINGS, PICTURE = (ROOT / "docs" / name for name in ("commands.md", "settings.md", "request.svg"))
DOCUMENTS = [README, ROOT / "data" / "README.md", COMMANDS, SETTINGS, *CHAPTERS, *RESULTS]

MOST_WORDS = {"recsys/world/README.md": 2000}
"""Words a chapter may have; 1,200 where nothing else is said."""

OF_NO_COMMAND = {"--help"}
"""Options that typer adds to every command."""


def place(path):
    """Where a document is, from the root."""
    return path.relative_to(ROOT).as_posix()


def commands(group=app, prefix=()):
    """Every command as its words."""
    for command in group.registered_commands:
        yield (*prefix, command.name or command.callback.__name__.replace("_", "-"))
    for below in group.registered_groups:
        yield from commands(below.typer_instance, (*prefix, below.name))


def options(words):
    """Options of a command, as `--json`."""
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    return {name for parameter in command.params for name in parameter.opts} | OF_NO_COMMAND


def sections(model=Config, prefix=()):
    """Every section of the settings by its dotted path."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield ".".join((*prefix, name))
            yield from sections(field.annotation, (*prefix, name))


def settings(model=Config, prefix=()):
    """Every setting by its dotted path."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, (*prefix, name))
        else:
            yield ".".join((*prefix, name))


def make_targets():
    return re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()


# Generated pages


@pytest.mark.parametrize("path", make_docs.documents(), ids=place)
def test_every_generated_document_is_current(path):
    current = path.exists() and path.read_text() == make_docs.documents()[path]
    assert current, f"{place(path)} is not what the code says: run `make docs` and commit it"


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_is_in_the_list_of_commands(command):
    name = " ".join(command)
    section = re.search(rf"^## recsys {name}\n(.*?)(?=^## |\Z)", COMMANDS.read_text(), re.M | re.S)
    assert section, f"docs/commands.md lacks recsys {name}"
    missing = [each for each in options(command) - OF_NO_COMMAND if each.startswith("-") and each not in section[1]]
    assert not missing, f"docs/commands.md lacks {missing} of recsys {name}"


@pytest.mark.parametrize("setting", list(settings()))
def test_every_setting_is_in_the_list_of_settings(setting):
    assert f"\n| `{setting}` |" in SETTINGS.read_text(), f"docs/settings.md lacks {setting}"


@pytest.mark.parametrize("target", make_targets())
def test_every_make_target_is_in_the_list_of_commands(target):
    assert f"\n| `make {target}` |" in COMMANDS.read_text(), f"docs/commands.md lacks make {target}"


# Written pages


def test_the_readme_has_at_most_150_lines_that_fit_a_screen():
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    wide = [line for line in lines if line.startswith("    ") and len(line.strip()) > 100]
    assert not wide, f"README.md shows lines of more than 100 columns: {wide}"


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_has_the_two_commands(command):
    assert re.search(rf"^    {command}\b", README.read_text(), re.M)


@pytest.mark.parametrize("path", CHAPTERS, ids=place)
def test_every_chapter_is_short_enough_for_one_sitting(path):
    words, most = len(path.read_text().split()), MOST_WORDS.get(place(path), 1200)
    assert words <= most, f"{place(path)} has {words} words, more than {most}: move tables to recsys/bench/results/"


@pytest.mark.parametrize("section", list(sections()))
def test_every_section_of_the_settings_is_in_a_chapter(section):
    texts = [path.read_text() for path in CHAPTERS]
    assert any(re.search(rf"`{re.escape(section)}[.`]", text) for text in texts), f"no chapter mentions `{section}`"


@pytest.mark.parametrize("path", DOCUMENTS, ids=place)
def test_no_document_is_unfinished(path):
    found = re.findall(r"\b(?:TBD|TODO|FIXME|XXX)\b|@\w+@", path.read_text())
    assert not found, f"{place(path)} says {found}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=place)
def test_every_file_a_document_names_exists(path):
    named = set(re.findall(r"`([\w/.-]+\.(?:py|yaml|md))`", path.read_text()))
    missing = [
        name for name in named if not any((base / name).exists() for base in (path.parent, ROOT, ROOT / "recsys"))
    ]
    assert not missing, f"{place(path)} names {missing}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=place)
def test_every_link_of_a_document_leads_somewhere(path):
    targets = [
        target.split("#")[0]
        for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", path.read_text())
        for target in target
        if target
    ]
    missing = [name for name in targets if "://" not in name and not (path.parent / name).exists()]
    assert not missing, f"{place(path)} links to {missing}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=place)
def test_every_command_a_document_names_exists(path):
    known = set(commands())
    for line in re.findall(r"(?:`|^    (?:\$ )?|\.venv/bin/)recsys ([a-z][^`\n#]*)", path.read_text(), re.M):
        words = tuple(re.findall(r"(?:^| )([a-z-]+)(?= |$)", re.split(r" -| [A-Z]", line)[0]))
        exact = [words[:n] for n in (2, 1) if words[:n] in known]
        below = any(command[:1] == words[:1] and len(command) > 1 for command in known)
        assert exact or (below and len(words) == 1), f"{place(path)}: there is no command recsys {line}"
        if exact:
            unknown = set(re.findall(r"(?<= )--[a-z-]+", line)) - options(exact[0])
            assert not unknown, f"{place(path)}: recsys {' '.join(exact[0])} has no {unknown}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=place)
def test_every_make_target_a_document_names_exists(path):
    named = set(re.findall(r"(?:`|^    )make ([\w-]+)", path.read_text(), re.M))
    assert named <= set(make_targets()), f"{place(path)} names make {named - set(make_targets())}"


def is_code(keys):
    """Whether these words name a module, or something inside one."""
    return any((ROOT / "recsys").joinpath(*keys[:n]).with_suffix(".py").exists() for n in range(2, len(keys) + 1))


@pytest.mark.parametrize("path", DOCUMENTS, ids=place)
def test_every_setting_a_document_names_exists(path):
    for name in re.findall(r"`((?:[a-z_]+\.)+[a-z_]+)`", path.read_text()):
        model, *keys = (Config, *name.split("."))
        if keys[0] not in Config.model_fields or keys[-1] == "py" or is_code(keys):
            continue
        for key in keys:
            assert isinstance(model, type), f"{place(path)}: {name} goes below a value"
            assert key in model.model_fields, f"{place(path)}: there is no setting {name}"
            model = model.model_fields[key].annotation


# The picture and the tree


def test_every_box_of_the_picture_is_linked_below_it_in_the_same_order():
    below = README.read_text().split("request.svg", 1)[1].split("\n## ", 1)[0]
    boxes = [target.removeprefix("../") for target in re.findall(r'href="([^"]+)"', PICTURE.read_text())]
    assert re.findall(r"\]\(([^)]+)\)", below) == boxes
    assert all((ROOT / target).exists() for target in boxes)


def test_every_name_in_the_readme_tree_exists():
    tree = re.search(r"^    recsys/\n(?:    .+\n)+", README.read_text(), re.M)[0]
    names = set(re.findall(r"(?<=\s)(\w+)/(?=\s)|(?<=\s)(\w+\.py)(?=\s)", tree))
    names = {name for pair in names for name in pair if name}
    kept = {path.name for path in (ROOT / "recsys").rglob("*")} | {path.name for path in ROOT.iterdir()}
    assert len(names) > 30
    assert names <= kept | {"end_to_end"}, f"README.md's tree names {names - kept}"


def test_every_folder_of_the_package_is_in_the_readme_tree():
    tree = re.search(r"^    recsys/\n(?:    .+\n)+", README.read_text(), re.M)[0]
    folders = {path.parent.name for path in (ROOT / "recsys").glob("*/__init__.py")}
    missing = {name for name in folders if f" {name}/ " not in tree}
    assert not missing, f"README.md's tree lacks {missing}"
