"""The main commands, from simulating a world to serving feeds."""

from __future__ import annotations

import signal
import sys
import time
from typing import Annotated

import orjson
import typer

from recsys.cli.common import ConfigOption, JsonOption, SetOption, console_for, print_json, say
from recsys.config import DEFAULT_PATH, load


def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after printing the first feeds.")] = False,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Empty the data folder, then run all steps from simulation to served feeds."""
    settings = load(config, overrides or ())
    from recsys.demo import demo as run
    from recsys.evaluation.report.report import show
    from recsys.progress import Progress
    from recsys.serving.show import show_feed

    console = console_for(as_json)
    with run(settings, Progress()) as shown:
        show(shown.report, console)
        for feed in shown.feeds:
            show_feed(feed, console)
        console.print(
            f"{len(shown.feeds)} feeds after {shown.elapsed_s:.0f} s, peak memory {shown.peak_memory_mb:.0f} MB"
        )
        if as_json:
            print_json({"feeds": shown.feeds, "elapsed_s": shown.elapsed_s, "peak_memory_mb": shown.peak_memory_mb})
        if not once and sys.stdout.isatty():
            user = shown.feeds[0]["user_id"]
            console.print(f"serving at {shown.url} until Ctrl-C; try: curl '{shown.url}/v1/feed?user_id={user}'")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                console.print("stopping")


def simulate(config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Simulate a world and write its logs to the offline store."""
    settings = load(config, overrides or ())
    from recsys.memory import peak_memory
    from recsys.progress import Progress
    from recsys.steps import simulate_step

    start = time.perf_counter()
    with peak_memory() as peak:
        written = simulate_step(settings, Progress())
    elapsed = time.perf_counter() - start
    say(
        f"{written.impressions} impressions, {written.clicks} clicks in {written.requests} requests"
        f" -> {settings.lake_url} ({elapsed:.0f} s, {peak.megabytes:.0f} MB)",
        as_json,
    )
    if as_json:
        print_json(
            {"impressions": written.impressions, "clicks": written.clicks, "requests": written.requests,
             "elapsed_s": round(elapsed, 1), "peak_memory_mb": peak.megabytes}
        )  # fmt: skip


def train(config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Train a release and make it current: features, towers, index and rankers. Also load the online features."""
    settings = load(config, overrides or ())
    from recsys.memory import peak_memory
    from recsys.progress import Progress
    from recsys.training import train as run

    start = time.perf_counter()
    with peak_memory() as peak:
        made = run(settings, Progress())
    elapsed = time.perf_counter() - start
    say(f"release {made.version} in {made.path} ({elapsed:.0f} s, {peak.megabytes:.0f} MB)", as_json)
    if as_json:
        print_json(
            {"release": made.version, "path": str(made.path), "metrics": made.manifest.metrics,
             "elapsed_s": round(elapsed, 1), "peak_memory_mb": peak.megabytes}
        )  # fmt: skip


def evaluate(
    seeds: Annotated[int, typer.Option(min=1, help="Number of worlds to repeat it on.")] = 1,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Evaluate every stage against baselines and the oracle. Simulates and trains first if needed."""
    settings = load(config, overrides or ())
    from recsys.evaluation.report.report import show
    from recsys.progress import Progress
    from recsys.steps import evaluate_step

    report = evaluate_step(settings, Progress(), seeds)
    show(report, console_for(as_json))
    if as_json:
        print_json(report)


def serve(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Overrides serving.port.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Overrides serving.workers.")] = None,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None,
) -> None:  # fmt: skip
    """Serve feeds over HTTP until Ctrl-C. Also runs the stream consumer."""
    options = [f"serving.port={port}"] * (port is not None) + [f"serving.workers={workers}"] * (workers is not None)
    settings = load(config, [*(overrides or ()), *options])
    from recsys.serving.processes.server import serve as run

    run(settings, announce=lambda url: print(f"serving at {url}", file=sys.stderr, flush=True))


def consume(config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None) -> None:
    """Apply the event stream to the online store and the lake until Ctrl-C. `recsys serve` includes it."""
    settings = load(config, overrides or ())
    import threading

    from recsys.serving.processes.consuming import consume as run

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run(settings, stop)


def feed(
    user: Annotated[str, typer.Option("--user", help="User id. An unknown user gets the feed of a new user.")],
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Print one feed as a table, with the reasons for each post."""
    settings = load(config, overrides or ())
    from recsys.serving.http.wire import encode
    from recsys.serving.processes.loading import open_service
    from recsys.serving.show import show_feed

    service = open_service(settings)
    try:
        body = encode(service.feed(user, limit, ""))
    finally:
        service.close()
    feed_json = orjson.loads(body)
    show_feed(feed_json, console_for(as_json))
    if as_json:
        print_json(feed_json)


def show_config(config: ConfigOption = DEFAULT_PATH, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Print all settings with their values as JSON; on one line with --json."""
    settings = load(config, overrides or ())
    print(settings.model_dump_json(indent=None if as_json else 2))
