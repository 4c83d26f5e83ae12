"""`recsys lake`: the offline store."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from recsys.cli.common import ConfigOption, JsonOption, SetOption, console_for, group, print_json, say
from recsys.config import DEFAULT_PATH, load

app = group("The offline store.")


@app.command("describe")
def lake_describe(
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """Describe the offline store: tables, rows, dates, sizes, versions and quarantine."""
    settings = load(config, overrides or ())
    from recsys.offline.lake.description import describe
    from recsys.offline.lake.lake import Lake

    found = describe(Lake(settings.lake_url))
    console = console_for(as_json)
    state = {True: "complete", False: "incomplete", None: "not marked as complete or incomplete"}[found["complete"]]
    console.print(f"{found['url']}: {state}{'; origin: ' + found['origin'] if found['origin'] else ''}")
    if found["problem"]:
        console.print(found["problem"])
    tables = Table("table", "files", "rows", "MB", "first date", "last date", "versions", "columns")
    for name, about in found["tables"].items():
        tables.add_row(
            name, f"{about['files']:,}", f"{about['rows']:,}", f"{about['bytes'] / 1e6:,.2f}",
            about["first_date"], about["last_date"], ", ".join(about["schema_versions"]), ", ".join(about["columns"]),
        )  # fmt: skip
    console.print(tables)
    if found["quarantine"]:
        quarantine = Table("set aside because", "rows")
        for reason, rows in found["quarantine"].items():
            quarantine.add_row(reason, f"{rows:,}")
        console.print(quarantine)
    if as_json:
        print_json(found)


@app.command("compact")
def lake_compact(
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
    tables: Annotated[list[str] | None, typer.Option("--table", help="Only this table; may be repeated.")] = None,
) -> None:  # fmt: skip
    """Merge the small files of each table and date into one. Readers always see the same rows."""
    settings = load(config, overrides or ())
    from recsys.errors import DataError
    from recsys.offline.lake.compaction import compact
    from recsys.offline.lake.lake import Lake
    from recsys.progress import Progress

    lake = Lake(settings.lake_url)
    if not lake.exists():
        raise DataError(f"there is no lake at {lake.url}; name another with --set offline.url=URL")
    with Progress().stage("compact") as report:
        result = compact(lake, tables or None, progress=report)
    for name, sizes in result.items():
        say(
            f"{name}: {sizes['files_before']:,} files of {sizes['bytes_before'] / 1e6:,.2f} MB, now "
            f"{sizes['files_after']:,} of {sizes['bytes_after'] / 1e6:,.2f} MB",
            as_json,
        )
    if as_json:
        print_json({"tables": result})
