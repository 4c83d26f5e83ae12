"""The event stream: one ordered log that both stores follow, each from its own position.

Takes events and returned records, gives them back in order with their position. An event that is sent again within
`online.dedup_window_s` is recognised by its id, in the same atomic call that appends it. This module does not know who
reads, nor what is done with a record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import redis

from recsys.config import OnlineConfig
from recsys.errors import DataError
from recsys.online import keys
from recsys.online.connection.commands import send, send_packed
from recsys.online.connection.parse import parse_stream_id, wrong_type
from recsys.online.stream import retention
from recsys.online.stream.records import EVENT, RETURNED, Entry, Event, Returned, encode_event, encode_returned

_APPEND = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'stream' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' must hold the Redis type stream, found ' .. kind)
end
local added = 0
for i = 2, #KEYS do
  if redis.call('SET', KEYS[i], '', 'NX', 'EX', ARGV[1]) then
    local answer = redis.pcall('XADD', KEYS[1], '*', ARGV[2 * i - 2], ARGV[2 * i - 1])
    if type(answer) == 'table' then
      redis.call('DEL', KEYS[i])
      return answer
    end
    added = added + 1
  end
end
return added
"""
"""KEYS: the stream, then one mark per record. ARGV: the window in seconds, then kind and payload of each record.

The type is checked first, and the mark of a refused record is removed: with a mark but no record, the record would look
like a repeat when it is sent again."""


class EventStream(Protocol):
    """An ordered, durable log.

    A position is a string of two numbers with a dash between them; `position` gives the order; the empty string is
    before everything. The lake stores a position as one number (`offline.logs.stream_position`).
    """

    def append(self, events: Sequence[Event]) -> int:
        """Append events that were not seen before; gives how many were new."""

    def append_returned(self, record: Returned) -> None:
        """Append the answer to a request, once per request."""

    def read(self, after_id: str, count: int, block_ms: int = 0) -> list[Entry]:
        """The next records after a position, at most `count`; waits up to `block_ms` when there is none."""

    def last_id(self) -> str:
        """Position of the last record ever appended, even if it was removed; empty when there never was one."""

    def waited_s(self, after_id: str) -> float:
        """Seconds that the oldest record after a position has waited, 0 when there is none."""

    def remove(self, ids: Sequence[str]) -> int:
        """Remove single records; all others keep their positions. Gives how many were there."""

    def trim(self, before_id: str, keep_s: float) -> int:
        """Drop records before a position that are older than `keep_s` and not held; gives how many."""

    def trimmed(self) -> str:
        """Records before this position may have been dropped; empty when none were."""

    def hold(self, after_id: str) -> AbstractContextManager[Callable[[], None]]:
        """Keep all records after a position while the block runs. The hold of a dead process expires.

        Gives a function that raises DataError when the hold was lost meanwhile.
        Raises: DataError when some records were dropped already.
        """

    def is_held(self) -> bool:
        """Whether any hold is active."""


def position(entry_id: str) -> tuple[int, int]:
    """A stream id as two numbers that compare in stream order."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds or 0), int(sequence or 0)


class RedisStream:
    """A Redis stream. With AOF `everysec` it survives killed processes; a power cut may lose the last second."""

    def __init__(self, client: redis.Redis, config: OnlineConfig) -> None:
        self.client = client
        self.config = config

    def append(self, events: Sequence[Event]) -> int:
        """Raises: RequestError for an event out of range, DataError when the stream's key holds another type (none is
        appended then), DependencyError when Redis fails.
        """
        if not events:
            return 0
        payloads = [encode_event(event) for event in events]
        marks = [keys.seen_event(event.event_id) for event in events]
        return self._append(self._append_command(marks, EVENT, payloads))

    def append_returned(self, record: Returned) -> None:
        self._append(self.returned_command(record))

    def returned_command(self, record: Returned) -> list[Any]:
        """The command of `append_returned`, for a caller that sends it in one transaction with others."""
        return self._append_command([keys.seen_request(record.request_id)], RETURNED, [encode_returned(record)])

    def read(self, after_id: str, count: int, block_ms: int = 0) -> list[Entry]:
        after = after_id or "0-0"
        found = self._range(after, count)
        if not found and block_ms > 0:
            # XREAD only waits; XRANGE reads, here and everywhere.
            send(self.client, "XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", keys.STREAM, after)
            found = self._range(after, count)
        return [_entry(entry_id, fields) for entry_id, fields in found]

    def _range(self, after: str, count: int) -> list[Any]:
        # Raw answer: the client's dictionary per record would double the cost of reading a record.
        words = keys.packed([keys.STREAM, b"(" + after.encode(), b"+", b"COUNT", b"%d" % count])
        try:
            return list(send_packed(self.client, b"XRANGE", 5, words))
        except DataError as error:
            raise self._named(error) from None

    def last_id(self) -> str:
        if not send(self.client, "EXISTS", keys.STREAM):
            return ""
        answer = send(self.client, "XINFO", "STREAM", keys.STREAM)
        return str(answer[b"last-generated-id"].decode())

    def waited_s(self, after_id: str) -> float:
        found = self._range(after_id or "0-0", 1)
        if not found:
            return 0.0
        return max(0.0, self._now_s() - position(found[0][0].decode())[0] / 1000)

    def remove(self, ids: Sequence[str]) -> int:
        return int(send(self.client, "XDEL", keys.STREAM, *ids)) if ids else 0

    def trim(self, before_id: str, keep_s: float) -> int:
        aged = f"{max(int((self._now_s() - keep_s) * 1000), 0)}-0"
        last = min(aged, before_id, key=position)
        return retention.trim(self.client, last) if position(last) > (0, 0) else 0

    def trimmed(self) -> str:
        found = send(self.client, "GET", keys.TRIMMED)
        return "" if found is None else parse_stream_id(keys.TRIMMED, found)

    def hold(self, after_id: str) -> AbstractContextManager[Callable[[], None]]:
        return retention.hold(self.client, after_id)

    def is_held(self) -> bool:
        return retention.is_held(self.client)

    def _now_s(self) -> float:
        """Seconds on the clock of Redis, which ids are made of."""
        seconds, microseconds = map(int, send(self.client, "TIME"))
        return seconds + microseconds / 1e6

    def _append(self, command: list[Any]) -> int:
        try:
            return int(send(self.client, *command))
        except DataError as error:
            raise self._named(error) from None

    def _named(self, error: DataError) -> DataError:
        """Name the stream's key if it has the wrong type; errors of scripts and packed commands name no key."""
        found = send(self.client, "TYPE", keys.STREAM).decode()
        return error if found in ("stream", "none") else wrong_type(keys.STREAM, "stream", found)

    def _append_command(self, marks: list[bytes], kind: bytes, payloads: list[bytes]) -> list[Any]:
        # EVAL with the text: EVALSHA would save 300 bytes and add a way to fail.
        arguments: list[bytes | int] = [self.config.dedup_window_s]
        for payload in payloads:
            arguments += (kind, payload)
        return ["EVAL", _APPEND, 1 + len(marks), keys.STREAM, *marks, *arguments]


def _entry(entry_id: bytes, fields: list[bytes]) -> Entry:
    """A record of exactly one field and its value. Anything else gets the unknown kind `?`."""
    if len(fields) != 2:
        return Entry(entry_id.decode(), b"?", repr(fields)[:1000].encode())
    return Entry(entry_id.decode(), fields[0], fields[1])
