"""Connect to Redis: to the server in the settings, or to a local one per data folder.

Takes `online.url` and the data folder, gives a `Connection`. Without a URL the first program starts a server on a Unix
socket, later ones join it, and the last one to leave stops it. This module does not know what is stored.

File locks tell who uses the server; the kernel releases them however a process dies:

    <data_dir>/redis/users.lock   shared by every program that uses the server; the last one can lock it exclusively
    <data_dir>/redis/start.lock   exclusive while a program starts, joins or leaves, so that these never overlap
    <data_dir>/redis/socket       path of the socket in use

Nothing needs repair after a crash. A server whose starter was killed still answers, and programs join it. A socket
without a server is replaced. Redis drops the cut-off end of an append-only file.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from recsys.config import OnlineConfig
from recsys.errors import DependencyError
from recsys.online.connection import local_server

log = logging.getLogger(__name__)

READ_BYTES = 1 << 18
"""Bytes per read from the socket; the rows of 500 candidates, about 120 kB, fit in one read."""

LONGEST_SOCKET_PATH = 107
"""Bytes of `sun_path` on Linux, without the closing zero."""

_LOCK_TIMEOUT_S = local_server.START_TIMEOUT_S + 10


class Connection:
    """A client, and the lock that keeps its server running. Close it, or use it in a `with` block."""

    def __init__(
        self, client: redis.Redis, url: str, folder: Path | None = None, users: IO[bytes] | None = None
    ) -> None:
        self.client = client
        """Takes and gives bytes."""
        self.url = url
        """An `online.url` for child processes that end before this program does."""
        self._folder = folder
        self._users = users

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; stop the local server when no other program uses it."""
        self.client.close()
        if self._folder is None or self._users is None:
            return
        users, self._users = self._users, None
        with users, _start_lock(self._folder):
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            local_server.stop(_socket_in_use(self._folder))


def connect(config: OnlineConfig, data_dir: Path) -> Connection:
    """Connect to `config.url`, or start or join the data folder's local server.

    Raises: DependencyError when the server does not answer, cannot be started, or there is no redis-server to start.
    """
    if config.url is not None:
        client = _client(config.url, config.timeout_s)
        try:
            client.ping()
            _refuse_eviction(client, config.url)
        except (redis.RedisError, OSError) as error:
            client.close()
            raise DependencyError(
                f"Redis at online.url {_without_password(config.url)} does not answer ({error}); "
                "start it, correct online.url, or leave it empty to have a server started"
            ) from None
        except DependencyError:
            client.close()
            raise
        return Connection(client, config.url)
    folder = (data_dir / "redis").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _start_lock(folder):
        socket_path = _socket_in_use(folder)
        if not local_server.answers(socket_path):
            local_server.stop_unreachable(folder)
            socket_path = _new_socket_path(folder)
            (folder / "socket").write_text(str(socket_path))
            local_server.start(folder, socket_path)
        users = (folder / "users.lock").open("wb")
        fcntl.flock(users, fcntl.LOCK_SH)
    url = f"unix://{quote(str(socket_path))}?db=0"
    return Connection(_client(url, config.timeout_s), url, folder, users)


def _client(url: str, timeout_s: float) -> redis.Redis:
    # Retry a dropped connection; every write here may safely be sent twice. Do not retry a server that hangs: a request
    # would wait four times as long, and still fail.
    try:
        retry = Retry(ExponentialBackoff(cap=0.2, base=0.02), 3, supported_errors=(redis.ConnectionError,))
        return redis.Redis.from_url(
            url,
            retry=retry,
            socket_read_size=READ_BYTES,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        )
    except ValueError as error:
        raise DependencyError(f"online.url {_without_password(url)!r} is not a Redis URL: {error}") from None


def _refuse_eviction(client: redis.Redis, url: str) -> None:
    """Raises: DependencyError when the server may drop keys to make room: a dropped counter reads as zero.

    Asks INFO, because hosted servers often forbid CONFIG.
    """
    try:
        memory = client.info("memory")
    except NoPermissionError as error:
        log.warning("make sure that Redis has maxmemory-policy noeviction; it cannot be checked here: %s", error)
        return
    limit, policy = int(memory.get("maxmemory", 0)), str(memory.get("maxmemory_policy", "noeviction"))
    if limit > 0 and policy != "noeviction":
        raise DependencyError(
            f"Redis at online.url {_without_password(url)} must have maxmemory-policy noeviction, found {policy} with "
            f"maxmemory {limit}: it would drop counters, which then read as zero; "
            "run `redis-cli CONFIG SET maxmemory-policy noeviction` and set it in its redis.conf"
        )


def _start_lock(folder: Path) -> IO[bytes]:
    """Take the start lock; it is released when the returned file is closed."""
    lock = (folder / "start.lock").open("wb")
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise DependencyError(
                    f"another process has held {folder / 'start.lock'} for {_LOCK_TIMEOUT_S:.0f} s; end that process"
                ) from None
            time.sleep(0.02)
        except BaseException:
            lock.close()
            raise
        else:
            return lock


def _socket_in_use(folder: Path) -> Path:
    """Socket of the last started server. It is stored because the place for long paths depends on the environment."""
    try:
        return Path((folder / "socket").read_text())
    except OSError:
        return _new_socket_path(folder)


def _new_socket_path(folder: Path) -> Path:
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    private = Path(tempfile.gettempdir()) / f"recsys-{os.getuid()}-{name}"
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or private.is_symlink():
        raise DependencyError(f"{private} must be a folder of this user alone (mode 700); remove it and try again")
    path = private / "redis.sock"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise DependencyError(
            f"the socket path {path} must have at most {LONGEST_SOCKET_PATH} bytes; set TMPDIR to a shorter path"
        )
    return path


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        secret = parts.password
    except ValueError:
        return "(malformed)"
    return url.replace(f":{secret}@", ":***@") if secret else url
