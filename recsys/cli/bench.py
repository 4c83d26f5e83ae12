"""`recsys bench`: benchmarks."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from recsys.cli.common import ConfigOption, JsonOption, SetOption, console_for, group, print_json
from recsys.config import DEFAULT_PATH, load

app = group("Benchmarks.")


@app.command("feed")
def bench_feed(
    requests: Annotated[int, typer.Option(min=1, help="Feeds to time.")] = 500,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Milliseconds per feed, by stage and over HTTP, beside the floor."""
    settings = load(config, overrides or ())
    from recsys.serving.processes import limit_threads

    limit_threads(settings.serving.n_threads)
    from recsys.bench.feed import bench_feed as run
    from recsys.progress import Progress

    figures = run(settings, requests, Progress())
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:g}")
    console_for(as_json).print(table)
    if as_json:
        print_json(figures)
