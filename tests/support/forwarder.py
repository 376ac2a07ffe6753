"""A TCP forwarder in front of a real server that can cut or hold connections at a given byte.

The one idea: what a network does to a connection is done to real ones, at a place that is counted in bytes and not in
time. Reusable for every server that speaks over TCP.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Forwarder:
    """Forwards to a port of loopback. ``cut_after`` and ``hold_after``: bytes from client to server, a connection."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_after: int | None = None
        self.hold_after: int | None = None
        self.connections = 0
        self.is_holding = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join()

    def cut_all(self) -> None:
        """Cut every connection there is; new ones are served."""
        while self._sockets:
            _cut(self._sockets.pop())

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                _cut(client)
                continue
            self._sockets += [client, server]
            pairs = ((client, server, True), (server, client, False))
            threads = [threading.Thread(target=self._pump, args=pair, daemon=True) for pair in pairs]
            self._threads += threads
            for thread in threads:
                thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 14):
                if counts and self.cut_after is not None and passed + len(data) > self.cut_after:
                    target.sendall(data[: self.cut_after - passed])
                    break
                if counts and self.hold_after is not None and passed + len(data) > self.hold_after:
                    self.is_holding.set()
                    target.sendall(data[: max(0, self.hold_after - passed)])
                    while source.recv(1 << 14):
                        pass
                    break
                target.sendall(data)
                passed += len(data)
        _cut(source)
        _cut(target)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def forwarding(target: int) -> Iterator[Forwarder]:
    forwarder = Forwarder(target)
    try:
        yield forwarder
    finally:
        forwarder.close()
