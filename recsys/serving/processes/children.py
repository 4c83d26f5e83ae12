"""The processes around the server: child processes that stay up while wanted and never outlive their parent.

Takes functions to run in children (spawned, so nothing is inherited by accident), gives context managers. It does not
know what the children do.
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
"""Seconds a process gets to end by itself before it is killed."""
RESTART_S = 1.0
"""Pause before a child that ended is started again."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def limit_threads(n_threads: int) -> None:
    """Let numerical libraries use this many threads each: those loaded later, those of children, and BLAS at once.

    OpenMP reads its setting when it is loaded, once and for all threads to come, so call this before importing faiss,
    torch or lightgbm.
    """
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(n_threads)
    if "numpy" in sys.modules:
        threadpoolctl.threadpool_limits(n_threads)


def follow_parent() -> None:
    """End this process when the one that spawned it is gone, even if that was killed; the first thing a child does."""
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
    """Run a function in a child process that Ctrl-C does not reach: its parent decides when it ends."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    # Starting the tracker unblocks signals, so it must run before they are blocked. A blocked signal stays blocked in
    # the child, from its first instruction on.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def stop(process: BaseProcess) -> None:
    """Ask a child to end, and make it end."""
    process.terminate()
    process.join(STOP_S)
    if process.exitcode is None:
        log.warning("process %s did not stop within %.0f s and is killed", process.pid, STOP_S)
        process.kill()
        process.join()


@contextmanager
def kept_alive(name: str, target: Callable[..., None], *args: Any) -> Iterator[None]:
    """Run a function in a child process for the length of the block; a child that ends is started again."""
    wake_r, wake_w = multiprocessing.Pipe(duplex=False)
    process = start(target, *args)

    def watch() -> None:
        nonlocal process
        while wake_r not in connection.wait([process.sentinel, wake_r]):
            process.join()
            log.warning("the %s process ended with exit code %s and is started again", name, process.exitcode)
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
