"""`recsys features`: the inputs of the rankers."""

from __future__ import annotations

import math
import time
from typing import Annotated

import typer
from rich.table import Table

from recsys.cli.common import ConfigOption, JsonOption, SetOption, console_for, group, print_json
from recsys.config import DEFAULT_PATH, load

app = group("The inputs of the rankers.")


@app.command("list")
def features_list(
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """List all features. The list does not depend on settings."""
    load(config, overrides or ())
    from recsys.features.spec import FEATURES

    table = Table("feature", "of", "from", "kind", "default", "transform", "meaning")
    for feature in FEATURES:
        default = "missing" if math.isnan(feature.default) else f"{feature.default:g}"
        table.add_row(
            feature.name, feature.entity, feature.source, feature.kind, default, feature.transform, feature.meaning
        )
    console_for(as_json).print(table)
    if as_json:
        rows = [feature._asdict() for feature in FEATURES]
        # JSON has no NaN: a default of "missing" becomes null.
        print_json({"features": [{name: row[name] for name in row if name != "read"} for row in rows]})


@app.command("verify")
def features_verify(
    requests: Annotated[int, typer.Option(min=1, help="Number of feeds to serve and rebuild.")] = 1000,
    logged: Annotated[
        bool, typer.Option("--logged", help="Rebuild the feeds logged last instead of starting a server.")
    ] = False,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Check for training-serving skew: compare served feature vectors with vectors rebuilt from Parquet.

    Serves feeds while posting events, rebuilds every vector as of its request, and compares every value.
    """
    settings = load(config, overrides or ())
    from recsys.evaluation.skew.verify import verify, verify_logged
    from recsys.progress import Progress

    start = time.perf_counter()
    figures = (verify_logged if logged else verify)(settings, requests, Progress())
    figures["elapsed_s"] = round(time.perf_counter() - start, 1)
    console = console_for(as_json)
    if figures["features"]:
        table = Table("feature", "mismatches", "request", "position", "served", "rebuilt")
        for name, mismatch in figures["features"].items():
            table.add_row(
                name, *(str(mismatch[key]) for key in ("mismatches", "request_id", "position", "served", "rebuilt"))
            )
        console.print(table)
    console.print(
        f"{figures['values']:,} values of {figures['requests']:,} requests: {figures['mismatches']:,} differ by more "
        f"than {figures['tolerance']:g}, the largest difference is {figures['max_relative_difference']}, "
        f"{figures['bit_equal_share']:.4%} have equal bits"
    )
    if as_json:
        print_json(figures)
    if figures["mismatches"]:
        raise typer.Exit(1)
