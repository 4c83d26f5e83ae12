"""What is in a lake, from the files' metadata alone: no row is read, nothing is set aside.

Takes a lake, gives plain numbers and words for a table or JSON. It does not know whether rows are valid.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.offline.lake import Lake
from recsys.offline.schemas import TABLES


def describe(lake: Lake) -> dict[str, Any]:
    """The tables that have files, the quarantine, and what the last writer noted.

    Returns: `url`; `complete` (None where no writer said), `origin`, `logs_end` (us); `tables`, each with `files`,
        `unreadable_files`, `rows`, `bytes`, `first_date`, `last_date`, `schema_versions`, `columns` (name to type);
        `quarantine`, reason to number of rows. Rows count before any rule is applied.
    Raises: DataError when there is no lake at this URL.
    """
    if not lake.exists():
        raise DataError(
            f"there is no lake at {lake.url}; run `recsys simulate` or `recsys import`, or name another with "
            "--set offline.url=URL"
        )
    noted = lake.unfinished() or lake.info()
    tables = {table: _describe_table(lake, table) for table in TABLES}
    return {
        "url": str(lake.url),
        "complete": noted.get("complete"),
        "origin": noted.get("origin"),
        "logs_end": noted.get("logs_end"),
        "tables": {table: about for table, about in tables.items() if about["files"]},
        "quarantine": dict(sorted(lake.quarantine_counts().items())),
    }


def _describe_table(lake: Lake, table: str) -> dict[str, Any]:
    files = lake.file_infos(table)
    dates = sorted({date for info in files for date in re.findall(r"/date=(\d{4}-\d{2}-\d{2})/", info.path)})
    rows = unreadable = 0
    versions: set[str] = set()
    columns: dict[str, str] = {}
    for info in files:
        try:
            metadata = pq.read_metadata(info.path, filesystem=lake.filesystem)
        except pa.ArrowException:
            unreadable += 1
            continue
        rows += metadata.num_rows
        version = (metadata.metadata or {}).get(b"recsys.schema")
        versions.add(version.decode() if version else "none")
        columns |= {column.name: str(column.type) for column in metadata.schema.to_arrow_schema()}
    return {
        "files": len(files),
        "unreadable_files": unreadable,
        "rows": rows,
        "bytes": sum(info.size for info in files),
        "first_date": dates[0] if dates else None,
        "last_date": dates[-1] if dates else None,
        "schema_versions": sorted(versions, key=lambda version: (len(version), version)),
        "columns": columns,
    }
