"""The two calls around an update: read rows as of one moment, and write all that follows from them or nothing.

Takes names and bytes. What was read comes with the parts of a `Fence`: the generation, the stream position that its
rows reflect and the version of the tombstones. The write checks the fence, and what could make a later part of it fail,
before it changes anything. Lua here compares, cuts and sets; it computes no counter, and it does not know what the
bytes mean.

Rows travel as one argument, not one each: packing thousands of arguments costs more than moving their bytes. They are
written as `Patches` of what is there: rows of users have kilobytes of which an event changes a hundred bytes, and Redis
copies every byte that it is given once more into its append-only file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import redis

from recsys.online import keys
from recsys.online.connection.commands import Underway, packet, send_packed
from recsys.online.connection.parse import broken, number, wrong_type
from recsys.online.rows.byte_patches import Patches

DEAD_LETTERS_KEPT = 10_000

_WRITE = """
local number, applied, version, last = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ttl, kept, letters_kept, n_sets, found = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local heads, program = ARGV[10], ARGV[11]
local first_set, first_row, first_letter = 6, 6 + n_sets, 12 + n_sets
local call, unpacked, cut = redis.call, struct.unpack, string.sub

if number ~= '' and call('GET', KEYS[1]) ~= number then return 0 end
if call('GET', KEYS[2]) ~= applied then return 0 end
if (call('GET', KEYS[3]) or '0') ~= version then return 0 end
local function holds(key, wanted)
  local kind = call('TYPE', key).ok
  return kind == wanted or kind == 'none', kind
end
for i = 4, first_row - 1 do
  local wanted = i == 4 and 'stream' or i == 5 and 'string' or 'zset'
  local fine, kind = holds(KEYS[i], wanted)
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
    local fine, kind = holds(KEYS[i], 'string')
    if not fine then return {KEYS[i], 'string', kind} end
  end
  return 0
end

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
for i = first_set, first_row - 1 do
  local gains = ARGV[6 + i]
  for place = 1, #gains, 16 do
    local gain = string.format('%.17g', (unpacked('<d', gains, place)))
    call('ZINCRBY', KEYS[i], gain, cut(gains, place + 8, place + 15))
  end
  call('ZREMRANGEBYRANK', KEYS[i], 0, -1 - kept)
  call('PEXPIRE', KEYS[i], ttl)
end
for i = first_letter, #ARGV, 4 do
  call('XADD', KEYS[4], 'MAXLEN', '~', letters_kept, '*',
    'id', ARGV[i], 'kind', ARGV[i + 1], 'payload', ARGV[i + 2], 'reason', ARGV[i + 3])
  call('INCR', KEYS[5])
end
call('SET', KEYS[2], last)
return 1
"""
"""KEYS: pointer, applied, the tombstones' version, dead letters, their number, trending sets, rows; of rows first those
that were found, then those that were not.

ARGV: what the fence must find, the new position, the settings; how many rows were found; heads and patches of rows;
gains of each trending set; four fields of each dead letter.

Everything before the rows are set only looks: an error after the first write would leave the writes before it, and the
same records would be counted again, without end. After it stand only commands that were made sure of:

- Rows are written over where one was found, as a string, and set where there is no key. That they are as long as they
  were needs no look: whoever changes one moves the position. They may have expired, though, and a patch of nothing
  would be a row. Found and not found are asked for apart, because one of each would add up.
- Trending sets are sorted sets, and what they gain is finite and not negative: no score becomes NaN.
- Dead letters are a stream that has ids left, and their number is far below the largest.
- The position was a string a moment ago. Redis asks whether it has room before the first write, and not again.

What is left: somebody else's program that puts another type in the place of a row between read and write, and a user
of Redis who may run some of these commands and not others.
"""

_RULES = {
    b"count": "must hold a whole number of at most 18 digits",
    b"room": "must have stream ids left for more records",
}
"""What a value must be, by the script's word for it; any other word is a type that the key must have."""


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


class Changes(NamedTuple):
    """Everything that one batch of the stream does to the store."""

    names: list[bytes]
    """Keys of rows, first those whose rows were found."""
    found: int
    """How many those are."""
    patches: Patches
    """Of those rows."""
    trending: list[tuple[bytes, bytes]]
    """Sorted sets and what each gains: float64 score and member of eight bytes, one after the other."""
    dead_letters: list[tuple[str, bytes, bytes, str]]
    """Stream id, kind, payload, reason."""


def read(client: redis.Redis, generation: keys.Generation, names: Sequence[bytes]) -> Found:
    """Rows and the fence's parts.

    A key of another type reads as none; the write, which looks at the type of what was none, says so.

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
        number(keys.ERASED_VERSION, version or b"0"),
        number(generation.origin, origin or b"0"),
        rows,
    )


class Writing:
    """A write under way, and the read behind it: sent, and not yet answered."""

    def __init__(self, underway: Underway, generation: keys.Generation) -> None:
        self._underway = underway
        self._generation = generation
        self.found: Found | None = None
        """What the read behind it found, once it is done; None when there was none to be read."""

    def done(self) -> bool:
        """Wait for Redis; whether everything was written, False when the fence did not hold and nothing was.

        Raises: DataError naming a key that holds what it must not, DependencyError when Redis fails: then only Redis
        knows whether it was written, and the position says so.
        """
        answer, *behind = self._underway.answers()
        self.found = _found(self._generation, behind[0]) if behind else None
        if isinstance(answer, list):
            name, wanted, found = answer
            if wanted in _RULES:
                raise broken(name, _RULES[wanted], found)
            raise wrong_type(name, wanted.decode(), found.decode())
        return bool(answer)


def write(
    client: redis.Redis,
    fence: Fence,
    changes: Changes,
    last: str,
    ttl_s: float,
    trending_size: int,
    then_read: Sequence[bytes] | None = None,
) -> Writing:
    """Send everything, to be written with the position set to `last`, or, when the fence does not hold, not at all.

    Args:
        then_read: rows to be read right behind the write, as by `read`; Redis goes on to it without being asked again.
    Raises: DependencyError when Redis cannot be reached.
    """
    generation = fence.generation
    names = [
        keys.CURRENT, generation.applied, keys.ERASED_VERSION, keys.DEAD_LETTERS, keys.DEAD_LETTERS_EVER,
        *(name for name, _ in changes.trending), *changes.names,
    ]  # fmt: skip
    settings = (
        generation.number if fence.is_current else "", fence.applied.decode(), fence.erased_version, last,
        int(ttl_s * 1000), trending_size, DEAD_LETTERS_KEPT, len(changes.trending), changes.found,
    )  # fmt: skip
    letters = (word if isinstance(word, bytes) else word.encode() for letter in changes.dead_letters for word in letter)
    words = [
        _WRITE.encode(), b"%d" % len(names), *names, *(str(setting).encode() for setting in settings),
        changes.patches.heads.tobytes(), changes.patches.program, *(gains for _, gains in changes.trending), *letters,
    ]  # fmt: skip
    # Packed here: the client would look at the type of each of thousands of words.
    packets = [packet(b"EVAL", len(words), keys.packed(words))]
    if then_read is not None:
        packets.append(packet(b"MGET", *_read_words(generation, then_read)))
    return Writing(Underway(client, packets), generation)
