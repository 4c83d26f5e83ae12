"""`recsys releases`: list, select and verify releases."""

from __future__ import annotations

from typing import Annotated

import typer

from recsys.cli.common import ConfigOption, JsonOption, SetOption, group, print_json, say
from recsys.config import DEFAULT_PATH, load

app = group("List, select and verify releases.")


@app.command("list")
def releases_list(
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """List all releases and mark the current one."""
    settings = load(config, overrides or ())
    from recsys import release

    versions, current = release.list_releases(settings.releases_path), release.current(settings.releases_path)
    for version in versions:
        say(f"{version}{' (current)' if version == current else ''}", as_json)
    if as_json:
        print_json({"releases": versions, "current": current})


@app.command("use")
def releases_use(version: str, config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None) -> None:
    """Make another release current. Servers use it from their next start."""
    settings = load(config, overrides or ())
    from recsys import release

    release.use(settings.releases_path, version)


@app.command("verify")
def releases_verify(
    version: Annotated[str | None, typer.Argument(help="Release to check; the current one by default.")] = None,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Check every file of a release against its manifest."""
    settings = load(config, overrides or ())
    from recsys import release

    loaded = release.load(settings.releases_path, version)
    say(f"{loaded.version}: {len(loaded.manifest.files)} files match the manifest", as_json)
    if as_json:
        print_json({"release": loaded.version, "files": len(loaded.manifest.files)})
