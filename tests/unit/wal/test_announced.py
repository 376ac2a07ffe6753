"""Whose timelines may enter the archive, by what a member has noted of its promotions."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pghaven.postgres.timeline import Timeline
from pghaven.wal.announced import announce_promotion, may_archive, note_begun, note_member

BEGUN, MISTAKE = Timeline(6), Timeline(8)


@pytest.fixture
def member(tmp_path: Path) -> Path:
    (tmp_path / "pg_wal").mkdir()
    note_member(str(tmp_path), "n3")
    announce_promotion(str(tmp_path), "n3")
    note_begun(str(tmp_path), "n3", BEGUN)
    return tmp_path


def test_an_announced_timeline_enters_and_one_begun_by_mistake_does_not(member: Path) -> None:
    assert may_archive(str(member), BEGUN, is_history=True)
    assert not may_archive(str(member), MISTAKE, is_history=True)
    assert not may_archive(str(member), MISTAKE, is_history=False)
    assert may_archive(str(member), BEGUN, is_history=False)
    announce_promotion(str(member), "n3")
    assert may_archive(str(member), MISTAKE, is_history=True)


@pytest.mark.parametrize(("state", "may"), [(1, False), (3, False), (6, False), (2, True), (5, True)])
def test_a_server_that_still_ends_as_a_primary_is_no_standby_yet(member: Path, state: int, may: bool) -> None:
    """Patroni restarts a server as a standby that somebody has just promoted: the file is there before its end."""
    (member / "global").mkdir()
    (member / "global" / "pg_control").write_bytes(struct.pack("<QIII", 7, 1800, 202506291, state) + bytes(492))
    (member / "standby.signal").touch()
    assert may_archive(str(member), MISTAKE, is_history=True) is may
    assert may_archive(str(member), MISTAKE, is_history=False) is may


def test_a_server_that_is_no_member_is_not_judged(tmp_path: Path) -> None:
    (tmp_path / "pg_wal").mkdir()
    assert may_archive(str(tmp_path), MISTAKE, is_history=True)
