"""The two calls around an update: read rows at one moment, and write everything that follows from them, or nothing.

Takes keys and bytes. Rows are read together with the parts of a `Fence`: the generation, the stream position that its
rows reflect, and the version of the tombstones. The write checks the fence, and everything that could make a later
command of it fail, before it changes anything. Lua here compares, cuts and sets; it computes no counter. This module
does not know what the bytes mean.

All rows travel in one argument, because packing thousands of arguments costs more than moving their bytes. They are
written as `Patches`: a user row has kilobytes, an event changes about a hundred bytes, and Redis copies every byte it
is given once more into its append-only file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import redis

from recsys.config import OnlineConfig
from recsys.online import keys
from recsys.online.connection.commands import PendingAnswers, packet, send_packed
from recsys.online.connection.parse import invalid_value, parse_number, wrong_type
from recsys.online.rows.byte_patches import Patches

DEAD_LETTERS_KEPT = 10_000

_WRITE = """
local number, applied, version, last = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ttl, kept, letters_kept, n_sets, found = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local heads, program = ARGV[10], ARGV[11]
local first_set, first_row, first_letter = 6, 6 + n_sets, 12 + n_sets
local call, unpacked, cut = redis.call, struct.unpack, string.sub

-- 1. The fence.
if number ~= '' and call('GET', KEYS[1]) ~= number then return 0 end
if call('GET', KEYS[2]) ~= applied then return 0 end
if (call('GET', KEYS[3]) or '0') ~= version then return 0 end
-- 2. Whatever could make a later command fail: types, numbers, existence.
local function has_type(key, wanted)
  local kind = call('TYPE', key).ok
  return kind == wanted or kind == 'none', kind
end
for i = 4, first_row - 1 do
  local wanted = i == 4 and 'stream' or i == 5 and 'string' or 'zset'
  local fine, kind = has_type(KEYS[i], wanted)
  if not fine then return {KEYS[i], wanted, kind} end
end
if #ARGV > first_letter then
  local ever = call('GET', KEYS[5]) or '0'
  if ever ~= '0' and not string.match(ever, '^[1-9]%d*$') or #ever > 18 then return {KEYS[5], 'count', ever} end
  local letters = call('TYPE', KEYS[4]).ok == 'stream' and call('XINFO', 'STREAM', KEYS[4]) or {}
  for i = 1, #letters, 2 do
    if letters[i] == 'last-generated-id' and string.match(letters[i + 1], '^18446744073709551615%-') then
      return {KEYS[4], 'room', letters[i + 1]}
    end
  end
end
local function exist(first, last, wanted)
  for i = first, last, 1000 do
    local till = math.min(i + 999, last)
    if call('EXISTS', unpack(KEYS, i, till)) ~= wanted * (till - i + 1) then return false end
  end
  return true
end
if not (exist(first_row, first_row + found - 1, 1) and exist(first_row + found, #KEYS, 0)) then
  for i = first_row, #KEYS do
    local fine, kind = has_type(KEYS[i], 'string')
    if not fine then return {KEYS[i], 'string', kind} end
  end
  return 0
end

-- 3. Rows, patch by patch.
local at, texts = 1, {}
for i = first_row, #KEYS do
  local n, whole, refresh = unpacked('<I4I4I4', heads, 12 * (i - first_row) + 1)
  for j = 1, n do
    local from, written
    from, written, at = unpacked('<I4I4', program, at)
    if whole == 1 then
      call('SET', KEYS[i], cut(program, at, at + written - 1), 'PX', ttl)
    else
      local text = texts[from]
      if not text then
        text = tostring(from)
        texts[from] = text
      end
      call('SETRANGE', KEYS[i], text, cut(program, at, at + written - 1))
    end
    at = at + written
  end
  if whole == 0 and refresh == 1 then call('PEXPIRE', KEYS[i], ttl) end
end
-- 4. Trending.
for i = first_set, first_row - 1 do
  local gains = ARGV[6 + i]
  for place = 1, #gains, 16 do
    local gain = string.format('%.17g', (unpacked('<d', gains, place)))
    call('ZINCRBY', KEYS[i], gain, cut(gains, place + 8, place + 15))
  end
  call('ZREMRANGEBYRANK', KEYS[i], 0, -1 - kept)
  call('PEXPIRE', KEYS[i], ttl)
end
-- 5. Dead letters, then the position.
for i = first_letter, #ARGV, 4 do
  call('XADD', KEYS[4], 'MAXLEN', '~', letters_kept, '*',
    'id', ARGV[i], 'kind', ARGV[i + 1], 'payload', ARGV[i + 2], 'reason', ARGV[i + 3])
  call('INCR', KEYS[5])
end
call('SET', KEYS[2], last)
return 1
"""
"""KEYS: pointer, applied, the tombstones' version, dead letters, their number, trending sets, rows. Of the rows, first
those that were found, then those that were not.

ARGV: three parts of the fence, the new position, four settings and sizes, how many rows were found; heads and patches
of rows; gains of each trending set; four fields of each dead letter.

The script has two halves. The first only looks: an error after the first write would leave the writes before it in
place, and the same records would be counted again, without end. The second writes, with commands that cannot fail any
more:

- A row that was found is overwritten; it is a string, because every command that made it sets one. A new row is set
  where no key is. Row lengths need no check: every change of a row moves the position. Existence does: a row may have
  expired, and patches of nothing would make a wrong row. Found and new rows are counted apart, because one missing and
  one extra would cancel out.
- Trending sets are sorted sets, and gains are finite and not negative, so no score becomes NaN.
- Dead letters are a stream that has ids left, and their number is far below the largest.
- The position was a string a moment ago. Redis checks for memory before the first write of a script, and not again.

Two cases remain: another program that replaces a row by another type between read and write, and a Redis user who is
allowed only some of these commands.
"""

_RULES = {
    b"count": "must hold a whole number of at most 18 digits",
    b"room": "must have stream ids left for more records",
}
"""Rule by the script's word for it; any other word is the type that the key must have."""


class Fence(NamedTuple):
    """What must still be true when a write arrives."""

    generation: keys.Generation
    applied: bytes
    """Stream position that the generation's rows reflect."""
    erased_version: int
    is_current: bool
    """Whether the generation must be the one in use. False for a load: it is the only writer of its new generation."""


class Found(NamedTuple):
    """Rows read at one moment, with the parts of the fence."""

    number: bytes | None
    """Number of the generation in use."""
    applied: bytes | None
    erased_version: int
    origin: int
    rows: list[bytes | None]


class Changes(NamedTuple):
    """Everything that one batch of the stream changes in the store."""

    names: list[bytes]
    """Keys of R rows, first those that were found."""
    found: int
    """How many were found."""
    patches: Patches
    """Of the R rows."""
    trending: list[tuple[bytes, bytes]]
    """Key and gains of each trending set. Gains are pairs, one behind another: float64 score, member of eight bytes."""
    dead_letters: list[tuple[str, bytes, bytes, str]]
    """Stream id, kind, payload, reason."""


def read(client: redis.Redis, generation: keys.Generation, names: Sequence[bytes]) -> Found:
    """Read rows and the parts of the fence, in one MGET.

    A key of another type reads as None; the write checks the type of new rows and names such a key.

    Raises: DataError when a part of the fence is not a number, DependencyError when Redis fails.
    """
    return _found(generation, send_packed(client, b"MGET", *_read_words(generation, names)))


def _read_words(generation: keys.Generation, names: Sequence[bytes]) -> tuple[int, bytes]:
    fixed = (keys.CURRENT, generation.applied, keys.ERASED_VERSION, generation.origin)
    return len(fixed) + len(names), keys.packed([*fixed, *names])


def _found(generation: keys.Generation, answer: Sequence[bytes | None]) -> Found:
    pointer, applied, version, origin, *rows = answer
    return Found(
        pointer,
        applied,
        parse_number(keys.ERASED_VERSION, version or b"0"),
        parse_number(generation.origin, origin or b"0"),
        rows,
    )


class PendingWrite:
    """A write, and perhaps a read behind it, that were sent and not yet answered."""

    def __init__(self, answers: PendingAnswers, generation: keys.Generation) -> None:
        self._answers = answers
        self._generation = generation
        self.found: Found | None = None
        """Rows of the read behind the write, after `wait`; None without such a read."""

    def wait(self) -> bool:
        """Wait for Redis. True when everything was written; False when the fence did not hold and nothing was.

        Raises: DataError naming a key with an invalid value; DependencyError when Redis fails. Then only the position
        in Redis tells whether the write went through.
        """
        answer, *behind = self._answers.wait()
        self.found = _found(self._generation, behind[0]) if behind else None
        if isinstance(answer, list):
            name, wanted, found = answer
            if wanted in _RULES:
                raise invalid_value(name, _RULES[wanted], found)
            raise wrong_type(name, wanted.decode(), found.decode())
        return bool(answer)


def write(
    client: redis.Redis,
    fence: Fence,
    changes: Changes,
    last: str,
    config: OnlineConfig,
    then_read: Sequence[bytes] | None = None,
) -> PendingWrite:
    """Send changes that set the position to `last`. If the fence does not hold, nothing is written.

    Args:
        then_read: keys of rows to read right behind the write, as by `read`, in the same packet.
    Raises: DependencyError when Redis cannot be reached.
    """
    generation = fence.generation
    # 1. KEYS: five of the store, the trending sets, R rows.
    names = [
        keys.CURRENT, generation.applied, keys.ERASED_VERSION, keys.DEAD_LETTERS, keys.DEAD_LETTERS_EVER,
        *(name for name, _ in changes.trending), *changes.names,
    ]  # fmt: skip
    # 2. ARGV: nine settings, two buffers for all rows, one per trending set, four words per dead letter.
    settings = (
        generation.number if fence.is_current else "", fence.applied.decode(), fence.erased_version, last,
        int(config.ttl_s * 1000), config.trending_size, DEAD_LETTERS_KEPT, len(changes.trending), changes.found,
    )  # fmt: skip
    letters = (word if isinstance(word, bytes) else word.encode() for letter in changes.dead_letters for word in letter)
    words = [
        _WRITE.encode(), b"%d" % len(names), *names, *(str(setting).encode() for setting in settings),
        changes.patches.heads.tobytes(), changes.patches.program, *(gains for _, gains in changes.trending), *letters,
    ]  # fmt: skip
    # 3. Packed here: the client would check the type of each of thousands of words.
    packets = [packet(b"EVAL", len(words), keys.packed(words))]
    if then_read is not None:
        packets.append(packet(b"MGET", *_read_words(generation, then_read)))
    return PendingWrite(PendingAnswers(client, packets), generation)
