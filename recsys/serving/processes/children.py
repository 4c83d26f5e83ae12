"""Child processes that are restarted when they end and never outlive their parent.

Takes the functions to run. Children are spawned, not forked, so they inherit nothing by accident. It does not know
what the children do.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

import threadpoolctl  # type: ignore[import-untyped]

log = logging.getLogger(__name__)

STOP_S = 10.0
"""Seconds a process gets to end after SIGTERM before it is killed."""
RESTART_S = 1.0
"""Seconds to wait before a child that ended is restarted."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def limit_threads(n_threads: int) -> None:
    """Limit numerical libraries to this many threads each.

    The limit applies to a BLAS that is already loaded, to libraries loaded later, and to child processes. OpenMP reads
    its setting only once, when it is loaded: call this before importing faiss, torch or lightgbm.
    """
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(n_threads)
    if "numpy" in sys.modules:
        threadpoolctl.threadpool_limits(n_threads)


def follow_parent() -> None:
    """End this process when its parent ends, even if the parent is killed. A child calls it first of all."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_S)
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Run a function in a child process. Ctrl-C does not reach it; the parent stops it."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    # Starting the tracker unblocks signals, so start it before blocking them. The child inherits the blocked signal, so
    # it is protected from its first instruction on.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def stop(process: BaseProcess) -> None:
    """Ask a child to end; kill it after `STOP_S` seconds."""
    process.terminate()
    process.join(STOP_S)
    if process.exitcode is None:
        log.warning("process %s did not stop within %.0f s; killing it", process.pid, STOP_S)
        process.kill()
        process.join()


@contextmanager
def kept_alive(name: str, target: Callable[..., None], *args: Any) -> Iterator[None]:
    """Run a function in a child process while the block runs. A child that ends is restarted."""
    wake_r, wake_w = multiprocessing.Pipe(duplex=False)
    process = start(target, *args)

    def watch() -> None:
        nonlocal process
        while wake_r not in connection.wait([process.sentinel, wake_r]):
            process.join()
            log.warning("the %s process ended with exit code %s; restarting it", name, process.exitcode)
            if wake_r.poll(RESTART_S):
                return
            process = start(target, *args)

    watcher = threading.Thread(target=watch, name=f"{name}-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        wake_w.send_bytes(b"stop")
        watcher.join()
        stop(process)
        wake_r.close()
        wake_w.close()
