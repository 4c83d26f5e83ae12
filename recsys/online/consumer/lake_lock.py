"""The right to write one lake: a short-lived lock in Redis, renewed by a thread for as long as its holder lives.

Takes a client and how long the lock outlives its holder. Who waits for it is let in: short holders that come back at
once ask `is_wanted` first. It does not know what is done under the lock.
"""

from __future__ import annotations

import logging
import threading
import time

import redis
from redis.exceptions import LockError

from recsys.errors import DependencyError
from recsys.online import keys
from recsys.online.connection.commands import no_answer, send

log = logging.getLogger(__name__)

WANTED = keys.LAKE_LOCK + b":wanted"
"""Is there while somebody waits for the lock."""

_POLL_S = 0.05
_WANTED_MS = 1000
"""Longer than a poll, so that it is there throughout, and soon gone after a waiting process was killed."""


class LakeLock:
    """One attempt at the lock: `acquire` once, `check` before anything that must not happen without it, `release`."""

    def __init__(self, client: redis.Redis, url: str, seconds: float) -> None:
        """
        Args:
            url: of the lake, for messages.
            seconds: after which the lock of a killed holder is free again; of a living one it is renewed thrice in it.
        """
        self.client = client
        self.url = url
        self.seconds = seconds
        # Not thread-local: the thread that renews the lock is not the one that took it.
        self._lock = client.lock(keys.LAKE_LOCK.decode(), timeout=seconds, thread_local=False)
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="lake-lock", daemon=True)

    def acquire(self, wait_s: float = 0.0) -> bool:
        """Take the lock, waiting for it up to `wait_s`; from then on it is renewed until `release`.

        Raises: DependencyError when Redis does not answer.
        """
        end, waited = time.monotonic() + wait_s, False
        while not self._try():
            if time.monotonic() >= end:
                return False
            send(self.client, "SET", WANTED, b"", "PX", _WANTED_MS)
            waited = True
            time.sleep(_POLL_S)
        self._keeper.start()
        if waited:
            # Others who wait say so again at their next poll, while this one holds the lock.
            self._no_longer_wanted()
        return True

    def check(self) -> None:
        """Raises: DependencyError when the lock is another's by now, or Redis does not answer."""
        try:
            self._lock.reacquire()
        except LockError:
            raise DependencyError(
                f"the lake {self.url} must be held while it is read or written, and was not any more: this process "
                f"paused for more than {self.seconds:g} s, or Redis lost the lock; run it again"
            ) from None
        except redis.RedisError as error:
            raise no_answer(error) from error

    def release(self) -> None:
        self._over.set()
        if self._keeper.ident is not None:
            self._keeper.join()
        try:
            self._lock.release()
        except redis.RedisError as error:
            log.warning("the lake's lock was not released and frees itself: %s", error)

    def _no_longer_wanted(self) -> None:
        try:
            send(self.client, "DEL", WANTED)
        except DependencyError as error:
            log.warning("the lake may seem wanted for another second: %s", error)

    def _try(self) -> bool:
        try:
            return bool(self._lock.acquire(blocking=False))
        except redis.RedisError as error:
            raise no_answer(error) from error

    def _keep(self) -> None:
        """Renew the lock until it is over; one that was lost stays lost, and `check` says so."""
        while not self._over.wait(self.seconds / 3):
            try:
                self._lock.reacquire()
            except redis.RedisError as error:
                log.warning("the lake's lock could not be renewed: %s", error)


def is_wanted(client: redis.Redis) -> bool:
    """Whether somebody waits for the lock. Raises: DependencyError when Redis does not answer."""
    return bool(send(client, "EXISTS", WANTED))
