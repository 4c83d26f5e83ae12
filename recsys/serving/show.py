"""Print a feed as a table in the terminal. Takes the JSON form of a feed (`http.wire.Feed`)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_feed(feed: dict[str, Any], console: Console) -> None:
    """Print one feed: for each post its click probability, sources, topic, author, age and text."""
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
            Text(
                item["text"] or f"post {item['post_id']}"
            ),  # as Text, so that user-written content is not read as markup
        )
    console.print(table)
    for reason in feed["degraded"]:
        console.print(f"degraded: {reason}")


def _time(item: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(item["created_at"])


def _hours(seconds: float) -> str:
    return f"+{seconds / 3600:.1f} h"
