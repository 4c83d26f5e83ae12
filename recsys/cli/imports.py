"""`recsys import`: import external logs into the offline store."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recsys.cli.common import ConfigOption, JsonOption, SetOption, group, print_json, say
from recsys.config import DEFAULT_PATH, load

if TYPE_CHECKING:
    from recsys.offline.imports.report import ImportReport
    from recsys.offline.lake.lake import Lake
    from recsys.progress import Progress

app = group("Import external logs into the offline store.")

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder with the files.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE")]
MapOption = Annotated[
    str, typer.Option("--map", help="field=COLUMN,...; events need user_id, post_id, event_time and usually type.")
]
TypesOption = Annotated[
    str | None, typer.Option("--types", help="Rename event types, such as view=impression,purchase=click.")
]
TableOption = Annotated[str, typer.Option("--table", help="Kind of the rows: events, posts, users or follows.")]


@app.command("mind")
def import_mind(
    folder: FolderArgument,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Import the MIND data set: behaviors.tsv and news.tsv, in the folder or its subfolders."""
    from recsys.offline.imports.mind import import_mind as run

    _import(partial(run, folder), config, overrides, as_json)


@app.command("interactions")
def import_interactions(
    folder: FolderArgument,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Import train.txt and test.txt, with lines of `user item item ...`. Times and order are made up."""
    from recsys.offline.imports.plain import import_interactions as run

    _import(partial(run, folder), config, overrides, as_json)


@app.command("sequences")
def import_sequences(
    folder: FolderArgument,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Import sequences.txt, with lines of `user item item ...` in time order. Times are made up in that order."""
    from recsys.offline.imports.plain import import_sequences as run

    _import(partial(run, folder), config, overrides, as_json)


@app.command("csv")
def import_csv(
    file: FileArgument, columns: MapOption, types: TypesOption = None, table: TableOption = "events",
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Import a CSV file with a header. --map assigns its columns to fields."""
    from recsys.offline.imports.mapping import parse_map, parse_types
    from recsys.offline.imports.tables import import_csv as run

    mapped = partial(run, file, parse_map(columns, table), parse_types(types), table)
    _import(mapped, config, overrides, as_json)


@app.command("parquet")
def import_parquet(
    file: FileArgument, columns: MapOption, types: TypesOption = None, table: TableOption = "events",
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Import a Parquet file. --map assigns its columns to fields."""
    from recsys.offline.imports.mapping import parse_map, parse_types
    from recsys.offline.imports.tables import import_parquet as run

    mapped = partial(run, file, parse_map(columns, table), parse_types(types), table)
    _import(mapped, config, overrides, as_json)


def _import(
    run: Callable[[Lake, int, Progress], ImportReport], config: Path, overrides: list[str] | None, as_json: bool
) -> None:
    settings = load(config, overrides or ())
    from recsys.offline.lake.lake import Lake
    from recsys.progress import Progress

    start = time.perf_counter()
    done = run(Lake(settings.lake_url), time.time_ns() // 1000, Progress())
    counts = [f"{done.rows['impressions']} impressions", f"{done.clicks} clicks"]
    counts += [f"{number} {name.replace('_', ' ')}" for name, number in done.more.items()]
    say(
        f"{', '.join(counts)} of {done.users} users, {done.posts} posts ({done.id_only_posts} by id only)"
        f" from {', '.join(done.files)} -> {settings.lake_url} ({time.perf_counter() - start:.0f} s)",
        as_json,
    )
    if done.synthetic_times:
        say("times that the format lacks are made up: use their order, not their hour or weekday", as_json)
    for reason, number in done.quarantined.items():
        say(f"set aside: {number} x {reason}, see {settings.lake_url}/quarantine/import", as_json)
    if as_json:
        print_json(done.as_json())
