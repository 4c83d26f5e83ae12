"""The floor writes the same files with other values."""

import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys.bench.world import floor
from recsys.bench.world.floor import write_floor

TIME = pa.timestamp("us", "UTC")


def real_rows(n):
    numbers = np.arange(n)
    return pa.table(
        {
            "id": pa.array(numbers + (1 << 50)),
            "position": pa.array(numbers % 10, pa.int16()),
            "score": pa.array(numbers / n, pa.float32()),
            "time": pa.array(numbers + int(datetime(2026, 1, 5, tzinfo=UTC).timestamp() * 1e6), TIME),
            "type": pa.array(np.where(numbers % 3, "click", "hide")),
            "value": pa.array(numbers, pa.int64(), mask=numbers % 2 == 0),
            "visible": pa.array(numbers % 2 == 0),
            "candidates": pa.array([[number, number + 1] for number in range(n)], pa.list_(pa.int64())),
            "features": pa.nulls(n, pa.list_(pa.float32())),
        }
    )


@pytest.fixture
def source(tmp_path):
    for number, n in enumerate((300, 0, 700, 500)):
        folder = tmp_path / "source" / "log" / f"date=2026-01-0{number + 1}"
        folder.mkdir(parents=True)
        pq.write_table(real_rows(n), folder / "world.parquet")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "source" / "users.parquet")
    return tmp_path / "source"


def written(source, target):
    return {path.relative_to(target): pq.ParquetFile(path).read() for path in target.rglob("*.parquet")}


def test_every_file_is_written_with_its_schema_and_rows(source, tmp_path, monkeypatch):
    monkeypatch.setattr(floor, "_POOL_ROWS", 64)  # shorter than the files: the pool repeats
    steps = []
    result = write_floor(source, tmp_path / "floor", 2, 60, lambda done, total: steps.append((done, total)))
    files, reals = written(source, tmp_path / "floor"), written(source, source)
    assert files.keys() == reals.keys()
    for path, rows in files.items():
        assert (rows.schema, len(rows)) == (reals[path].schema, len(reals[path]))
    assert result.share == 1
    assert steps[-1] == (1501, 1501)


def test_values_are_random_within_the_real_range(source, tmp_path):
    write_floor(source, tmp_path / "floor", 1, 60, lambda done, total: None)
    part = "log/date=2026-01-03/world.parquet"
    real, rows = (pq.ParquetFile(folder / part).read() for folder in (source, tmp_path / "floor"))
    for name in ("id", "position", "score", "time"):
        low, high = pc.min_max(rows[name]).as_py().values()
        real_low, real_high = pc.min_max(real[name]).as_py().values()
        assert real_low <= low < high <= real_high
    assert rows["id"].to_pylist() != sorted(rows["id"].to_pylist())
    assert set(rows["type"].to_pylist()) == {"click", "hide"}


def test_nulls_and_lists_are_as_in_the_real_column(source, tmp_path):
    write_floor(source, tmp_path / "floor", 1, 60, lambda done, total: None)
    rows = pq.ParquetFile(tmp_path / "floor" / "log/date=2026-01-03/world.parquet").read()
    assert 250 < rows["value"].null_count < 450  # half of 700
    assert rows["features"].null_count == 700
    assert set(pc.list_value_length(rows["candidates"]).to_pylist()) == {2}


def test_past_the_time_limit_a_fifth_of_the_rows_is_still_written(source, tmp_path):
    result = write_floor(source, tmp_path / "floor", 1, 0.0, lambda done, total: None)
    n_rows = sum(map(len, written(source, tmp_path / "floor").values()))
    assert result.share == n_rows / 1501
    assert floor.MIN_SHARE <= result.share < 1


def test_an_interruption_leaves_the_waiting_files_unwritten(source, tmp_path):
    calls = []

    def stop(done, total):
        calls.append(done)
        if len(calls) > 1:
            time.sleep(0.5)  # the writer goes on until whoever waits for it has been told
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_floor(source, tmp_path / "floor", 1, 60, stop)
    assert len(written(source, tmp_path / "floor")) < 5
