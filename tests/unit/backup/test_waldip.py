"""Looking through archived WAL for a time of wal_level = minimal; what is not there counts against the parent."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from pghaven.backup.waldip import DipSearch, find_dip, has_run_since
from pghaven.clock import ManualClock
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, Timeline, parse_history
from pghaven.repository.entry import BackupEntry, BackupState
from pghaven.repository.walstore import WalArchive
from pghaven.store.memory import MemoryStore
from pghaven.units import render_time_utc
from tests.support.serverfacts import FACTS
from tests.support.synthetic import SYSTEM_IDENTIFIER, BackupOrder, make_intent, make_repository, open_archive
from tests.unit.postgres.walmaker import MIB, WalMaker

FIRST = 5
LENGTH = 4
START, END = Lsn(FIRST * MIB + 0x28), Lsn((FIRST + LENGTH) * MIB + 0x28)


def make_wal(changes: dict[int, int], *, last: bool = True) -> WalMaker:
    """Some segments; ``changes`` gives the wal_level that the server came up with in the segment of that number."""
    maker = WalMaker(first_segment=FIRST, system_identifier=SYSTEM_IDENTIFIER)
    for number in range(FIRST, FIRST + LENGTH):
        maker.append(data=bytes(1000))
        if number in changes:
            maker.append_main(0, 0x60, struct.pack("<6i4x", 100, 8, 10, 0, 64, changes[number]))
        maker.append(data=bytes(1000))
        maker.switch()
    return maker


def archive_of(maker: WalMaker, keep: Callable[[int], bool] = lambda number: True) -> WalArchive:
    archive = open_archive(make_repository(MemoryStore(), clock=ManualClock()))
    for name, content in maker.segments():
        if keep(name.number):
            archive.put(str(name), content, {})
    return archive


def search(**changes: object) -> DipSearch:
    usual = DipSearch(
        history=History.root(Timeline(1)),
        start_lsn=START,
        end_lsn=END,
        from_standby=False,
        timeout_seconds=5,
        on_wait=lambda: None,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_wal_without_starts_or_with_starts_at_other_levels_has_no_dip() -> None:
    assert find_dip(archive_of(make_wal({})), search()) is None
    assert find_dip(archive_of(make_wal({5: 1, 7: 2, 8: 1})), search()) is None


@pytest.mark.parametrize("number", range(FIRST, FIRST + LENGTH))
def test_start_at_level_minimal_is_found_in_every_segment(number: int) -> None:
    maker = make_wal({number: 0})
    place = next(made.start_lsn for made in maker.made if (made.rmid, made.info) == (0, 0x60))
    said = f"wal_level was minimal since: the server was started so at {Lsn(place)}"
    assert find_dip(archive_of(maker), search()) == said


def test_what_was_before_the_parent_or_comes_after_the_start_does_not_count() -> None:
    archive = archive_of(make_wal({FIRST: 0, FIRST + LENGTH - 1: 0}))
    between = search(start_lsn=Lsn((FIRST + 1) * MIB + 0x28), end_lsn=Lsn((FIRST + LENGTH - 1) * MIB + 0x28))
    assert find_dip(archive, between) is None
    assert find_dip(archive, replace(between, start_lsn=START)) is not None
    late = Lsn(FIRST * MIB + 4096)
    assert find_dip(archive, replace(between, start_lsn=late)) is None


@pytest.mark.parametrize("number", range(FIRST, FIRST + LENGTH))
def test_missing_segment_counts_against_the_parent(number: int) -> None:
    archive = archive_of(make_wal({}), lambda other: other != number)
    said = f"wal_level may have been minimal since: WAL segment 0000000100000000{number:08X} is not in the archive"
    assert find_dip(archive, search()) == said


def test_last_segment_is_waited_for_but_not_for_ever() -> None:
    maker = make_wal({})
    archive = archive_of(maker, lambda number: number != FIRST + LENGTH - 1)
    name, content = maker.segments()[-1]
    waits: list[float] = []

    def on_wait() -> None:
        waits.append(archive.clock.monotonic())
        if len(waits) == 20:
            archive.put(str(name), content, {})

    assert find_dip(archive, search(on_wait=on_wait)) is None
    assert len(waits) == 20
    assert find_dip(archive_of(maker, lambda number: number < FIRST), search()) is not None


def test_segment_in_which_a_primarys_backup_starts_is_not_needed() -> None:
    archive = archive_of(make_wal({}))
    inside = search(end_lsn=Lsn((FIRST + LENGTH) * MIB + 4096))
    assert find_dip(archive, inside) is None
    assert "is not in the archive" in (find_dip(archive, replace(inside, from_standby=True)) or "")


def test_standbys_last_segment_is_looked_at_up_to_the_start() -> None:
    maker = make_wal({FIRST + LENGTH - 1: 0})
    place = next(made.start_lsn for made in maker.made if (made.rmid, made.info) == (0, 0x60))
    archive = archive_of(maker)
    assert find_dip(archive, search(end_lsn=Lsn(place), from_standby=True)) is None
    assert find_dip(archive, search(end_lsn=Lsn(place + 8), from_standby=True)) is not None


def test_damaged_segment_counts_against_the_parent() -> None:
    maker = make_wal({FIRST + 1: 1})
    change = next(made for made in maker.made if (made.rmid, made.info) == (0, 0x60))
    damaged = bytearray(maker.segments()[1][1])
    damaged[change.start_lsn % MIB - 500] ^= 1
    archive = archive_of(maker, lambda number: number != FIRST + 1)
    archive.put(str(maker.segments()[1][0]), bytes(damaged), {})
    found = find_dip(archive, search())
    assert found is not None
    assert found.startswith(
        "wal_level may have been minimal since: WAL segment 000000010000000000000006 cannot be read"
    )


def test_segment_of_another_cluster_counts_against_the_parent() -> None:
    stranger = WalMaker(first_segment=FIRST, system_identifier=1)
    stranger.append(data=bytes(100))
    archive = archive_of(make_wal({}), lambda number: number != FIRST)
    archive.put(str(stranger.segments()[0][0]), stranger.segments()[0][1], {})
    assert "belongs to system identifier 1" in (find_dip(archive, search()) or "")


def test_change_that_reaches_into_the_next_segment_is_read() -> None:
    for level in (0, 1):
        maker = WalMaker(first_segment=FIRST, system_identifier=SYSTEM_IDENTIFIER)
        while MIB - len(maker.area) > 4000:
            maker.append(data=bytes(1000))
        maker.append(data=bytes(MIB - len(maker.area) - 24 - 16))
        made = maker.append_main(0, 0x60, struct.pack("<6i4x", 100, 8, 10, 0, 64, level))
        assert made.start_lsn == (FIRST + 1) * MIB - 16
        maker.switch()
        found = find_dip(archive_of(maker), search(end_lsn=Lsn((FIRST + 2) * MIB + 0x28)))
        assert (found is not None) == (level == 0)


def test_segment_of_a_switch_is_taken_from_the_timeline_that_goes_on() -> None:
    """The old timeline's last segment is never archived as such; the new one's first begins with a copy of it."""
    maker = WalMaker(first_segment=FIRST, system_identifier=SYSTEM_IDENTIFIER)
    maker.append(data=bytes(1000))
    maker.switch()
    maker.append_main(0, 0x60, struct.pack("<6i4x", 100, 8, 10, 0, 64, 0))
    archive = archive_of(maker, lambda number: number == FIRST)
    fork = Lsn((FIRST + 1) * MIB + 8192)
    name, content = maker.segments()[1]
    archive.put(str(replace(name, timeline=Timeline(2))), content, {})
    history = parse_history(f"1\t{fork}\tx\n", Timeline(2))
    found = find_dip(archive, search(history=history, end_lsn=Lsn((FIRST + 2) * MIB + 0x28)))
    assert found is not None
    assert found.startswith("wal_level was minimal since")


PARENT = BackupEntry(
    label="a",
    state=BackupState.COMMITTED,
    intent=None,
    last_sign=None,
    summary={
        "started_at": render_time_utc(FACTS.started + timedelta(hours=1)),
        "stopped_at": render_time_utc(FACTS.started + timedelta(hours=2)),
    },
)
BOOT = "b/4026531836"
LATER = replace(FACTS, probed=FACTS.started + timedelta(hours=3))


def test_server_that_has_run_since_before_the_parent_had_no_dip() -> None:
    assert has_run_since(LATER, PARENT, BOOT)


@pytest.mark.parametrize(
    ("started", "probed"),
    [(timedelta(hours=1), timedelta(hours=3)), (timedelta(minutes=59, seconds=30), timedelta(hours=3))],
)
def test_server_that_was_started_since_or_about_then_may_have_had_one(started: timedelta, probed: timedelta) -> None:
    facts = replace(FACTS, started=FACTS.started + started, probed=FACTS.started + probed)
    assert not has_run_since(facts, PARENT, BOOT)


def test_parent_of_this_boot_was_timed_by_the_same_clock() -> None:
    about_then = replace(LATER, started=FACTS.started + timedelta(minutes=59, seconds=30))
    intent = make_intent(BackupOrder())
    assert not has_run_since(
        about_then, replace(PARENT, intent=replace(intent, who=replace(intent.who, boot_id="another/4026531836"))), BOOT
    )
    assert has_run_since(
        about_then, replace(PARENT, intent=replace(intent, who=replace(intent.who, boot_id="b/1"))), BOOT
    )


def test_clock_that_was_put_back_proves_nothing() -> None:
    assert not has_run_since(replace(LATER, probed=FACTS.started + timedelta(minutes=90)), PARENT, BOOT)


def test_parent_that_does_not_say_when_it_was_proves_nothing() -> None:
    assert not has_run_since(LATER, replace(PARENT, summary={}), BOOT)
