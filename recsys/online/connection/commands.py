"""Commands to Redis whose failure is ours to explain.

Takes a client and plain command words, gives Redis's answer. Every failure becomes one sentence that tells the causes
apart: nobody there, too slow, full, read-only, not able to save, still loading, a key that holds another thing. It does
not know what the commands are for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import AuthorizationError, NoPermissionError, OutOfMemoryError
from redis.retry import Retry

from recsys.errors import DataError, DependencyError
from recsys.online import keys
from recsys.online.connection.parse import wrong_type

_READ = """
local answers, at = {}, 1
for i = 1, #KEYS do
  local last = at + tonumber(ARGV[at])
  answers[i] = redis.pcall(ARGV[at + 1], KEYS[i], unpack(ARGV, at + 2, last))
  at = last + 1
end
return answers
"""
"""KEYS: one per command. ARGV: per command the number of its other words, its name, what follows its key."""


def send(client: redis.Redis, *command: Any) -> Any:
    """One command, one round trip.

    Raises: DependencyError when Redis does not answer or refuses, DataError when the key holds another type.
    """
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]
    except redis.RedisError as error:
        raise _failure(client, command, error) from error


def send_together(client: redis.Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Several commands, all or nothing, in one round trip. Raises: as `send`."""
    try:
        answers = _transaction(client, commands)
    except redis.RedisError as error:
        raise no_answer(error) from error
    _raise_first(client, commands, answers)
    return answers


def read_together(client: redis.Redis, commands: Sequence[tuple[bytes, bytes, *tuple[bytes | int, ...]]]) -> list[Any]:
    """Several reading commands as of one moment, each its name, its key and what follows. Raises: as `send`.

    A transaction, as long as Redis has room: a full one refuses to queue any command, reading ones included. Then a
    script, which costs a fifth of a millisecond more.
    """
    try:
        answers = _transaction(client, commands)
    except OutOfMemoryError:
        arguments: list[bytes | int] = []
        for name, _, *rest in commands:
            arguments += (1 + len(rest), name, *rest)
        answers = send(client, "EVAL", _READ, len(commands), *(command[1] for command in commands), *arguments)
    except redis.RedisError as error:
        raise no_answer(error) from error
    _raise_first(client, commands, answers)
    return answers


def packet(name: bytes, n_arguments: int, arguments: bytes) -> bytes:
    """A command as it is sent; its arguments are packed already (`keys.packed`)."""
    return b"*%d\r\n%b%b" % (1 + n_arguments, keys.packed([name]), arguments)


def send_packed(client: redis.Redis, name: bytes, n_arguments: int, arguments: bytes) -> Any:
    """One command whose arguments are packed already (`keys.packed`): what `send` does, without a step per argument.

    Retries and the state of the connection are as for any command of the client: a dropped connection is bridged, and
    one on which part of an answer may still arrive is never given to the next caller.
    Raises: as `send`.
    """
    words = packet(name, n_arguments, arguments)
    pool = client.connection_pool
    try:
        connection: Any = pool.get_connection()
    except redis.RedisError as error:
        raise no_answer(error) from error

    def exchange() -> Any:
        try:
            connection.send_packed_command([words])
            return connection.read_response()
        except redis.ResponseError:
            raise  # an answer like any other: it was read to its end
        except BaseException:
            connection.disconnect()
            raise

    retry: Retry = connection.retry
    try:
        return retry.call_with_retry(exchange, lambda _: connection.disconnect())
    except redis.RedisError as error:
        raise no_answer(error) from error
    finally:
        pool.release(connection)


class Underway:
    """Commands that were sent, one behind the other, and whose answers are taken later; until then nobody else has
    their connection.

    They are not tried again when it drops: whoever sends some must be able to find out what became of them.
    """

    def __init__(self, client: redis.Redis, packets: Sequence[bytes]) -> None:
        """Sends these (`packet`). Raises: DependencyError when they cannot be sent."""
        self._n_answers = len(packets)
        self._pool: Any = client.connection_pool
        try:
            self._connection: Any = self._pool.get_connection()
        except redis.RedisError as error:
            raise no_answer(error) from error
        try:
            self._connection.send_packed_command(packets)  # type: ignore[no-untyped-call]
        except BaseException as error:
            self._give_up()
            if isinstance(error, redis.RedisError):
                raise no_answer(error) from error
            raise

    def answers(self) -> list[Any]:
        """Wait for the answers, once. Raises: as `send`, for the first command that was refused."""
        try:
            answers = [self._answer() for _ in range(self._n_answers)]
        except BaseException as error:
            self._give_up()
            if isinstance(error, redis.RedisError):
                raise no_answer(error) from error
            raise
        self._pool.release(self._connection)
        for answer in answers:
            if isinstance(answer, redis.ResponseError):
                raise no_answer(answer) from answer
        return answers

    def _answer(self) -> Any:
        """Refused or not: those behind it are still to be read."""
        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            return error

    def _give_up(self) -> None:
        # Part of an answer may still arrive: this connection is nobody's.
        self._connection.disconnect()
        self._pool.release(self._connection)


_CAUSES = (
    (
        "command not allowed when used memory",
        OutOfMemoryError,
        "is full and refuses to write: {}; raise its maxmemory, or remove what does not belong there",
    ),
    (
        "READONLY",
        redis.ReadOnlyError,
        "refuses to write, because online.url names a replica: {}; name the primary",
    ),
    (
        "MISCONF",
        None,
        "refuses to write, because it cannot save its data: {}; look at its log and at the space left on its disk",
    ),
    ("LOADING", redis.BusyLoadingError, "is still reading its data from disk: {}; try again in a moment"),
    ("BUSY ", None, "is held up by a script that does not end: {}; end it with `redis-cli SCRIPT KILL`"),
)
"""Word in the message, class, sentence. Inside a script the class is lost; outside redis-py cuts the word off."""

_WHERE = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ")


def no_answer(error: redis.RedisError) -> DependencyError | DataError:
    """The sentence for a failure of which no more is known than its error; DataError for a key of the wrong type."""
    reason = _WHERE.sub("", " ".join(str(error).split())) or type(error).__name__
    for word, kind, sentence in _CAUSES:
        if word in reason or (kind is not None and isinstance(error, kind)):
            return DependencyError(f"the online store {sentence.format(reason)}")
    if "WRONGTYPE" in reason:
        return DataError(f"a key of the online store holds another type than it must: {reason}; run `recsys train`")
    if isinstance(error, redis.TimeoutError):
        return DependencyError(
            f"the online store took too long: {reason}; look at what Redis is busy with, or raise online.timeout_s"
        )
    if isinstance(error, redis.AuthenticationError | AuthorizationError | NoPermissionError):
        return DependencyError(f"the online store refuses us: {reason}; correct user and password in online.url")
    if isinstance(error, redis.ConnectionError):
        return DependencyError(f"the online store does not answer: {reason}; check that Redis is running")
    return DependencyError(f"the online store refuses a command: {reason}; check that it is Redis 6.2 or newer")


def _transaction(client: redis.Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Answers, errors of single commands among them. Raises: redis.RedisError when it was not carried out."""
    with client.pipeline(transaction=True) as pipe:
        for command in commands:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        return list(pipe.execute(raise_on_error=False))


def _raise_first(client: redis.Redis, commands: Sequence[Sequence[Any]], answers: Sequence[Any]) -> None:
    for command, answer in zip(commands, answers, strict=True):
        if isinstance(answer, redis.RedisError):
            raise _failure(client, command, answer) from answer


def _failure(client: redis.Redis, command: Sequence[Any], error: redis.RedisError) -> DependencyError | DataError:
    """As `no_answer`, naming the key of a wrong type where the command has one."""
    name, *words = (word if isinstance(word, bytes) else str(word).encode() for word in command)
    if "WRONGTYPE" not in str(error) or name == b"EVAL" or not words:
        return no_answer(error)
    place = {b"XINFO": 1, b"XREAD": words.index(b"STREAMS") + 1 if b"STREAMS" in words else 0}.get(name, 0)
    key = words[place]
    expected = {"H": "hash", "X": "stream", "Z": "zset"}.get(name[:1].decode(), "string")
    try:
        found = client.execute_command("TYPE", key).decode()  # type: ignore[no-untyped-call]
    except redis.RedisError as failure:
        return no_answer(failure)
    return wrong_type(key, expected, found)
