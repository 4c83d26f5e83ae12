"""`recsys index`: the nearest-neighbour index of the current release."""

from __future__ import annotations

from rich.table import Table

from recsys.cli.common import ConfigOption, JsonOption, SetOption, console_for, group, print_json
from recsys.config import DEFAULT_PATH, load

app = group("The nearest-neighbour index.")
_TABLE_ROWS = 12
"""Rows of the table: the cheapest trials that reach the target recall. The JSON has all trials."""


@app.command("tune")
def index_tune(config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Measure index configurations on the current release's vectors, and recommend one with the reason.

    Recall is the share of the exact best posts that a configuration finds, at the age of the index at which it finds
    least; the lower bound is two standard errors below and must reach `retrieval.index.target_recall`. `recsys train`
    uses the same rule, but with a cost model instead of measured times.
    """
    settings = load(config, overrides or ())
    from recsys.bench.retrieval.index_tuning import tune_release
    from recsys.progress import Progress

    figures = tune_release(settings, Progress())
    console = console_for(as_json)
    table = Table("configuration", "recall", "lower bound", "model ms", "p50 ms", "p99 ms", "bytes")
    columns = ("recall", "recall_lower_bound", "cost_ms", "p50_ms", "p99_ms", "bytes_per_vector")
    sufficient = [trial for trial in figures["trials"] if trial["recall_lower_bound"] >= figures["target_recall"]]
    chosen = [trial for trial in sufficient[_TABLE_ROWS:] if trial["name"] == figures["chosen"]]
    for trial in [*sufficient[:_TABLE_ROWS], *chosen]:
        cells = (f"{trial[key]:.4g}" for key in columns)
        table.add_row(trial["name"], *cells)
    console.print(table)
    console.print(
        f"{len(sufficient)} of {len(figures['trials'])} configurations reach the target recall; "
        "the table shows the cheapest by the cost model"
    )
    console.print(f"chosen: {figures['why']}")
    console.print(f"the release has: {figures['release_has']}; written to {figures['path']}")
    if as_json:
        print_json(figures)
