"""Describe what a lake contains, from the files' metadata alone: no row is read, nothing is quarantined.

Takes a lake, gives plain numbers and words for a table or JSON. It does not know whether rows are valid.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.lake import storage
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES


def describe(lake: Lake) -> dict[str, Any]:
    """Describe the tables that have files, the quarantine, and the facts that the last writer recorded.

    Returns: `url`; `complete` (None if no writer recorded it), `origin`, `logs_end` (us); `problem`, why the recorded
        facts cannot be used, or None; `tables`, each with `files`, `unreadable_files`, `rows`, `bytes`, `first_date`,
        `last_date`, `schema_versions`, `columns` (name to type); `quarantine`, reason to number of rows. `rows` counts
        all rows, valid or not.
    Raises: DataError when there is no lake at this URL.
    """
    if not lake.exists():
        raise DataError(
            f"there is no lake at {lake.url}; run `recsys simulate` or `recsys import`, or name another with "
            "--set offline.url=URL"
        )
    noted, problem = lake.unfinished() or {}, None
    if not noted:
        try:
            noted = lake.info()
        except DataError as error:
            problem = str(error)
    tables = {table: _describe_table(lake, table) for table in TABLES}
    return {
        "url": str(lake.url),
        **{
            name: noted[name] if isinstance(noted.get(name), kind) else None
            for name, kind in (("complete", bool), ("origin", str), ("logs_end", int))
        },
        "problem": problem,
        "tables": {table: about for table, about in tables.items() if about["files"]},
        "quarantine": dict(sorted(lake.quarantine_counts().items())),
    }


def _describe_table(lake: Lake, table: str) -> dict[str, Any]:
    def metadata_of(info: fs.FileInfo) -> pq.FileMetaData | None:
        try:
            return pq.read_metadata(info.path, filesystem=lake.filesystem)
        except (pa.ArrowException, OSError) as error:
            if storage.is_damage(error):
                return None
            raise

    files = lake.scan(table, metadata_of)
    dates = sorted({date for info, _ in files for date in re.findall(r"/date=(\d{4}-\d{2}-\d{2})/", info.path)})
    rows = 0
    versions: set[str] = set()
    columns: dict[str, str] = {}
    known = [metadata for _, metadata in files if metadata is not None]
    for metadata in known:
        rows += metadata.num_rows
        version = (metadata.metadata or {}).get(b"recsys.schema")
        versions.add(version.decode() if version else "none")
        columns |= {column.name: str(column.type) for column in metadata.schema.to_arrow_schema()}
    return {
        "files": len(files),
        "unreadable_files": len(files) - len(known),
        "rows": rows,
        "bytes": sum(info.size for info, _ in files),
        "first_date": dates[0] if dates else None,
        "last_date": dates[-1] if dates else None,
        "schema_versions": sorted(versions, key=lambda version: (len(version), version)),
        "columns": columns,
    }
