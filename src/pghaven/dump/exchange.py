"""One connection of pg_dump's with its server, as it passes through us: the frontend/backend protocol, version 3.

The one idea: everything is passed on as it comes, but for a simple query that is to be answered into a pipe. The server
gets it with the pipe's path in place of ``stdout``; the client is told that rows come, and after the last that they
have come. Where its messages end is looked at only meanwhile: when a client asks something, its server has said all.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_LENGTH = struct.Struct("!I")
_CANCEL = 80877102  # CancelRequest
_ASKS_ENCRYPTION = frozenset({80877103, 80877104})  # SSLRequest, GSSENCRequest: after these a connection begins
_QUERY_BYTES_MAX = 64 << 10
_TO_CLIENT = b" TO stdout;"
_ROWS_COME = b"H" + struct.pack("!IBH", 7, 0, 0)  # CopyOutResponse: text; the number of columns is nobody's business
_ROWS_HAVE_COME = b"c" + _LENGTH.pack(4)  # CopyDone


class Exchange:
    """``pipes`` has the statements that are to be answered into pipes, with the paths of these; it may grow.
    ``has_taken_leave`` when the client has said its last word, so that the server may hang up."""

    def __init__(self, pipes: Mapping[bytes, bytes]) -> None:
        self._pipes = pipes
        self._asked, self._said = bytearray(), bytearray()
        self._passing = 0  # how much more of a message is passed on as it comes
        self._is_opening, self._is_copying = True, False
        self.has_taken_leave = False

    def from_client(self, data: bytes) -> tuple[bytes, bytes]:
        """What the server is to get for it, and what the client."""
        self._asked += data
        to_server, to_client = bytearray(), b""
        while True:
            taken = min(self._passing, len(self._asked))
            to_server += self._asked[:taken]
            del self._asked[:taken]
            self._passing -= taken
            if self._passing or not self._begin():
                break
            if not self._passing:  # a whole query
                size = 1 + _LENGTH.unpack_from(self._asked, 1)[0]
                path = self._pipes.get(bytes(self._asked[5 : size - 1]))
                assert path is not None
                query = self._asked[5 : size - 1 - len(_TO_CLIENT)] + b" TO '" + path + b"';\0"
                to_server += b"Q" + _LENGTH.pack(4 + len(query)) + query
                del self._asked[:size]
                to_client, self._is_copying = to_client + _ROWS_COME, True
        return bytes(to_server), to_client

    def _begin(self) -> bool:
        """Look at the next message: whether there is enough of it. Sets how much of it is passed on, none of a query
        that is to be answered into a pipe."""
        if self._is_opening:
            if len(self._asked) < 2 * _LENGTH.size:
                return False
            self._passing = _LENGTH.unpack_from(self._asked)[0]
            code = _LENGTH.unpack_from(self._asked, _LENGTH.size)[0]
            self._is_opening, self.has_taken_leave = code in _ASKS_ENCRYPTION, code == _CANCEL
            return True
        if len(self._asked) < 1 + _LENGTH.size:
            return False
        size = 1 + _LENGTH.unpack_from(self._asked, 1)[0]
        self.has_taken_leave = self._asked[:1] == b"X"  # Terminate
        if self._asked[:1] == b"Q" and size <= _QUERY_BYTES_MAX:
            if len(self._asked) < size:
                return False
            if bytes(self._asked[5 : size - 1]) in self._pipes:
                return True
        self._passing = size
        return True

    def from_server(self, data: bytes) -> bytes:
        """What the client is to get for it."""
        if not self._is_copying:
            return data
        self._said += data
        to_client = bytearray()
        while self._is_copying and len(self._said) >= 1 + _LENGTH.size:
            size = 1 + _LENGTH.unpack_from(self._said, 1)[0]
            if len(self._said) < size:
                break
            kind = self._said[:1]
            if kind == b"C":  # CommandComplete
                to_client += _ROWS_HAVE_COME
            to_client += self._said[:size]
            del self._said[:size]
            self._is_copying = kind != b"Z"  # ReadyForQuery
        if not self._is_copying:
            to_client += self._said
            self._said.clear()
        return bytes(to_client)


def render_question(copy: bytes) -> bytes:
    """What pg_dump asks the server for a table's rows, from the statement that loads them; empty if that is none.

    fmtCopyColumnList and dumpTableData_copy of pg_dump.c write both alike.
    """
    body, found, rest = copy.rpartition(b" FROM stdin;")
    return body + _TO_CLIENT if found and not rest.strip() else b""
