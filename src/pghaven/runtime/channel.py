"""Messages over a socket pair between a crew and one worker: framing, pickling, and never waiting both ways at once.

The one idea: a message is a kind, a length and a body; a body that is bytes travels as it is, anything else pickled.
The worker's end waits on sending and receiving. The crew's end never waits on sending (what does not fit stays in
``outgoing``), so a worker sending a large result and a crew sending a large job cannot wait for each other for ever.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections import deque
from enum import IntEnum

_HEADER = struct.Struct("!B?Q")  # kind, whether the body is pickled, its length


class Kind(IntEnum):
    """What a message is. READY, RESULT, CLOSED and FAILED (with the error itself) go to the crew."""

    SETUP = 1
    JOB = 2
    CLOSE = 3
    READY = 4
    RESULT = 5
    CLOSED = 6
    FAILED = 7


class Channel:
    """One end. When the other end is gone, ``receive`` raises EOFError and sending raises OSError."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._outgoing: deque[memoryview] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether something posted is still to be sent."""
        return bool(self._outgoing)

    def fileno(self) -> int:
        return self._socket.fileno()

    def discard(self) -> None:
        """Forget what waits."""
        self._outgoing.clear()

    def close(self) -> None:
        self.discard()
        self._socket.close()

    def post(self, kind: Kind, value: object) -> None:
        """Put a message behind those that wait. Raises what pickling raises, and then nothing was put."""
        is_pickled = not isinstance(value, bytes)
        body = value if isinstance(value, bytes) else pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        self._outgoing.append(memoryview(_HEADER.pack(kind, is_pickled, len(body))))
        if body:
            self._outgoing.append(memoryview(body))

    def send(self, kind: Kind, value: object) -> None:
        """Send a message, waiting as long as it takes."""
        self.post(kind, value)
        self._send_outgoing(0)

    def flush(self) -> None:
        """Send what can be sent without waiting."""
        try:
            self._send_outgoing(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return

    def receive(self) -> tuple[Kind, object]:
        """The next message, waiting for all of it."""
        kind, is_pickled, length = _HEADER.unpack(self._receive_exactly(_HEADER.size))
        body = self._receive_exactly(length)
        return Kind(kind), pickle.loads(body) if is_pickled else body  # noqa: S301 our own process sent it

    def _send_outgoing(self, flags: int) -> None:
        while self._outgoing:
            sent = self._socket.sendmsg([*self._outgoing], [], flags)
            while self._outgoing and sent >= self._outgoing[0].nbytes:
                sent -= self._outgoing.popleft().nbytes
            if sent:
                self._outgoing[0] = self._outgoing[0][sent:]

    def _receive_exactly(self, length: int) -> bytes:
        chunks: list[bytes] = []
        missing = length
        while missing:
            chunk = self._socket.recv(missing, socket.MSG_WAITALL)
            if not chunk:
                raise EOFError
            chunks.append(chunk)
            missing -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
