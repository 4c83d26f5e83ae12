"""Shared parts of the commands: common options and the output of text and JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

# Each command imports its dependencies inside its function. `recsys serve` must set thread counts before the models'
# libraries load, and `recsys show-config` should not wait for them.

ConfigOption = Annotated[
    Path, typer.Option("--config", help="YAML file of settings.", show_default="configs/demo.yaml")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting, key.path=value; may be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line of stdout.")]


def group(help: str) -> typer.Typer:
    """A command group."""
    return typer.Typer(no_args_is_help=True, help=help)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON on stdout."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode() + "\n")


def say(text: str, as_json: bool) -> None:
    """Print text on stdout, or on stderr when stdout carries JSON."""
    print(text, file=sys.stderr if as_json else sys.stdout)


def console_for(as_json: bool) -> Console:
    """The console for tables: on stdout, or on stderr when stdout carries JSON."""
    console = Console(stderr=as_json)
    return console if console.is_terminal else Console(stderr=as_json, width=160)
