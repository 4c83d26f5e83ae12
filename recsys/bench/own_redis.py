"""A redis-server for one benchmark: empty, on a Unix socket and on a free loopback port, gone when the block ends.

Takes a folder for its data. The socket is what programs of ours use, the port is for peers that know nothing else. It
has the settings of a served one. It does not know what is stored.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from recsys.config import OnlineConfig
from recsys.errors import DependencyError
from recsys.online.connection import local_server
from recsys.online.connection.client import connect


@dataclass(frozen=True)
class OwnRedis:
    """The running server."""

    url: str
    """An `online.url`."""
    port: int
    version: str
    pid: int

    @property
    def config(self) -> OnlineConfig:
        return OnlineConfig(url=self.url)


@contextmanager
def own_redis(folder: Path) -> Iterator[OwnRedis]:
    """Raises: DependencyError when there is no redis-server to start or it does not come up."""
    program, version = local_server.find_program()
    folder.mkdir(parents=True, exist_ok=True)
    # A socket's path must be short, wherever the data lie.
    with tempfile.TemporaryDirectory(prefix="recsys-") as short:
        path, port = Path(short) / "redis.sock", _free_port()
        command, nothing = [program, *local_server.arguments(folder, path, port)], subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
        try:
            _wait(process, path)
            yield OwnRedis(f"unix://{path}?db=0", port, ".".join(map(str, version)), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(local_server.STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def client_of(own: OwnRedis) -> Iterator[redis.Redis]:
    """A client as the service's programs open it."""
    with connect(own.config, Path()) as connection:
        yield connection.client


def pin(pid: int, core: int) -> None:
    """Pin a process and its present threads to one core."""
    for thread in psutil.Process(pid).threads():
        psutil.Process(thread.id).cpu_affinity([core])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], path: Path) -> None:
    deadline = time.monotonic() + local_server.START_TIMEOUT_S
    while not local_server.answers(path):
        if process.poll() is not None or time.monotonic() > deadline:
            raise DependencyError("the benchmark's redis-server did not start; check that `redis-server` runs by hand")
        time.sleep(0.01)
