"""Messages of a replication stream."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

import pytest

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.walstream import Keepalive, WalMessage, parse_message, render_status

MOMENT = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)
SINCE_2000 = (MOMENT - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_wal_is_read_with_its_position_and_time() -> None:
    message = parse_message(b"w" + struct.pack("!QQq", 0x1000028, 0x1000030, SINCE_2000) + b"bytes")
    assert isinstance(message, WalMessage)
    assert (message.start_lsn, message.sent_at, bytes(message.data)) == (Lsn(0x1000028), MOMENT, b"bytes")


@pytest.mark.parametrize("wants", [False, True])
def test_a_keepalive_may_want_an_answer(wants: bool) -> None:
    message = parse_message(memoryview(b"k" + struct.pack("!QqB", 0x1000028, SINCE_2000, wants)))
    assert message == Keepalive(end_lsn=Lsn(0x1000028), sent_at=MOMENT, wants_reply=wants)


@pytest.mark.parametrize("data", [b"", b"x", b"w123", b"k", b"w" + struct.pack("!QQq", 1, 1, 1 << 62)])
def test_what_no_server_sends_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged):
        parse_message(data)


def test_an_answer_says_what_is_written_and_flushed_and_nothing_of_replay() -> None:
    data = render_status(Lsn(30), Lsn(20), MOMENT, ask=True)
    assert struct.unpack("!cQQQqB", data) == (b"r", 30, 20, 0, SINCE_2000, 1)
