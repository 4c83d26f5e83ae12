"""The command line: thin commands that call the packages.

Every command takes `--config FILE` and `--set key.path=value`. With `--json` the last line of stdout is one JSON
object, and everything else goes to stderr. Exit codes: 0 success, 1 failure (one sentence on stderr), 2 wrong usage.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable

import typer

from recsys.cli import bench, erasing, features, flow, imports, index, lake, releases, world
from recsys.errors import ConfigError, RecsysError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A news-feed recommender in three stages.",
)
for step in (flow.demo, flow.simulate, flow.train, flow.evaluate, flow.serve, flow.consume, flow.feed):
    app.command()(step)
app.command("erase")(erasing.erase)
app.add_typer(imports.app, name="import")
app.add_typer(lake.app, name="lake")
app.add_typer(features.app, name="features")
app.add_typer(index.app, name="index")
app.add_typer(releases.app, name="releases")
app.add_typer(bench.app, name="bench")
app.add_typer(world.app, name="world")
app.command("show-config")(flow.show_config)

_INTERRUPTED = 130
"""The exit code that typer uses for Ctrl-C."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Expected errors become one sentence on stderr and an exit code."""
    # Let waiting threads sleep: on a busy machine two spinning OpenMP pools slow each other down tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    sys.exit(_run(lambda: app(arguments, standalone_mode=True)))


def _interrupt(number: int, frame: object) -> None:
    """Handle SIGTERM and a closed terminal like Ctrl-C, so that child processes and partial files are cleaned up."""
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
        print(f"error: {error}", file=sys.stderr)  # such as a full disk; the message names the file
        return 1
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        print("interrupted", file=sys.stderr)
        return 1
    return 0
