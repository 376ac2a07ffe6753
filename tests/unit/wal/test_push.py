"""What may enter the archive, and where it goes."""

from __future__ import annotations

import json
import os

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Conflict, Damaged, NotFound, PghavenError, Refused
from pghaven.events import Event, Notice
from pghaven.postgres.datadir import RESTORE_PLAN_FILE
from pghaven.postgres.lsn import Lsn
from pghaven.repository.walstore import PutOutcome
from pghaven.wal.archives import open_archive
from pghaven.wal.directory import make_archive_of_its_own
from pghaven.wal.push import push_into, read_wal_file
from tests.support.walfile import (
    CLUSTER,
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    WalSite,
    make_lineage,
    make_segment,
    render_history,
    segment_name,
)

FOREIGN = SYSTEM_IDENTIFIER + 1
FORK = Lsn(5 * SEGMENT_SIZE + 4096)


def push_path(
    site: WalSite,
    path: str,
    *,
    cluster: str = CLUSTER,
    data_directory: str | None = None,
    events: list[Event] | None = None,
) -> PutOutcome:
    file = read_wal_file(path, data_directory)
    opened = open_archive(site.repository, cluster, file.claim)
    return push_into(opened, file, ManualClock(), (events if events is not None else []).append)


def push(site: WalSite, name: object, content: bytes, events: list[Event] | None = None) -> PutOutcome:
    return push_path(site, site.write(name, content), events=events)


def quarantined(site: WalSite) -> list[str]:
    return [name.rpartition("-")[0] for name in site.archive.list_quarantine()]


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_a_segment_is_stored_with_what_is_known_of_it(site: WalSite) -> None:
    name = segment_name(3)
    content = make_segment(name)
    path = site.write(name, content)
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    assert push_path(site, path) is PutOutcome.STORED
    assert site.archive.get(str(name)) == content
    facts = site.archive.read_facts(str(name))
    assert facts["host"] == os.uname().nodename
    assert facts["pushed_at"] == "2026-01-01T00:00:00.000000Z"
    assert facts["source_mtime"] == "2023-11-14T22:13:20.123457Z"  # rounded up: no commit inside is later
    assert facts["system_identifier"] == str(SYSTEM_IDENTIFIER)


def test_the_same_again_is_success_and_is_stored_once(site: WalSite) -> None:
    name = segment_name(3)
    content = make_segment(name)
    assert push(site, name, content) is PutOutcome.STORED
    assert push(site, name, content) is PutOutcome.ALREADY


def test_other_content_under_the_same_name_is_refused_and_the_first_is_kept(site: WalSite) -> None:
    name = segment_name(3)
    first = make_segment(name)
    push(site, name, first)
    with pytest.raises(Refused, match="other contents") as refused:
        push(site, name, make_segment(name, seed=1))
    assert str(refused.value.detail).count(" hash ") == 2
    assert site.archive.get(str(name)) == first


@pytest.mark.parametrize(
    "name",
    ["000000010000000000000003.00000028.backup", "x" * 64, "1.2.3", "000000010000000000000003.gz"],
)
def test_any_name_that_postgresql_may_archive_is_stored_as_it_is(site: WalSite, name: str) -> None:
    assert push(site, name, b"whatever") is PutOutcome.STORED
    assert site.archive.get(name) == b"whatever"


def test_an_empty_file_is_stored(site: WalSite) -> None:
    push(site, "empty", b"")
    assert site.archive.get("empty") == b""


@pytest.mark.parametrize("name", ["x" * 65, "a b", "a_b"])
def test_a_name_that_postgresql_does_not_archive_is_refused(site: WalSite, name: str) -> None:
    with pytest.raises(Refused, match="not the name of a file that PostgreSQL archives"):
        push(site, name, b"x")


def test_a_partial_segment_is_kept_under_its_own_name(site: WalSite) -> None:
    name = segment_name(3)
    push(site, f"{name}.partial", make_segment(name))
    assert not site.archive.exists(str(name))
    assert site.archive.get(f"{name}.partial") == make_segment(name)


def test_a_segment_that_begins_as_a_copy_of_its_ancestor_s_is_stored(site: WalSite) -> None:
    name = segment_name(3, timeline=2)
    assert push(site, name, make_segment(name, page_timeline=1)) is PutOutcome.STORED


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_foreign_segment_is_refused_and_both_sides_are_named(site: WalSite) -> None:
    name = segment_name(3)
    with pytest.raises(Refused) as refused:
        push(site, name, make_segment(name, system_identifier=FOREIGN))
    assert str(FOREIGN) in str(refused.value)
    assert str(SYSTEM_IDENTIFIER) in str(refused.value)
    assert not site.archive.exists(str(name))


def test_a_foreign_history_file_is_refused_by_the_data_directory_it_comes_from(site: WalSite) -> None:
    control = site.data_directory / "global" / "pg_control"
    control.write_bytes(FOREIGN.to_bytes(8, "little") + bytes(8184))
    with pytest.raises(Refused, match=str(FOREIGN)):
        push(site, "00000002.history", render_history((1, FORK)))


def test_a_history_file_from_nowhere_is_refused(site: WalSite, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.path.abspath(site.write("00000002.history", render_history((1, FORK))))
    monkeypatch.chdir(site.root)
    with pytest.raises(Refused, match="cannot tell which cluster"):
        push_path(site, path)


def test_a_segment_says_itself_whose_it_is(site: WalSite, monkeypatch: pytest.MonkeyPatch) -> None:
    name = segment_name(3)
    path = os.path.abspath(site.write(name, make_segment(name)))
    monkeypatch.chdir(site.root)
    assert push_path(site, path) is PutOutcome.STORED


def test_a_cluster_that_was_upgraded_archives_under_its_new_identifier(site: WalSite) -> None:
    site.repository.register_lineage(CLUSTER, make_lineage(system_identifier=FOREIGN, major=18), new_lineage=True)
    name = segment_name(3)
    push(site, name, make_segment(name))
    content = make_segment(name, system_identifier=FOREIGN, major=18)
    assert push(site, name, content) is PutOutcome.STORED


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (make_segment(segment_name(3))[:-1], Damaged, "has 1048575 bytes, expected 1048576"),
        (make_segment(segment_name(3)) + b"x", Damaged, "has 1048577 bytes, expected 1048576"),
        (make_segment(segment_name(4)), Damaged, "another segment"),
        (make_segment(segment_name(3, timeline=2)), Damaged, "timeline 2"),
        (make_segment(segment_name(3), major=16), Refused, "PostgreSQL 16, but this cluster is PostgreSQL 17"),
        (bytes(SEGMENT_SIZE), Damaged, "zeros"),
        (b"x" * SEGMENT_SIZE, Damaged, "which no PostgreSQL writes"),
        (b"", Damaged, "has 0 bytes, expected 1048576"),
    ],
)
def test_what_is_not_the_segment_its_name_says_is_refused(
    site: WalSite, content: bytes, error: type[PghavenError], text: str
) -> None:
    with pytest.raises(error, match=text):
        push(site, segment_name(3), content)
    assert not site.archive.exists(str(segment_name(3)))


def test_another_segment_size_is_refused(site: WalSite) -> None:
    name = segment_name(1, segment_size=2 << 20)
    with pytest.raises(Refused, match="2097152 bytes, but this cluster's have 1048576"):
        push(site, name, make_segment(name))


def test_a_history_file_that_cannot_be_read_never_enters(site: WalSite) -> None:
    with pytest.raises(Damaged, match="line 1"):
        push(site, "00000002.history", b"1\tnonsense\n")
    assert not site.archive.exists("00000002.history")


def test_a_history_file_is_never_replaced(site: WalSite) -> None:
    first = render_history((1, FORK))
    push(site, "00000002.history", first)
    with pytest.raises(Refused, match="other contents"):
        push(site, "00000002.history", render_history((1, Lsn(FORK + 8))))
    assert site.archive.get("00000002.history") == first


def test_a_cluster_that_is_not_registered_is_not_found(site: WalSite) -> None:
    path = site.write(segment_name(3), make_segment(segment_name(3)))
    with pytest.raises(NotFound, match='cluster "other" is not registered'):
        push_path(site, path, cluster="other")


def test_what_is_no_file_is_refused(site: WalSite) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        push_path(site, "pg_wal/1")
    os.mkfifo("pg_wal/2")
    with pytest.raises(Refused, match="not a regular file"):
        push_path(site, "pg_wal/2")


# -- restored copies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ['{"archiving": "off"}', "{}", "[]", "not json", ""])
def test_a_restored_copy_may_not_archive(site: WalSite, plan: str) -> None:
    (site.data_directory / RESTORE_PLAN_FILE).write_text(plan)
    with pytest.raises(Refused, match="restored copy") as refused:
        push(site, segment_name(3), make_segment(segment_name(3)))
    assert RESTORE_PLAN_FILE in str(refused.value.hint)
    assert not site.archive.exists(str(segment_name(3)))


def test_a_restored_server_that_was_allowed_to_may_archive(site: WalSite) -> None:
    (site.data_directory / RESTORE_PLAN_FILE).write_text(json.dumps({"format": 1, "archiving": "allowed"}))
    assert push(site, segment_name(3), make_segment(segment_name(3))) is PutOutcome.STORED


def test_a_copy_that_is_a_cluster_of_its_own_archives_as_that_and_as_no_other(site: WalSite) -> None:
    (site.data_directory / RESTORE_PLAN_FILE).write_text(json.dumps({"format": 1, "archiving": "off"}))
    make_archive_of_its_own(str(site.data_directory), "copy")
    path = site.write(segment_name(3), make_segment(segment_name(3)))
    with pytest.raises(Refused, match='archives as "copy", not as "shop"'):
        read_wal_file(path, cluster="shop")
    assert read_wal_file(path, cluster="copy").name == str(segment_name(3))


def test_the_configured_directory_counts_when_the_current_one_is_none(
    site: WalSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.path.abspath(site.write(segment_name(3), make_segment(segment_name(3))))
    (site.data_directory / RESTORE_PLAN_FILE).write_text('{"archiving": "off"}')
    monkeypatch.chdir(site.root)
    with pytest.raises(Refused, match="restored copy"):
        push_path(site, path, data_directory=str(site.data_directory))


# -- the fence ---------------------------------------------------------------------------------------------------------


def test_what_a_passed_over_primary_writes_goes_to_quarantine_with_success_and_a_warning(site: WalSite) -> None:
    push(site, "00000002.history", render_history((1, FORK)))
    events: list[Event] = []
    name = segment_name(6)
    assert push(site, name, make_segment(name), events=events) is PutOutcome.QUARANTINED
    assert not site.archive.exists(str(name))
    assert quarantined(site) == [str(name)]
    (notice,) = events
    assert isinstance(notice, Notice)
    assert notice.level == "warning"
    assert f'quarantined "{name}"' in notice.text
    assert f"left at {FORK} for timeline 2" in notice.text


def test_the_segment_with_the_fork_and_those_before_it_are_not_quarantined(site: WalSite) -> None:
    push(site, "00000002.history", render_history((1, FORK)))
    assert push(site, segment_name(5), make_segment(segment_name(5))) is PutOutcome.STORED
    assert push(site, segment_name(4), make_segment(segment_name(4))) is PutOutcome.STORED
    new = segment_name(5, timeline=2)
    assert push(site, new, make_segment(new)) is PutOutcome.STORED


def test_what_differs_only_behind_the_fork_in_its_segment_holds_no_server_up(site: WalSite) -> None:
    """A new primary is asked to archive what it happens to have of its ancestors, recycled files and all."""
    push(site, "00000002.history", render_history((1, FORK)))
    name = segment_name(5)
    archived = make_segment(name)
    push(site, name, archived)
    behind = FORK - name.start_lsn
    other = archived[:behind] + bytes(len(archived) - behind)
    events: list[Event] = []
    assert push(site, name, other, events) is PutOutcome.QUARANTINED
    assert site.archive.get(str(name)) == archived
    assert quarantined(site) == [str(name)]
    (notice,) = events
    assert isinstance(notice, Notice)
    assert f"timeline 1 was left at {FORK}" in notice.text
    two_writers = archived[: behind - 8] + bytes(len(archived) - behind + 8)
    with pytest.raises(Conflict):
        push(site, name, two_writers)


def test_a_damaged_object_of_the_segment_with_the_fork_holds_no_server_up_and_is_told(site: WalSite) -> None:
    name = segment_name(5)
    content = make_segment(name)
    push(site, name, content)
    (stored,) = [path for path in site.root.rglob(str(name)) if "repository" in str(path)]
    damaged = bytearray(stored.read_bytes())
    damaged[40] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(damaged)
    with pytest.raises(Damaged):
        push(site, name, content)  # nothing but this one would have it
    push(site, "00000002.history", render_history((1, FORK)))
    events: list[Event] = []
    assert push(site, name, content, events) is PutOutcome.QUARANTINED
    assert stored.read_bytes() == damaged  # nothing is overwritten
    assert quarantined(site) == [str(name)]
    assert site.archive.get_quarantined(site.archive.list_quarantine()[0]) == content
    assert [(one.level, one.code) for one in events if isinstance(one, Notice)] == [
        ("warning", "wal_damaged"),
        ("info", "remainder"),
    ]


def test_a_recycled_file_under_a_name_that_its_timeline_never_came_to_holds_no_server_up(site: WalSite) -> None:
    name, recycled = segment_name(5), make_segment(segment_name(2))
    with pytest.raises(Damaged):
        push(site, name, recycled)
    push(site, "00000002.history", render_history((1, FORK)))
    assert push(site, name, recycled) is PutOutcome.QUARANTINED
    assert not site.archive.exists(str(name))
    with pytest.raises(Damaged):
        push(site, segment_name(4), recycled)  # of the cluster's past, and wanted


def test_a_partial_segment_past_the_fork_is_quarantined_too(site: WalSite) -> None:
    push(site, "00000002.history", render_history((1, FORK)))
    name = f"{segment_name(6)}.partial"
    assert push(site, name, make_segment(segment_name(6))) is PutOutcome.QUARANTINED


def test_quarantine_keeps_rivals_apart_and_takes_the_same_again(site: WalSite) -> None:
    push(site, "00000002.history", render_history((1, FORK)))
    name = segment_name(6)
    for seed in (0, 1, 0):
        assert push(site, name, make_segment(name, seed=seed)) is PutOutcome.QUARANTINED
    assert quarantined(site) == [str(name)] * 2


def test_a_segment_that_came_before_the_history_stays_where_it_is(site: WalSite) -> None:
    name = segment_name(6)
    push(site, name, make_segment(name))
    push(site, "00000002.history", render_history((1, FORK)))
    assert push(site, name, make_segment(name)) is PutOutcome.ALREADY
    assert quarantined(site) == []
    assert push(site, name, make_segment(name, seed=1)) is PutOutcome.QUARANTINED


def test_what_another_timeline_still_comes_from_is_not_quarantined(site: WalSite) -> None:
    push(site, "00000002.history", render_history((1, FORK)))
    push(site, "00000003.history", render_history((1, Lsn(9 * SEGMENT_SIZE))))
    assert push(site, segment_name(6), make_segment(segment_name(6))) is PutOutcome.STORED
    assert push(site, segment_name(9), make_segment(segment_name(9))) is PutOutcome.QUARANTINED


def test_wal_of_a_timeline_without_its_history_fences_nobody(site: WalSite) -> None:
    new = segment_name(5, timeline=2)
    push(site, new, make_segment(new))
    assert push(site, segment_name(6), make_segment(segment_name(6))) is PutOutcome.STORED


def test_a_damaged_history_fences_nobody_and_is_told(site: WalSite) -> None:
    push(site, "00000002.history", render_history((1, FORK)))
    path = site.object_path("00000002.history")
    os.chmod(path, 0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    events: list[Event] = []
    assert push(site, segment_name(6), make_segment(segment_name(6)), events=events) is PutOutcome.STORED
    (notice,) = events
    assert isinstance(notice, Notice)
    assert "cannot tell what timeline 2 left behind" in notice.text
