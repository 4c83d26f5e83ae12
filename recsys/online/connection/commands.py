"""Send Redis commands; turn failures into clear errors.

Takes a client and command words, gives Redis's answer. An error names its cause: no server, too slow, full, read-only,
unable to save, still loading, or a key of another type. This module does not know what the commands are for.
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
"""KEYS: one per command. ARGV, per command: how many words follow, its name, the words behind its key."""


def send(client: redis.Redis, *command: Any) -> Any:
    """Send one command, in one round trip.

    Raises: DependencyError when Redis does not answer or refuses, DataError when the key holds another type.
    """
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]
    except redis.RedisError as error:
        raise _explain_for(client, command, error) from error


def send_together(client: redis.Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Send several commands as one transaction, in one round trip. Raises: as `send`."""
    try:
        answers = _transaction(client, commands)
    except redis.RedisError as error:
        raise explain(error) from error
    _raise_first(client, commands, answers)
    return answers


def read_together(client: redis.Redis, commands: Sequence[tuple[bytes, bytes, *tuple[bytes | int, ...]]]) -> list[Any]:
    """Read with several commands at one moment; each is a name, a key and what follows. Raises: as `send`.

    Sends a transaction. A full Redis refuses to queue any command, even one that reads; then sends a script, which
    costs 0.2 ms more.
    """
    try:
        answers = _transaction(client, commands)
    except OutOfMemoryError:
        arguments: list[bytes | int] = []
        for name, _, *rest in commands:
            arguments += (1 + len(rest), name, *rest)
        answers = send(client, "EVAL", _READ, len(commands), *(command[1] for command in commands), *arguments)
    except redis.RedisError as error:
        raise explain(error) from error
    _raise_first(client, commands, answers)
    return answers


def packet(name: bytes, n_arguments: int, arguments: bytes) -> bytes:
    """The bytes of a command whose arguments are packed already (`keys.packed`)."""
    return b"*%d\r\n%b%b" % (1 + n_arguments, keys.packed([name]), arguments)


def send_packed(client: redis.Redis, name: bytes, n_arguments: int, arguments: bytes) -> Any:
    """`send` for a command whose arguments are packed already (`keys.packed`): no work per argument.

    As with any command of the client, a dropped connection is retried, and a connection on which part of an answer may
    still arrive is closed. Raises: as `send`.
    """
    words = packet(name, n_arguments, arguments)
    pool = client.connection_pool
    try:
        connection: Any = pool.get_connection()
    except redis.RedisError as error:
        raise explain(error) from error

    def exchange() -> Any:
        try:
            connection.send_packed_command([words])
            return connection.read_response()
        except redis.ResponseError:
            raise  # a complete answer: the connection can be used again
        except BaseException:
            connection.disconnect()
            raise

    retry: Retry = connection.retry
    try:
        return retry.call_with_retry(exchange, lambda _: connection.disconnect())
    except redis.RedisError as error:
        raise explain(error) from error
    finally:
        pool.release(connection)


class PendingAnswers:
    """Commands that were sent together and whose answers are read later. They keep a connection until then.

    They are not retried when the connection drops: the caller must be able to find out whether they were carried out.
    """

    def __init__(self, client: redis.Redis, packets: Sequence[bytes]) -> None:
        """Send commands made by `packet`. Raises: DependencyError when they cannot be sent."""
        self._n_answers = len(packets)
        self._pool: Any = client.connection_pool
        try:
            self._connection: Any = self._pool.get_connection()
        except redis.RedisError as error:
            raise explain(error) from error
        try:
            self._connection.send_packed_command(packets)  # type: ignore[no-untyped-call]
        except BaseException as error:
            self._give_up()
            if isinstance(error, redis.RedisError):
                raise explain(error) from error
            raise

    def wait(self) -> list[Any]:
        """Wait for the answers; call it once. Raises: as `send`, for the first command that was refused."""
        try:
            answers = [self._answer() for _ in range(self._n_answers)]
        except BaseException as error:
            self._give_up()
            if isinstance(error, redis.RedisError):
                raise explain(error) from error
            raise
        self._pool.release(self._connection)
        for answer in answers:
            if isinstance(answer, redis.ResponseError):
                raise explain(answer) from answer
        return answers

    def _answer(self) -> Any:
        """The next answer. A refusal is returned, not raised, because the answers behind it must still be read."""
        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            return error

    def _give_up(self) -> None:
        # Part of an answer may still arrive, so this connection must not be used again.
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
"""Word in the message, class, sentence. Word or class: errors inside a script lose the class, others lose the word."""

_WHERE = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ")


def explain(error: redis.RedisError) -> DependencyError | DataError:
    """A clear error for a failure of Redis; DataError for a key of the wrong type."""
    reason = _WHERE.sub("", " ".join(str(error).split())) or type(error).__name__
    for word, kind, sentence in _CAUSES:
        if word in reason or (kind is not None and isinstance(error, kind)):
            return DependencyError(f"the online store {sentence.format(reason)}")
    if "WRONGTYPE" in reason:
        return DataError(f"a key of the online store holds the wrong type: {reason}; run `recsys train`")
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
    """Answers, including errors of single commands. Raises: redis.RedisError when it was not carried out."""
    with client.pipeline(transaction=True) as pipe:
        for command in commands:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        return list(pipe.execute(raise_on_error=False))


def _raise_first(client: redis.Redis, commands: Sequence[Sequence[Any]], answers: Sequence[Any]) -> None:
    for command, answer in zip(commands, answers, strict=True):
        if isinstance(answer, redis.RedisError):
            raise _explain_for(client, command, answer) from answer


def _explain_for(client: redis.Redis, command: Sequence[Any], error: redis.RedisError) -> DependencyError | DataError:
    """`explain`, with the key of the wrong type where the command has one."""
    name, *words = (word if isinstance(word, bytes) else str(word).encode() for word in command)
    if "WRONGTYPE" not in str(error) or name == b"EVAL" or not words:
        return explain(error)
    place = {b"XINFO": 1, b"XREAD": words.index(b"STREAMS") + 1 if b"STREAMS" in words else 0}.get(name, 0)
    key = words[place]
    expected = {"H": "hash", "X": "stream", "Z": "zset"}.get(name[:1].decode(), "string")
    try:
        found = client.execute_command("TYPE", key).decode()  # type: ignore[no-untyped-call]
    except redis.RedisError as failure:
        return explain(failure)
    return wrong_type(key, expected, found)
