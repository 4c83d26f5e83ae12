"""A way to Redis that loses answers: commands arrive and are carried out, and now and then nobody hears of it.

Takes the path of a server's socket and a path of its own, gives an `online.url`. What a client sees is a connection
that breaks while it waits, as when a network fails or a server dies between doing and telling.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

_CHUNK = 1 << 16


class Dropping:
    """Forwards connections until the block ends; drops this share of the answers, and their connections with them."""

    def __init__(self, server: Path, path: Path, share: float, rng: np.random.Generator) -> None:
        self.url = f"unix://{path}?db=0"
        self.dropped = 0
        """Answers that no client got."""
        self._server, self._path, self._share, self._rng = server, path, share, rng
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Self:
        self._listener.bind(str(self._path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(self._listener)
        for end in list(self._open):
            self._close(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            self._open |= {client, server}
            try:
                server.connect(str(self._server))
            except OSError:
                self._close(client)
                self._close(server)
                continue
            threading.Thread(target=self._forward, args=(client, server, 0.0), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, self._share), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, share: float) -> None:
        try:
            while chunk := source.recv(_CHUNK):
                with self._lock:
                    drop = self._rng.random() < share
                    self.dropped += drop
                if drop:
                    break
                target.sendall(chunk)
        except OSError:
            pass  # the other direction closed both ends
        self._close(source)
        self._close(target)

    def _close(self, end: socket.socket) -> None:
        self._open.discard(end)
        with suppress(OSError):  # it may not be connected any more
            end.shutdown(socket.SHUT_RDWR)
        end.close()
