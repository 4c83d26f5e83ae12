"""The two calls around an update: read rows as of one moment, and write all that follows from them or nothing.

Takes names and bytes. What was read comes with the parts of a `Fence`: the generation, the stream position that its
rows reflect and the version of the tombstones. The write checks the fence and everything else that could fail before it
changes anything. Lua here compares, cuts and sets; it computes no counter, and it does not know what the bytes mean.

Rows travel as one argument, not one each: packing thousands of arguments costs more than moving their bytes. Rows of
users, which have kilobytes of which an event changes a hundred bytes, are written as `Patches` of what is there: Redis
copies every byte that it is given once more into its append-only file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import redis

from recsys.online import keys
from recsys.online.commands import send, wrong_type
from recsys.online.values import number

DEAD_LETTERS_KEPT = 10_000

_WRITE = """
local number, applied, version, last = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ttl, kept, letters_kept, n_sets, n_plain = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local plain_found, users_found = ARGV[10], ARGV[11]
local runs, plain, user_heads, patches = ARGV[12], ARGV[13], ARGV[14], ARGV[15]
local first_set, first_plain = 6, 6 + n_sets
local first_user = first_plain + n_plain
local call, unpacked, cut = redis.call, struct.unpack, string.sub

if number ~= '' and call('GET', KEYS[1]) ~= number then return 0 end
if call('GET', KEYS[2]) ~= applied then return 0 end
if (call('GET', KEYS[3]) or '0') ~= version then return 0 end
local function holds(key, wanted)
  local kind = call('TYPE', key).ok
  return kind == wanted or kind == 'none', kind
end
for i = 4, first_plain - 1 do
  local wanted = i == 4 and 'stream' or i == 5 and 'string' or 'zset'
  local fine, kind = holds(KEYS[i], wanted)
  if not fine then return KEYS[i] .. ' ' .. wanted .. ' ' .. kind end
end
local function exist(first, last, wanted)
  for i = first, last, 1000 do
    local till = math.min(i + 999, last)
    if call('EXISTS', unpack(KEYS, i, till)) ~= wanted * (till - i + 1) then return false end
  end
  return true
end
local plain_new, users_new = first_plain + plain_found, first_user + users_found
if not (exist(first_plain, plain_new - 1, 1) and exist(plain_new, first_user - 1, 0)
    and exist(first_user, users_new - 1, 1) and exist(users_new, #KEYS, 0)) then
  for i = first_plain, #KEYS do
    local fine, kind = holds(KEYS[i], 'string')
    if not fine then return KEYS[i] .. ' string ' .. kind end
  end
  return 0
end

local at, key = 1, first_plain
for run = 1, #runs, 8 do
  local n, width = unpacked('<I4I4', runs, run)
  for i = key, key + n - 1 do
    call('SET', KEYS[i], cut(plain, at, at + width - 1), 'PX', ttl)
    at = at + width
  end
  key = key + n
end
at = 1
for i = first_user, #KEYS do
  local n, whole, refresh = unpacked('<I4I4I4', user_heads, 12 * (i - first_user) + 1)
  for j = 1, n do
    local from, written
    from, written, at = unpacked('<I4I4', patches, at)
    if whole == 1 then
      call('SET', KEYS[i], cut(patches, at, at + written - 1), 'PX', ttl)
    else
      call('SETRANGE', KEYS[i], from, cut(patches, at, at + written - 1))
    end
    at = at + written
  end
  if whole == 0 and refresh == 1 then call('PEXPIRE', KEYS[i], ttl) end
end
for i = first_set, first_plain - 1 do
  local gains = ARGV[10 + i]
  for place = 1, #gains, 16 do
    local gain = string.format('%.17g', (struct.unpack('<d', gains, place)))
    redis.call('ZINCRBY', KEYS[i], gain, string.sub(gains, place + 8, place + 15))
  end
  redis.call('ZREMRANGEBYRANK', KEYS[i], 0, -1 - kept)
  redis.call('PEXPIRE', KEYS[i], ttl)
end
for i = 16 + n_sets, #ARGV, 4 do
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', letters_kept, '*',
    'id', ARGV[i], 'kind', ARGV[i + 1], 'payload', ARGV[i + 2], 'reason', ARGV[i + 3])
  redis.call('INCR', KEYS[5])
end
redis.call('SET', KEYS[2], last)
return 1
"""
"""KEYS: pointer, applied, the tombstones' version, dead letters, their number, trending sets, plain rows, users' rows;
of rows first those that were found, then those that were not.

ARGV: what the fence must find, the new position, the settings; how many plain rows and users' rows were found; of plain
rows how many have which size, then their bytes; heads and patches of users' rows (`Patches`); gains of each trending
set; four fields of each dead letter. Everything before the rows are set only looks: an error after the first write
would leave the writes before it. That rows are as long as they were needs no look: whoever changes one moves the
position. They may have expired, though, and a patch of nothing would be a row; and a key that was not found may be
there and hold another type. Found and not found are asked for apart, because one of each would add up.
"""


class Fence(NamedTuple):
    """What must still hold for a write to go through."""

    generation: keys.Generation
    applied: bytes
    """Stream position that the generation's rows reflect."""
    erased_version: int
    is_current: bool
    """Whether the generation must be the one in use; a load that replays into a new one is its only writer."""


class Found(NamedTuple):
    """Rows as of one moment."""

    number: bytes | None
    """Of the generation in use."""
    applied: bytes | None
    erased_version: int
    origin: int
    rows: list[bytes | None]


class Patches(NamedTuple):
    """Rows of users as changes of what is there, U users."""

    heads: bytes
    """Per row three uint32: number of its patches, 1 where one patch is all of it, 1 where its lifetime begins anew."""
    program: bytes
    """Patches, row after row: first byte and number of bytes, two uint32, then the bytes to write there."""


class Changes(NamedTuple):
    """Everything that one batch of the stream does to the store."""

    plain_names: list[bytes]
    """First those whose rows were found."""
    plain_found: int
    """How many those are."""
    plain: list[list[bytes]]
    """Rows in the order of their names, those of one size together."""
    user_names: list[bytes]
    """First those whose rows were found."""
    users_found: int
    users: Patches
    trending: list[tuple[bytes, bytes]]
    """Sorted sets and what each gains: float64 score and member of eight bytes, one after the other."""
    dead_letters: list[tuple[str, bytes, bytes, str]]
    """Stream id, kind, payload, reason."""


def read(client: redis.Redis, generation: keys.Generation, names: Sequence[bytes]) -> Found:
    """Rows and the fence's parts.

    A key of another type reads as none; the write, which looks at the type of what was none, says so.

    Raises: DataError when a part of the fence is not a number, DependencyError when Redis fails.
    """
    fixed = (keys.CURRENT, generation.applied, keys.ERASED_VERSION, generation.origin)
    pointer, applied, version, origin, *rows = send(client, "MGET", *fixed, *names)
    return Found(
        pointer,
        applied,
        number(keys.ERASED_VERSION, version or b"0"),
        number(generation.origin, origin or b"0"),
        rows,
    )


def write(client: redis.Redis, fence: Fence, changes: Changes, last: str, ttl_s: float, trending_size: int) -> bool:
    """Write everything and set the position to `last`, or, when the fence does not hold, nothing.

    Raises: DataError naming a key that holds another type, DependencyError when Redis fails.
    """
    generation = fence.generation
    names = [
        keys.CURRENT, generation.applied, keys.ERASED_VERSION, keys.DEAD_LETTERS, keys.DEAD_LETTERS_EVER,
        *(name for name, _ in changes.trending), *changes.plain_names, *changes.user_names,
    ]  # fmt: skip
    runs = np.array([(len(rows), len(rows[0])) for rows in changes.plain if rows], "<u4").tobytes()
    answer = send(
        client, "EVAL", _WRITE, len(names), *names,
        generation.number if fence.is_current else b"", fence.applied, fence.erased_version, last,
        int(ttl_s * 1000), trending_size, DEAD_LETTERS_KEPT, len(changes.trending), len(changes.plain_names),
        changes.plain_found, changes.users_found, runs, b"".join(chain(*changes.plain)), *changes.users,
        *(gains for _, gains in changes.trending), *(word for letter in changes.dead_letters for word in letter),
    )  # fmt: skip
    if isinstance(answer, bytes):
        name, wanted, found_type = answer.rsplit(b" ", 2)
        raise wrong_type(name, wanted.decode(), found_type.decode())
    return bool(answer)
