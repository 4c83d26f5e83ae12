"""The server as processes: uvicorn's workers in front, the stream's consumer beside them, all ending together.

Takes a `Config`, gives a running server. Everything that can be refused is refused before the first request: an open
address without a key, a port in use, a broken release, an unreachable Redis. It does not know routes.
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
"""Seconds until a server must be ready; a million-post release is mapped in less."""

DRAIN_S = 5
"""Seconds that requests in the making get when the server stops."""


def serve(config: Config, announce: Callable[[str], None] | None = None, listener: socket.socket | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM, then end every process that was started.

    Call it from the main thread, and before heavy libraries are imported if `serving.n_threads` is to hold for all of
    them.

    Args:
        announce: called once with the base URL when the server is ready.
        listener: a bound socket to serve on, instead of `serving.host` and `serving.port`.
    Raises: ConfigError, ReleaseError, DependencyError when serving is impossible from the start.
    """
    check_address(config.serving)
    with ExitStack() as stack:
        listener = stack.enter_context(listener or bind(config.serving))
        release.load(config.releases_path)  # every checksum once, here; the workers compare sizes
        stack.enter_context(_stop_signals())
        try:
            # Held so that a server of our own lives as long as this block. The children join it by themselves instead
            # of taking its address: should this process be killed, the last of them stops it.
            stack.enter_context(connect(config.online, config.data_dir))
            children.limit_threads(config.serving.n_threads)
            stack.enter_context(children.kept_alive("consumer", _consume, config.model_dump_json()))
            if announce is not None:
                stack.enter_context(_announced(base_url(listener), announce))
            _run_workers(config, listener)
        except KeyboardInterrupt:
            pass  # how a server ends


@contextmanager
def running_server(config: Config) -> Iterator[str]:
    """A ready server on a free loopback port, in a process of its own, for the length of the block; gives its base URL.

    Raises: DependencyError with the sentence of what `serve` refuses.
    """
    config = config.model_copy(update={"serving": config.serving.model_copy(update={"host": "127.0.0.1", "port": 0})})
    report, other_end = Pipe(duplex=False)
    with report:
        # Ours are closed once the child has its own: when it ends, its port and its end of the pipe end with it.
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
    """A listening socket on the configured address.

    Raises: DependencyError when the port is taken or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            # Bound is not enough: only a second listener fails where somebody listens already.
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
    """Raises: ConfigError when anybody on the network could write without a key."""
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
    one = config.serving.workers == 1
    settings = uvicorn.Config(
        partial(_app if one else _worker_app, config.model_dump_json()),
        factory=True,
        workers=config.serving.workers,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=DRAIN_S,
        # A worker that is importing torch on a busy machine is slow to answer, not dead.
        timeout_worker_healthcheck=60,
    )
    if one:
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
        raise DependencyError("a worker could not start; the line above says why")


def _app(config_json: str) -> FastAPI:
    # Imported here: these load the models' libraries, which read their number of threads when they are loaded.
    from recsys.serving.http.app import create_app
    from recsys.serving.processes.loading import open_service

    return create_app(open_service(Config.model_validate_json(config_json), verify=False))


def _worker_app(config_json: str) -> FastAPI:
    """`_app` in a process of its own; a reason not to start is one sentence and an exit code that ends the others."""
    children.follow_parent()
    try:
        return _app(config_json)
    except RecsysError as error:
        log.error("%s", error)
        sys.exit(STARTUP_FAILURE)


def _serve_and_report(config_json: str, listener: socket.socket, report: PipeEnd) -> None:
    """`serve` in a child of `running_server`: an empty message says ready, any other why not."""
    children.follow_parent()
    try:
        serve(Config.model_validate_json(config_json), lambda _: report.send(""), listener)
    except RecsysError as error:
        report.send(str(error))


def _consume(config_json: str) -> None:
    """The consumer in a process of its own, until SIGTERM."""
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
    """SIGTERM and a closed terminal end the block as Ctrl-C does: cleaned up, not killed."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _announced(url: str, announce: Callable[[str], None]) -> Iterator[None]:
    """Call `announce` from the side as soon as the server at `url` is ready."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
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
        over.set()
        watcher.join()
