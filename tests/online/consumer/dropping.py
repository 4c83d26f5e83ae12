"""A proxy to Redis that loses answers: commands are carried out, but some answers never arrive.

Takes the path of a server's socket and a path of its own, gives an `online.url`. What a client sees is a connection
that breaks while it waits, as when a network fails or a server dies between doing and telling. Answers to commands of
some kinds are dropped by rule, so that it is certain to happen to them, all others by luck.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

_CHUNK = 1 << 16
_HEAD = 200
"""Bytes of a command in which its kind is looked for."""


class Dropping:
    """Forwards connections until the block ends; drops some of the answers, and their connections with them."""

    def __init__(
        self, server: Path, path: Path, share: float, rng: np.random.Generator, kinds: Mapping[str, str], every: int
    ) -> None:
        """
        Args:
            share: of the other answers, dropped by luck.
            kinds: name of each kind of command that is dropped by rule, and how its first argument, a script, begins.
            every: number of the first answer to each kind that is dropped; so is every one with a multiple of it.
        """
        self.url = f"unix://{path}?db=0"
        self.dropped: Counter[str] = Counter()
        """Answers to each kind that no client got."""
        self._server, self._path, self._share, self._rng = server, path, share, rng
        self._kinds, self._every = {name: word.encode()[: _HEAD // 2] for name, word in kinds.items()}, every
        self._answers: Counter[str] = Counter()
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
            # One command at a time is under way on a connection: its answer is the next thing that comes back.
            asked: list[str] = []
            threading.Thread(target=self._ask, args=(client, server, asked), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client, asked), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, asked: list[str]) -> None:
        """Forward commands, the kind of each noted in `asked` before it is sent on."""
        with suppress(OSError):  # the other direction closed both ends
            while chunk := client.recv(_CHUNK):
                asked += [name for name, word in self._kinds.items() if word in chunk[:_HEAD]]
                server.sendall(chunk)
        self._close(client)
        self._close(server)

    def _answer(self, server: socket.socket, client: socket.socket, asked: list[str]) -> None:
        """Forward answers up to one that is dropped."""
        with suppress(OSError):  # the other direction closed both ends
            while (chunk := server.recv(_CHUNK)) and not self._drops(asked):
                client.sendall(chunk)
        self._close(server)
        self._close(client)

    def _drops(self, asked: list[str]) -> bool:
        with self._lock:
            if not asked:
                return bool(self._rng.random() < self._share)
            kind = asked.pop()
            self._answers[kind] += 1
            drop = self._answers[kind] % self._every == 0
            self.dropped[kind] += drop
            return drop

    def _close(self, end: socket.socket) -> None:
        self._open.discard(end)
        with suppress(OSError):  # it may not be connected any more
            end.shutdown(socket.SHUT_RDWR)
        end.close()
