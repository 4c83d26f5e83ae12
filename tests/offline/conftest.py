"""An empty lake and a short way to write rows into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def put(lake: Lake) -> Callable[..., None]:
    """`put(table, column=[...], ...)` writes one file; numbers in time columns are microseconds, `name_` is `name`."""

    def write(table: str, date: str = "2026-01-05", name: str = "part", **columns: list[Any]) -> None:
        schema = TABLES[table].schema
        columns = {column.rstrip("_"): values for column, values in columns.items()}
        rows = {column: pa.array(values, schema.field(column).type) for column, values in columns.items()}
        lake.write(table, pa.table(rows), date, name)

    return write
