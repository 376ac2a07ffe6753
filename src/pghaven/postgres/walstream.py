"""The messages of a physical replication stream, as bytes in and values out.

The one idea: a server sends WAL and the end of what it has, a receiver answers with how far it has written and flushed;
the server takes every flush that is reported for a promise. Follows "Streaming Replication Protocol" in PostgreSQL's
manual, and walsender.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn

_WAL: Final = struct.Struct("!QQq")
_KEEPALIVE: Final = struct.Struct("!QqB")
_STATUS: Final = struct.Struct("!cQQQqB")
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalMessage:
    """WAL from ``start_lsn`` on. ``sent_at`` is the server's clock."""

    start_lsn: Lsn
    sent_at: datetime
    data: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """The server has sent everything up to ``end_lsn``; it may ask for an answer at once."""

    end_lsn: Lsn
    sent_at: datetime
    wants_reply: bool


def parse_message(data: bytes | memoryview) -> WalMessage | Keepalive:
    """One message. Raises Damaged for what no server sends."""
    view = memoryview(data)
    kind = bytes(view[:1])
    try:
        if kind == b"w":
            start, _, sent = _WAL.unpack_from(view, 1)
            return WalMessage(start_lsn=Lsn(start), sent_at=_moment(sent), data=view[1 + _WAL.size :])
        if kind == b"k":
            end, sent, wants_reply = _KEEPALIVE.unpack_from(view, 1)
            return Keepalive(end_lsn=Lsn(end), sent_at=_moment(sent), wants_reply=bool(wants_reply))
    except (struct.error, ValueError, OverflowError) as error:
        raise Damaged(f"the server sent a message that cannot be read: {error}") from error
    raise Damaged(f"the server sent a message of unknown kind {kind!r}")


def render_status(written: Lsn, flushed: Lsn, now: datetime, *, ask: bool = False) -> bytes:
    """A receiver's answer, which may ask for one in turn; nothing is said of replay."""
    microseconds = (now - _EPOCH) // timedelta(microseconds=1)
    return _STATUS.pack(b"r", written, flushed, 0, microseconds, ask)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
