"""A feed for a person at a terminal: what, why, and how sure. Takes the wire form, prints a table."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_feed(feed: dict[str, Any], console: Console) -> None:
    """Print one feed with its reasons: sources, probability, age."""
    newest = max((_time(item) for item in feed["items"] if item["created_at"]), default=None)
    table = Table(
        "#", "P(click)", "sources", "topic", "author", "age", "text",
        title=Text(f"feed of user {feed['user_id']} ({feed['release']})"),
    )  # fmt: skip
    for item in feed["items"]:
        age = "" if newest is None or not item["created_at"] else _hours((newest - _time(item)).total_seconds())
        table.add_row(
            str(item["position"] + 1),
            f"{item['probabilities']['click']:.3f}" if "click" in item["probabilities"] else "-",
            " + ".join(item["sources"]),
            Text(item["topic"] or "?"),
            Text(item["author_id"] or "?"),
            age,
            Text(item["text"] or f"post {item['post_id']}"),  # never markup: anybody may have written it
        )
    console.print(table)
    for what in feed["degraded"]:
        console.print(f"degraded: {what}")


def _time(item: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(item["created_at"])


def _hours(seconds: float) -> str:
    return f"+{seconds / 3600:.1f} h"
