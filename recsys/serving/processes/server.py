"""Start and stop the server's processes: the uvicorn workers and the stream consumer.

Takes a `Config` and runs a server. It checks everything before the first request and refuses to start with a public
address without a key, a port in use, a damaged release or an unreachable Redis. All processes end together. It does
not know routes.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection as PipeEnd

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from recsys import release
from recsys.config import Config, ServingConfig
from recsys.errors import ConfigError, DependencyError, RecsysError
from recsys.online.connection.client import connect
from recsys.serving.processes import children

log = logging.getLogger(__name__)

START_S = 120.0
"""Seconds a server gets to become ready. Mapping a release of a million posts takes less."""

DRAIN_S = 5
"""Seconds that in-flight requests get to finish when the server stops."""


def serve(config: Config, announce: Callable[[str], None] | None = None, listener: socket.socket | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM, then stop all child processes.

    Call it from the main thread. Call it before numerical libraries are imported, so that `serving.n_threads` applies
    to all of them.

    Args:
        announce: called once with the base URL when the server is ready.
        listener: a bound socket to serve on, instead of `serving.host` and `serving.port`.
    Raises: ConfigError, ReleaseError, DependencyError when the server cannot start.
    """
    check_address(config.serving)
    with ExitStack() as stack:
        listener = stack.enter_context(listener or bind(config.serving))
        release.load(config.releases_path)  # check all checksums once, here; the workers compare only sizes
        stack.enter_context(_stop_signals())
        try:
            # Stay connected, so that a Redis server started here lives as long as this block. The children connect on
            # their own instead of receiving its address: if this process is killed, the last child stops that Redis.
            stack.enter_context(connect(config.online, config.data_dir))
            children.limit_threads(config.serving.n_threads)
            stack.enter_context(children.kept_alive("consumer", _consume, config.model_dump_json()))
            if announce is not None:
                stack.enter_context(_announce_when_ready(base_url(listener), announce))
            _run_workers(config, listener)
        except KeyboardInterrupt:
            pass  # the normal way to stop a server


@contextmanager
def running_server(config: Config) -> Iterator[str]:
    """Run a server on a free loopback port in a child process while the block runs. Gives its base URL once ready.

    Raises: DependencyError with the reason why `serve` refused to start.
    """
    config = config.model_copy(update={"serving": config.serving.model_copy(update={"host": "127.0.0.1", "port": 0})})
    report, other_end = Pipe(duplex=False)
    with report:
        # Close our copies once the child has its own: then the port and the pipe are closed when the child ends.
        with bind(config.serving) as listener, other_end:
            url = base_url(listener)
            process = children.start(_serve_and_report, config.model_dump_json(), listener, other_end)
        try:
            problem = f"it was not ready within {START_S:.0f} s"
            if report.poll(START_S):
                try:
                    problem = report.recv()
                except EOFError:
                    problem = "it ended before it was ready; its log says why"
            if problem:
                raise DependencyError(f"the server did not start: {problem}")
            yield url
        finally:
            children.stop(process)


def bind(config: ServingConfig) -> socket.socket:
    """Open a listening socket on the configured address.

    Raises: DependencyError when the port is in use or the address does not belong to this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            # Also listen now: if another process listens on this port, bind may succeed and only listen fails.
            listener.listen(2048)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise DependencyError(
            f"serving.port must be free, {config.port} on {config.host} cannot be bound: {error.strerror or error}; "
            "choose another one with `--set serving.port=PORT`"
        ) from None
    return listener


def check_address(config: ServingConfig) -> None:
    """Check that a server reachable from the network requires a key.

    Raises: ConfigError when it does not.
    """
    try:
        local = ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        local = config.host == "localhost"
    if not local and config.api_key is None:
        raise ConfigError(
            f"serving.host must be a loopback address unless serving.api_key is set, got {config.host}; "
            "set a key, or serve on 127.0.0.1"
        )


def base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _run_workers(config: Config, listener: socket.socket) -> None:
    single = config.serving.workers == 1
    settings = uvicorn.Config(
        partial(_app if single else _worker_app, config.model_dump_json()),
        factory=True,
        workers=config.serving.workers,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=DRAIN_S,
        # On a busy machine a worker may take long to import torch; do not restart it as dead.
        timeout_worker_healthcheck=60,
    )
    if single:
        uvicorn.Server(settings).run([listener])
        return
    with tempfile.TemporaryDirectory(prefix="recsys-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            supervisor = Multiprocess(settings, [listener])
            supervisor.run()
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
    if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
        raise DependencyError("a worker could not start; the log line above says why")


def _app(config_json: str) -> FastAPI:
    # Imported here, because the models' libraries read their thread limits when they are loaded.
    from recsys.serving.http.app import create_app
    from recsys.serving.processes.loading import open_service

    return create_app(open_service(Config.model_validate_json(config_json), verify=False))


def _worker_app(config_json: str) -> FastAPI:
    """`_app` in a worker process. A startup error is logged in one sentence; the exit code then stops all workers."""
    children.follow_parent()
    try:
        return _app(config_json)
    except RecsysError as error:
        log.error("%s", error)
        sys.exit(STARTUP_FAILURE)


def _serve_and_report(config_json: str, listener: socket.socket, report: PipeEnd) -> None:
    """`serve` in a child of `running_server`. It reports an empty message when ready, else the error."""
    children.follow_parent()
    try:
        serve(Config.model_validate_json(config_json), lambda _: report.send(""), listener)
    except RecsysError as error:
        report.send(str(error))


def _consume(config_json: str) -> None:
    """Run the consumer in a child process until SIGTERM."""
    children.follow_parent()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    from recsys.serving.processes.consuming import consume

    try:
        consume(Config.model_validate_json(config_json), stop)
    except RecsysError as error:
        log.error("the consumer cannot start: %s", error)
        sys.exit(1)


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal like Ctrl-C while the block runs, so that it cleans up."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _announce_when_ready(url: str, announce: Callable[[str], None]) -> Iterator[None]:
    """Call `announce` from a background thread as soon as the server at `url` is ready."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            try:
                with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                    announce(url)
                    return
            except OSError:
                continue

    watcher = threading.Thread(target=watch, name="announce", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
