"""The floor of writing logs: the same Parquet files with random numbers, written as fast as possible.

Takes a folder of Parquet files, gives the time that writing as many rows of the same schemas into as many files takes.
Random values are drawn before the clock starts and reused from file to file, so only writing counts. It does not know
tables or worlds.
"""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.offline.lake.encoding import encodings
from recsys.progress import Report

MIN_SHARE = 0.2
"""Share of the rows written at least, however long it takes."""
_POOL_ROWS = 1 << 20
"""Random rows kept per kind of file; a longer file repeats them."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class Floor:
    """Rows written, and the time."""

    elapsed_s: float
    share: float
    """Share of all rows; 1 unless the time limit ended it."""


@dataclass(frozen=True)
class _File:
    path: Path
    kind: tuple[str, ...]
    """Folder and columns; files of one kind share random rows."""
    date: str
    n_rows: int


def write_floor(source: Path, target: Path, n_threads: int, limit_s: float, report: Report) -> Floor:
    """Write the files below `source` again below `target` with random values.

    Values are uniform over the range that the column has in the largest file of its kind. Texts and truth values are
    drawn from that file's own, lists have lengths drawn from its own, nulls are as frequent. Options are the lake's.

    Args:
        n_threads: files written at a time.
        limit_s: past this, files are left out once a fifth of the rows is written: whole dates at a time as far as
            possible, in random order, so that what is written has the mixture of the whole.
        report: called with rows written and wanted.
    """
    rng = np.random.default_rng(0)
    files = [_describe(path, source) for path in sorted(source.rglob("*.parquet"))]
    pools = {}
    for kind in dict.fromkeys(file.kind for file in files):
        largest = max((file for file in files if file.kind == kind), key=lambda file: file.n_rows)
        pools[kind] = _random_rows(largest.path, rng)
    dates = sorted({file.date for file in files})
    turn = dict(zip(dates, rng.permutation(len(dates)).tolist(), strict=True))
    files.sort(key=lambda file: (turn[file.date], -file.n_rows))
    for file in files:
        (target / file.path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
    wanted = sum(file.n_rows for file in files)
    lock, done = threading.Lock(), 0
    start = time.perf_counter()

    def write(file: _File) -> None:
        nonlocal done
        if time.perf_counter() - start > limit_s and done >= MIN_SHARE * wanted:
            return
        pool = pools[file.kind]
        rows = pa.concat_tables([pool] * -(-file.n_rows // max(len(pool), 1)) or [pool]).slice(0, file.n_rows)
        pq.write_table(rows, target / file.path.relative_to(source), **encodings(rows.schema))
        with lock:
            done += file.n_rows
            report(done, wanted)

    with ThreadPoolExecutor(n_threads) as threads:
        for _ in threads.map(write, files):
            pass
    elapsed = time.perf_counter() - start
    return Floor(elapsed, done / wanted)


def _describe(path: Path, source: Path) -> _File:
    metadata, inner = pq.read_metadata(path), path.relative_to(source)
    date = _DATE.search(str(inner))
    folders = [part for part in inner.parent.parts if not _DATE.search(part)]
    return _File(path, (*folders, *pq.read_schema(path).names), date[0] if date else "", metadata.num_rows)


def _random_rows(path: Path, rng: np.random.Generator) -> pa.Table:
    with pq.ParquetFile(path) as file:
        real = pa.Table.from_batches(file.iter_batches(_POOL_ROWS), file.schema_arrow).slice(0, _POOL_ROWS)
    columns = [_random_like(column.combine_chunks(), len(real), rng) for column in real.columns]
    return pa.table(columns, schema=real.schema)


def _random_like(column: pa.Array, n: int, rng: np.random.Generator) -> pa.Array:
    """Draw `n` values of the column's type, range and share of nulls."""
    kind, present = column.type, column.drop_null()
    if not len(present):
        return pa.nulls(n, kind)
    null = rng.random(n) < column.null_count / len(column) if column.null_count else None
    if pa.types.is_list(kind):
        lengths = rng.choice(pc.list_value_length(present).to_numpy(), n)
        lengths = np.where(null, 0, lengths) if null is not None else lengths
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        elements = _random_like(present.flatten(), int(lengths.sum()), rng)
        return pa.ListArray.from_arrays(offsets, elements, type=kind, mask=None if null is None else pa.array(null))
    if pa.types.is_integer(kind) or pa.types.is_timestamp(kind):
        low, high = pc.min_max(present.cast(pa.int64())).as_py().values()
        return pa.array(rng.integers(low, high, n, endpoint=True), mask=null).cast(kind)
    if pa.types.is_floating(kind):
        low, high = pc.min_max(present).as_py().values()
        return pa.array(rng.uniform(low, high, n), mask=null).cast(kind)
    return present.take(pa.array(rng.integers(0, len(present), n), mask=null))
