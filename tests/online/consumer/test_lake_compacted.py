"""Stream files may be merged at any moment: a batch that a killed writer repeats replaces its first files."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from recsys.config import OnlineConfig
from recsys.offline.lake.compaction import compact
from recsys.offline.lake.lake import Lake
from recsys.online.consumer.to_lake import LakeSink
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import Event


@pytest.mark.parametrize("writes", range(9))
def test_files_merged_while_a_batch_is_half_written_hold_each_record_once(
    client: redis.Redis,
    config: OnlineConfig,
    random_log: Callable[[int, int], list[Event]],
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    stream, events = RedisStream(client, config), random_log(0, 200)
    stream.append(events)
    first = LakeSink(client, stream, lake, batch_records=25)
    first.step()
    write, written = lake.write, []

    def dying(*arguments: object) -> None:
        if len(written) == writes:
            raise KeyboardInterrupt
        written.append(None)
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(lake, "write", dying)
        try:
            first.step()
        except KeyboardInterrupt:
            assert len(written) == writes
    compact(lake)
    sink = LakeSink(client, stream, lake, batch_records=25)
    while sink.step():
        compact(lake)
    tables = [lake.read(table, ["event_id"])["event_id"] for table in ("impressions", "actions")]
    found = [event_id for column in tables for event_id in column.to_pylist()]
    assert sorted(found) == [event.event_id for event in events]
    assert any(path.endswith(".merged.parquet") for path in lake.files("impressions"))
