"""`recsys bench`: benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from recsys.cli.common import ConfigOption, JsonOption, SetOption, console_for, group, print_json
from recsys.config import DEFAULT_PATH, load

app = group("Benchmarks.")


def _show(figures: dict[str, Any], as_json: bool) -> None:
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    console_for(as_json).print(table)
    if as_json:
        print_json(figures)


@app.command("feed")
def bench_feed(
    requests: Annotated[int, typer.Option(min=1, help="Number of feeds to time.")] = 500,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Measure the latency of a feed, by stage and over HTTP, against a lower bound.

    The lower bound is a bare Redis read plus a bare LightGBM call.
    """
    settings = load(config, overrides or ())
    from recsys.serving.processes.children import limit_threads

    limit_threads(settings.serving.n_threads)
    from recsys.bench.feed import bench_feed as run
    from recsys.progress import Progress

    figures = run(settings, requests, Progress())
    _show(figures, as_json)


@app.command("simulate")
def bench_simulate(
    impressions: Annotated[int, typer.Option(min=1000, help="Number of impressions to write.")] = 1_000_000,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Measure the speed, memory and log size of a simulation, against the time that writing the logs alone takes."""
    settings = load(config, overrides or ())
    from recsys.bench.world.simulate import bench_simulate as run
    from recsys.progress import Progress

    figures = run(settings, impressions, Progress())
    _show(figures, as_json)


@app.command("features")
def bench_features(
    scale: Annotated[float, typer.Option(min=0.0001, help="Factor on all sizes; 1 takes minutes and 6 GB.")] = 1.0,
    peers: Annotated[
        Path, typer.Option("--peers", help="Environment with DuckDB, Polars and Feast; made by `make bench-peers`.")
    ] = Path(".venv-peers"),
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Compare point-in-time counts, online reads and the stream with DuckDB, Polars, Feast and a bare MGET."""
    settings = load(config, overrides or ())
    from recsys.bench.features.compare import bench_features as run
    from recsys.progress import Progress

    figures = run(settings.data_dir, scale, peers, Progress())
    table = Table("part", "figure", "value")
    for part, values in figures.items():
        if isinstance(values, dict):
            for name, value in values.items():
                if not isinstance(value, dict | list):
                    table.add_row(part, name, "-" if value is None else str(value))
    console_for(as_json).print(table)
    if as_json:
        print_json(figures)


@app.command("retrieval")
def bench_retrieval(
    posts: Annotated[int, typer.Option(min=1000, help="Synthetic posts for the release's post tower.")] = 1_000_000,
    k: Annotated[int, typer.Option(min=1, help="Results of a search.")] = 500,
    vectors: Annotated[
        Path | None, typer.Option("--vectors", help="Search these post vectors (a .npy file) instead.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="User vectors to search with (a .npy file); needs --vectors.")
    ] = None,
    peers: Annotated[
        Path, typer.Option("--peers", help="Environment with hnswlib, USearch and ScaNN; made by `make bench-peers`.")
    ] = Path(".venv-peers"),
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Compare recall and latency of the index with FAISS, hnswlib, USearch and ScaNN.

    Simulates a world and trains a release first if there is none. Draws the picture <data_dir>/retrieval.png.
    """
    settings = load(config, overrides or ())
    if (vectors is None) != (queries is None):
        raise typer.BadParameter(
            "--vectors and --queries must be given together: post vectors and the user vectors to search with"
        )
    from recsys.bench.retrieval.compare import bench_retrieval as run
    from recsys.progress import Progress

    files = None if vectors is None or queries is None else (vectors, queries)
    figures = run(settings, posts, k, files, peers, Progress())
    table = Table("vectors", "index", f"recall@{k}", "p50 ms", "queries/s", "bytes", "build s")
    for name, part in (("given" if files else "trained", figures), ("hard", figures["hard"])):
        for chosen in (part["chosen"], part["faiss"]):
            columns = (f"recall@{k}", "p50_ms", "qps_1_core", "bytes_per_vector", "build_s")
            table.add_row(name, chosen["name"], *(f"{chosen[key]:,}" for key in columns))
        for peer, values in part["peers"].items():
            if values:
                rate = values["qps_1_core"]
                table.add_row(name, peer, str(values[f"recall@{k}"]), str(values["p50_ms"]), f"{rate or '-'}", "", "")
    console_for(as_json).print(table)
    if as_json:
        print_json(figures)


@app.command("live")
def bench_live(
    posts: Annotated[int, typer.Option(min=1000, help="Synthetic posts in the index at the start.")] = 100_000,
    k: Annotated[int, typer.Option(min=1, help="Results of a search.")] = 500,
    swaps: Annotated[int, typer.Option(min=1, help="Number of index segments to build and swap in.")] = 100,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Add and delete posts while the index is rebuilt and swapped under traffic.

    Simulates a world and trains a release first if there is none.
    """
    settings = load(config, overrides or ())
    from recsys.bench.retrieval.live import bench_live as run
    from recsys.progress import Progress

    figures = run(settings, posts, swaps, k, Progress())
    _show(figures, as_json)
    if figures["failures"] or figures["swaps"] < swaps:
        raise typer.Exit(1)


@app.command("public")
def bench_public(
    data: Annotated[
        Path, typer.Option("--data", help="Folder with train.txt and test.txt, or with sequences.txt.")
    ],
    models: Annotated[
        str, typer.Option(help="Models to run, such as mf,two_tower; all by default.")
    ] = "",
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Evaluate models on a public data set with the metric definitions of published results."""
    settings = load(config, overrides or ())
    from recsys.bench.public.compare import bench_public as run
    from recsys.bench.public.models import MODELS
    from recsys.progress import Progress

    names = models.split(",") if models else list(MODELS)
    if unknown := [name for name in names if name not in MODELS]:
        raise typer.BadParameter(f"--models must be among {', '.join(MODELS)}, got {unknown[0]!r}")
    figures = run(data, settings.retrieval, names, Progress())
    console = console_for(as_json)
    table = Table("model", *(names := ["recall@20", "ndcg@20", "hr@10", "ndcg@10"]))
    for model, values in figures["models"].items():
        table.add_row(model, *(f"{values[name]:.4f}" for name in names))
    console.print(table)
    console.print(
        f"{figures['dataset']} ({figures['layout']}): {figures['users']} users, {figures['items']} items; "
        f"skipped lines: {figures['skipped_lines'] or 'none'}"
    )
    if as_json:
        print_json(figures)


@app.command("difficulty")
def bench_difficulty(
    sizes: Annotated[str, typer.Option(help="Impressions of each world on the learning curve, such as 1000,2000.")] = (
        "125000,250000,500000,1000000,2000000"
    ),
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Measure the AUC of the rankers and the oracle with more logs, and without each difficulty of the world. Slow."""
    settings = load(config, overrides or ())
    from recsys.bench.world.difficulty import DIFFICULTIES, costs, learning_curve
    from recsys.progress import Progress
    from recsys.ranking.rankers import RANKERS

    try:
        wanted = [int(size) for size in sizes.split(",") if size]
    except ValueError:
        raise typer.BadParameter(f"--sizes must be numbers separated by commas, got {sizes!r}") from None
    if not wanted or min(wanted) < 1000:
        raise typer.BadParameter(f"--sizes must be numbers >= 1000, got {sizes!r}")
    curve = learning_curve(settings, wanted, Progress())
    cost = costs(settings, list(DIFFICULTIES), Progress())
    console = console_for(as_json)
    table = Table("impressions", *RANKERS, "oracle")
    for point in curve:
        table.add_row(f"{point['impressions']:,}", *(f"{point[name]:.4f}" for name in (*RANKERS, "oracle")))
    console.print(table)
    table = Table("without", *RANKERS, "oracle", *(f"cost to {name}" for name in RANKERS))
    table.add_row("nothing", *(f"{cost['whole'][name]:.4f}" for name in (*RANKERS, "oracle")))
    for name, row in cost["without"].items():
        table.add_row(
            name,
            *(f"{row[key]:.4f}" for key in (*RANKERS, "oracle")),
            *(f"{row[f'{key}_cost']:+.4f}" for key in RANKERS),
        )
    console.print(table)
    if as_json:
        print_json({"learning_curve": curve, "difficulties": cost})
