"""The lock of a lake: a short-lived lock in Redis that a thread renews while its holder lives.

Takes a client and how long the lock outlives a killed holder. A holder that takes the lock again and again checks
`is_wanted` first and lets waiting processes in. This module does not know what is done under the lock.
"""

from __future__ import annotations

import logging
import threading
import time

import redis
from redis.exceptions import LockError

from recsys.errors import DependencyError
from recsys.online import keys
from recsys.online.connection.commands import explain, send

log = logging.getLogger(__name__)

WANTED = keys.LAKE_LOCK + b":wanted"
"""Exists while somebody waits for the lock."""

_POLL_S = 0.05
_WANTED_MS = 1000
"""Longer than a poll, so the key exists throughout; short, so it expires soon after a waiting process is killed."""


class LakeLock:
    """One attempt at the lock: `acquire` once, `check` before anything that must not happen without it, `release`."""

    def __init__(self, client: redis.Redis, url: str, seconds: float) -> None:
        """
        Args:
            url: of the lake, for messages.
            seconds: after which the lock of a killed holder expires; a living one renews it three times within.
        """
        self.client = client
        self.url = url
        self.seconds = seconds
        # Not thread-local: another thread renews the lock than the one that took it.
        self._lock = client.lock(keys.LAKE_LOCK.decode(), timeout=seconds, thread_local=False)
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew_often, name="lake-lock", daemon=True)

    def acquire(self, wait_s: float = 0.0) -> bool:
        """Take the lock, waiting up to `wait_s`, and renew it until `release`. False when another holder kept it.

        Raises: DependencyError when Redis does not answer.
        """
        end, waited = time.monotonic() + wait_s, False
        while not self._try():
            if time.monotonic() >= end:
                return False
            send(self.client, "SET", WANTED, b"", "PX", _WANTED_MS)
            waited = True
            time.sleep(_POLL_S)
        self._renewer.start()
        if waited:
            # Others who still wait set the key again at their next poll.
            self._no_longer_wanted()
        return True

    def check(self) -> None:
        """Raises: DependencyError when the lock was lost, or Redis does not answer."""
        try:
            self._lock.reacquire()
        except LockError:
            raise DependencyError(
                f"the lake {self.url} must be held while it is read or written, but the lock was lost: this process "
                f"paused for more than {self.seconds:g} s, or Redis lost its data; run it again"
            ) from None
        except redis.RedisError as error:
            raise explain(error) from error

    def release(self) -> None:
        self._stop.set()
        if self._renewer.ident is not None:
            self._renewer.join()
        try:
            self._lock.release()
        except redis.RedisError as error:
            log.warning("the lake's lock was not released and will expire: %s", error)

    def _no_longer_wanted(self) -> None:
        try:
            send(self.client, "DEL", WANTED)
        except DependencyError as error:
            log.warning("the lake's lock may seem wanted for another second: %s", error)

    def _try(self) -> bool:
        try:
            return bool(self._lock.acquire(blocking=False))
        except redis.RedisError as error:
            raise explain(error) from error

    def _renew_often(self) -> None:
        """Renew the lock until `release`. A lost lock stays lost; `check` raises then."""
        while not self._stop.wait(self.seconds / 3):
            try:
                self._lock.reacquire()
            except redis.RedisError as error:
                log.warning("the lake's lock could not be renewed: %s", error)


def is_wanted(client: redis.Redis) -> bool:
    """Whether somebody waits for the lock. Raises: DependencyError when Redis does not answer."""
    return bool(send(client, "EXISTS", WANTED))
