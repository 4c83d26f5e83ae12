"""Parse `--map` and `--types`: which column of a file is which field, and the file's names of event types.

Takes the text of the options, gives dictionaries. It does not open files.
"""

from __future__ import annotations

from recsys.errors import ConfigError
from recsys.offline.logs.events import ACTIONS

FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "events": (
        ("user_id", "post_id", "event_time"),
        (
            "type", "request_id", "position", "value", "ingest_time",
            "text", "topic", "author_id", "language", "created_at",
        ),
    ),
    "posts": (("post_id",), ("text", "topic", "author_id", "language", "media", "created_at")),
    "users": (("user_id",), ("language", "country", "created_at")),
    "follows": (("user_id", "author_id"), ("created_at",)),
}  # fmt: skip
"""Required and optional fields of each table."""


def parse_map(text: str, table: str) -> dict[str, str]:
    """Parse `field=column,field=column` to a dictionary from field to column.

    Raises: ConfigError when the table is unknown, or a field is unknown, repeated or required but missing.
    """
    if table not in FIELDS:
        raise ConfigError(f"--table must be one of {', '.join(FIELDS)}, got {table!r}")
    required, optional = FIELDS[table]
    columns = _pairs(text, "--map", "user_id=COLUMN,post_id=COLUMN,event_time=COLUMN")
    for name in columns:
        if name not in required and name not in optional:
            raise ConfigError(
                f"--map has no field {name!r} for {table}; the fields are {', '.join((*required, *optional))}"
            )
    missing = [name for name in required if name not in columns]
    if missing:
        raise ConfigError(f"--map needs {', '.join(missing)} for {table}; add {missing[0]}=COLUMN")
    return columns


def parse_types(text: str | None) -> dict[str, str]:
    """Parse `view=impression,purchase=click` to a dictionary from the file's types to `ACTIONS`, themselves included.

    Raises: ConfigError when the type after `=` is not in `ACTIONS`.
    """
    renamed = _pairs(text, "--types", "view=impression,purchase=click") if text else {}
    for outside, inside in renamed.items():
        if inside not in ACTIONS:
            raise ConfigError(
                f"--types {outside}={inside}: there is no type {inside!r}; it is one of {', '.join(ACTIONS)}"
            )
    return {**{name: name for name in ACTIONS}, **renamed}


def _pairs(text: str, option: str, example: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option} takes pairs such as {example}, got {part!r}")
        if name in pairs:
            raise ConfigError(f"{option} names {name} twice; keep one of {pairs[name]!r} and {value!r}")
        pairs[name] = value
    return pairs
