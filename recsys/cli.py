"""The command line: thin commands over the packages.

Every command takes `--config FILE` and `--set key.path=value`. With `--json` the last line of stdout is one JSON
object; everything else goes to stderr. Exit codes: 0 done, 1 the work failed (one sentence on stderr), 2 wrong usage.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from recsys.config import DEFAULT_PATH, load
from recsys.errors import ConfigError, RecsysError

# Commands import what they need themselves: `recsys serve` must set thread counts before the models' libraries load,
# and `recsys show-config` should not wait for them.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A news-feed recommender in three stages.",
)
features_app = typer.Typer(no_args_is_help=True, help="What rankers see.")
releases_app = typer.Typer(no_args_is_help=True, help="The atomic bundles that serve.")
bench_app = typer.Typer(no_args_is_help=True, help="Benchmarks.")
app.add_typer(features_app, name="features")
app.add_typer(releases_app, name="releases")
app.add_typer(bench_app, name="bench")

_INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

ConfigOption = Annotated[
    Path, typer.Option("--config", help="YAML file of settings.", show_default="configs/demo.yaml")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override, key.path=value; may be repeated.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line of stdout.")]


def _print_json(value: Any) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode() + "\n")


def _say(text: str, as_json: bool) -> None:
    print(text, file=sys.stderr if as_json else sys.stdout)


def _console(as_json: bool) -> Console:
    """Where tables go: stdout for a person, stderr when stdout carries JSON."""
    console = Console(stderr=as_json)
    return console if console.is_terminal else Console(stderr=as_json, width=160)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the first feeds.")] = False,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """All of it, from nothing, in an emptied data folder, to served feeds."""
    settings = load(config, overrides or ())
    from recsys.demo import demo as run
    from recsys.evaluation.report import show
    from recsys.progress import Progress
    from recsys.serving.show import show_feed

    console = _console(as_json)
    with run(settings, Progress()) as shown:
        show(shown.report, console)
        for feed in shown.feeds:
            show_feed(feed, console)
        console.print(
            f"{len(shown.feeds)} feeds after {shown.elapsed_s:.0f} s, peak memory {shown.peak_memory_mb:.0f} MB"
        )
        if as_json:
            _print_json({"feeds": shown.feeds, "elapsed_s": shown.elapsed_s, "peak_memory_mb": shown.peak_memory_mb})
        if not once and sys.stdout.isatty():
            user = shown.feeds[0]["user_id"]
            console.print(f"serving at {shown.url} until Ctrl-C; try: curl '{shown.url}/v1/feed?user_id={user}'")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                console.print("stopping")


@app.command()
def simulate(config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """The world writes its logs into the offline store."""
    settings = load(config, overrides or ())
    from recsys.memory import peak_memory
    from recsys.progress import Progress
    from recsys.steps import simulate_step

    start = time.perf_counter()
    with peak_memory() as peak:
        written = simulate_step(settings, Progress())
    elapsed = time.perf_counter() - start
    _say(
        f"{written.impressions} impressions, {written.clicks} clicks in {written.requests} requests"
        f" -> {settings.lake_url} ({elapsed:.0f} s, {peak.megabytes:.0f} MB)",
        as_json,
    )
    if as_json:
        _print_json(
            {"impressions": written.impressions, "clicks": written.clicks, "requests": written.requests,
             "elapsed_s": round(elapsed, 1), "peak_memory_mb": peak.megabytes}
        )  # fmt: skip


@app.command()
def train(config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Features, towers, index, rankers -> a release, then current; loads the online features."""
    settings = load(config, overrides or ())
    from recsys.memory import peak_memory
    from recsys.progress import Progress
    from recsys.training import train as run

    start = time.perf_counter()
    with peak_memory() as peak:
        made = run(settings, Progress())
    elapsed = time.perf_counter() - start
    _say(f"release {made.version} in {made.path} ({elapsed:.0f} s, {peak.megabytes:.0f} MB)", as_json)
    if as_json:
        _print_json(
            {"release": made.version, "path": str(made.path), "metrics": made.manifest.metrics,
             "elapsed_s": round(elapsed, 1), "peak_memory_mb": peak.megabytes}
        )  # fmt: skip


@app.command()
def evaluate(
    seeds: Annotated[int, typer.Option(min=1, help="Repeat on this many worlds.")] = 1,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """The report per stage against baselines and the oracle; simulates and trains first where that was not done."""
    settings = load(config, overrides or ())
    from recsys.evaluation.report import show
    from recsys.progress import Progress
    from recsys.steps import evaluate_step

    report = evaluate_step(settings, Progress(), seeds)
    show(report, _console(as_json))
    if as_json:
        _print_json(report)


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Instead of serving.port.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Instead of serving.workers.")] = None,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None,
) -> None:  # fmt: skip
    """Answer feeds over HTTP until Ctrl-C; the stream's consumer runs beside it."""
    more = [f"serving.port={port}"] * (port is not None) + [f"serving.workers={workers}"] * (workers is not None)
    settings = load(config, [*(overrides or ()), *more])
    from recsys.serving.server import serve as run

    run(settings, announce=lambda url: print(f"serving at {url}", file=sys.stderr, flush=True))


@app.command()
def consume(config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None) -> None:
    """Apply the event stream to the online store and the lake until Ctrl-C. `recsys serve` does it by itself."""
    settings = load(config, overrides or ())
    import threading

    from recsys.serving.consuming import consume as run

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run(settings, stop)


@app.command()
def feed(
    user: Annotated[str, typer.Option("--user", help="User id; an unknown one gets a newcomer's feed.")],
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """One feed, readable, with reasons."""
    settings = load(config, overrides or ())
    from recsys.serving.loading import open_service
    from recsys.serving.show import show_feed
    from recsys.serving.wire import encode

    service = open_service(settings)
    try:
        body = encode(service.feed(user, limit, ""))
    finally:
        service.close()
    answer = orjson.loads(body)
    show_feed(answer, _console(as_json))
    if as_json:
        _print_json(answer)


@features_app.command("list")
def features_list(
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """The table of features. No setting changes it."""
    load(config, overrides or ())
    from recsys.features.spec import FEATURES

    table = Table("feature", "of", "kind", "default", "transform", "meaning")
    for feature in FEATURES:
        table.add_row(
            feature.name, feature.entity, feature.kind, f"{feature.default:g}", feature.transform, feature.meaning
        )
    _console(as_json).print(table)
    if as_json:
        _print_json({"features": [feature._asdict() for feature in FEATURES]})


@releases_app.command("list")
def releases_list(
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """All releases; the current one is marked."""
    settings = load(config, overrides or ())
    from recsys import release

    versions, current = release.list_releases(settings.releases_path), release.current(settings.releases_path)
    for version in versions:
        _say(f"{version}{' (current)' if version == current else ''}", as_json)
    if as_json:
        _print_json({"releases": versions, "current": current})


@releases_app.command("use")
def releases_use(version: str, config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None) -> None:
    """Serve another release from the next start on."""
    settings = load(config, overrides or ())
    from recsys import release

    release.use(settings.releases_path, version)


@releases_app.command("verify")
def releases_verify(
    version: Annotated[str | None, typer.Argument(help="The current one when left out.")] = None,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Check every file of a release against its manifest."""
    settings = load(config, overrides or ())
    from recsys import release

    loaded = release.load(settings.releases_path, version)
    _say(f"{loaded.version}: {len(loaded.manifest.files)} files are as the manifest says", as_json)
    if as_json:
        _print_json({"release": loaded.version, "files": len(loaded.manifest.files)})


@bench_app.command("feed")
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
    _console(as_json).print(table)
    if as_json:
        _print_json(figures)


@app.command("show-config")
def show_config(config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Every setting with its value, as JSON; on one line with --json."""
    settings = load(config, overrides or ())
    print(settings.model_dump_json(indent=None if as_json else 2))


def main(arguments: list[str] | None = None) -> None:
    """Entry point: errors that a user can do something about become one sentence and an exit code."""
    # Threads that wait should sleep: on a busy machine two spinning OpenMP pools slow each other down tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    sys.exit(_run(lambda: app(arguments, standalone_mode=True)))


def _end(number: int, frame: object) -> None:
    """SIGTERM and a closed terminal end the program as Ctrl-C does: nothing started or half-written stays."""
    raise KeyboardInterrupt


def _run(command: Callable[[], None]) -> int:
    try:
        command()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)  # no space left, no permission: says what and where
        return 1
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        print("interrupted", file=sys.stderr)
        return 1
    return 0
