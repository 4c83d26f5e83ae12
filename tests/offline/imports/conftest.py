"""Write outside files, import them and read the lake."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys.offline.imports.mapping import parse_map, parse_types
from recsys.offline.imports.mind import import_mind
from recsys.offline.imports.plain import import_interactions, import_sequences
from recsys.offline.imports.tables import import_csv, import_parquet
from recsys.offline.imports.times import parse_times
from recsys.offline.lake.lake import Lake
from recsys.progress import Progress

FOLDERS = {"mind": import_mind, "interactions": import_interactions, "sequences": import_sequences}
TABLES = {"csv": import_csv, "parquet": import_parquet}


def moment(text: str) -> int:
    """Microseconds of an ISO date or time."""
    import pyarrow as pa

    return int(parse_times(pa.array([text]))[0][0])


NOW = moment("2026-03-01")


@pytest.fixture
def bring(lake):
    """`bring(format, path)` for folders, `bring("csv", path, map, types, table)` for tables."""

    def run(kind, path, columns="", types=None, table="events", into=lake, now=NOW):
        if kind in FOLDERS:
            return FOLDERS[kind](path, into, now, Progress())
        return TABLES[kind](path, parse_map(columns, table), parse_types(types), table, into, now, Progress())

    return run


@pytest.fixture
def folder(tmp_path):
    """`folder(name=text, ...)` writes files; `__` in a name stands for a dot."""

    def write(below="source", **files):
        path = tmp_path / below
        path.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (path / name.replace("__", ".")).write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def rows(lake: Lake, table: str, *columns: str) -> list:
    """Rows as tuples in order, or values when there is one column; times are microseconds."""
    found = lake.read(table)
    values = [
        found[name].cast("int64").to_pylist() if name in ("event_time", "ingest_time", "created_at", "now")
        else found[name].to_pylist()
        for name in columns
    ]  # fmt: skip
    return sorted(zip(*values, strict=True)) if len(columns) > 1 else sorted(values[0])


def set_aside(lake: Lake) -> list[tuple]:
    """Reason, file, line and text of every rejected line, in order."""
    found = []
    for path in sorted(Path(lake.url, "quarantine", "import").rglob("*.parquet")):
        table = pq.read_table(path, partitioning=None)
        found += zip(*(table[name].to_pylist() for name in ("reason", "file", "line", "text")), strict=True)
    return sorted(found, key=lambda row: (row[1], row[2], row[0]))


def contents(lake: Lake) -> dict[str, bytes]:
    """Every file of the lake with its bytes."""
    root = Path(lake.url)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
