"""Commands to Redis whose failure is ours to explain.

Takes a client and plain command words, gives Redis's answer. Every failure becomes a DependencyError of one sentence.
It does not know what the commands are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from recsys.errors import DependencyError


def send(client: redis.Redis, *command: Any) -> Any:
    """One command, one round trip. Raises: DependencyError when Redis does not answer or refuses."""
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]
    except redis.RedisError as error:
        raise no_answer(error) from error


def send_together(client: redis.Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Several commands, all or nothing, in one round trip. Raises: DependencyError, as `send`."""
    try:
        with client.pipeline(transaction=True) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            return list(pipe.execute())
    except redis.RedisError as error:
        raise no_answer(error) from error


def no_answer(error: redis.RedisError) -> DependencyError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DependencyError(f"the online store does not answer: {reason}; check that Redis is running")
