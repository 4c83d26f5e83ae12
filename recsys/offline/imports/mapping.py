"""`--map` and `--types`: which column of a file is which field, and what its types are called here.

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
"""Table to the fields that must be mapped and those that may be."""


def parse_map(text: str, table: str) -> dict[str, str]:
    """Field to column, from `field=column,field=column`.

    Raises: ConfigError when the table or a field does not exist, comes twice, or one that is needed is missing.
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
    """What the file calls a type to what it is here, from `view=impression,purchase=click`; each type is also itself.

    Raises: ConfigError when a type does not exist here.
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
