"""The receiver's spool: what survives, what waits, what is whose."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pghaven.errors import Conflict, Damaged, Locked
from pghaven.postgres.timeline import Timeline
from pghaven.receive.spool import Spool, open_spool
from tests.support.walfile import SEGMENT_SIZE, SYSTEM_IDENTIFIER, make_segment, segment_name

SENT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ONE = segment_name(3)


def adopt(spool: Spool) -> Spool:
    spool.adopt(SYSTEM_IDENTIFIER, SEGMENT_SIZE)
    return spool


def receive(spool: Spool, content: bytes) -> None:
    writer = spool.open_unfinished(ONE)
    writer.write(memoryview(content))
    writer.sync()
    writer.close(SENT)


def test_a_finished_segment_waits_as_in_pg_wal_with_the_server_s_time(tmp_path: Path) -> None:
    with open_spool(str(tmp_path / "spool")) as spool:
        writer = adopt(spool).open_unfinished(ONE)
        writer.write(memoryview(make_segment(ONE)))
        assert not writer.room
        writer.finish(SENT)
        assert (tmp_path / "spool" / str(ONE)).read_bytes() == make_segment(ONE)
        assert os.stat(spool.path(ONE)).st_mtime == SENT.timestamp()
        assert os.listdir(tmp_path / "spool/archive_status") == [f"{ONE}.ready"]
        assert (spool.list_finished(), spool.list_unfinished()) == ([ONE], [])
        spool.settle(str(ONE))
        assert not spool.has_waiting()
        assert spool.list_finished() == []


def test_what_a_crash_left_without_a_mark_waits_after_a_restart(tmp_path: Path) -> None:
    with open_spool(str(tmp_path)) as spool:
        adopt(spool).put_history(Timeline(2), b"x")
    (tmp_path / str(ONE)).write_bytes(make_segment(ONE))
    (tmp_path / "archive_status/00000002.history.ready").unlink()
    with open_spool(str(tmp_path)):
        assert sorted(os.listdir(tmp_path / "archive_status")) == [f"{ONE}.ready", "00000002.history.ready"]


def test_an_unfinished_segment_is_received_again_over_what_is_there_and_keeps_its_length(tmp_path: Path) -> None:
    whole = make_segment(ONE)
    with open_spool(str(tmp_path)) as spool:
        receive(adopt(spool), whole[:9000])
        (unfinished,) = spool.list_unfinished()
        assert (unfinished.segment, unfinished.length) == (ONE, 9000)
        writer = spool.open_unfinished(ONE)
        assert (writer.length, writer.synced) == (9000, 9000)
        writer.write(memoryview(whole[:5000]))
        assert (writer.length, writer.synced, writer.rewritten) == (9000, 9000, 0)
        writer.write(memoryview(whole[5000:12000]))
        assert (writer.length, writer.synced, writer.rewritten) == (12000, 9000, 0)
        writer.sync()
        assert writer.synced == 12000
        writer.close()


def test_what_differs_is_replaced_and_not_taken_for_synced(tmp_path: Path) -> None:
    whole = make_segment(ONE)
    with open_spool(str(tmp_path)) as spool:
        receive(adopt(spool), whole[:4000] + bytes(5000))
        writer = spool.open_unfinished(ONE)
        writer.write(memoryview(whole[:3000]))
        writer.write(memoryview(whole[3000:6000]))
        assert writer.rewritten == 1
        assert (writer.length, writer.synced) == (6000, 3000)
        writer.sync()
        writer.close()
    assert (tmp_path / f"{ONE}.partial").read_bytes()[:6000] == whole[:6000]


def test_a_spool_is_one_receiver_s_and_one_server_s(tmp_path: Path) -> None:
    with open_spool(str(tmp_path)) as spool:
        adopt(spool)
        with pytest.raises(Locked), open_spool(str(tmp_path)):
            pass
    with open_spool(str(tmp_path)) as spool:
        known = spool.notes
        assert adopt(spool).notes == known
        with pytest.raises(Conflict, match="holds WAL of system identifier"):
            spool.adopt(5, SEGMENT_SIZE)


def test_notes_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "receiver.json").write_text("{}")
    with pytest.raises(Damaged, match=r"receiver\.json"), open_spool(str(tmp_path)):
        pass
