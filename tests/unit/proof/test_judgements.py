"""What facts mean, one line each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.proof.judgements import (
    is_own_command,
    judge_archive_command,
    judge_backlog,
    judge_newest_backup,
    judge_old_settings,
    judge_privileges,
    judge_repository_space,
    judge_standby_archive,
)
from pghaven.proof.results import Verdict, fail, good, judge, skip, warn
from pghaven.repository.entry import BackupEntry, BackupState
from pghaven.units import render_time_utc
from pghaven.wal.behind import Behind

NOW = datetime(2026, 11, 23, tzinfo=UTC)
COMMAND = "/usr/bin/pghaven wal push --config /etc/pghaven/pghaven.toml --cluster main %p"


def entry(age: timedelta, **summary: object) -> BackupEntry:
    facts = {"stopped_at": render_time_utc(NOW - age), "stored_bytes": 100, "bad_pages": 0, **summary}
    return BackupEntry(label="b", state=BackupState.COMMITTED, intent=None, last_sign=None, summary=facts)


def test_the_worst_verdict_counts_and_skipped_ones_do_not() -> None:
    assert judge([good("a", ""), skip("b", "")]) is Verdict.OK
    assert judge([good("a", ""), warn("b", "")]) is Verdict.WARNING
    assert judge([fail("a", ""), warn("b", "")]) is Verdict.FAILED


@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        (COMMAND, Verdict.OK),
        (COMMAND.replace("/usr/bin", "'/opt/my tools'"), Verdict.OK),
        ("pghaven wal push %p", Verdict.OK),
        (COMMAND.replace("main", "other"), Verdict.FAILED),
        ("pgbackrest --stanza=main archive-push %p", Verdict.FAILED),
        ("test ! -f /mnt/%f && cp %p /mnt/%f", Verdict.FAILED),
        ("", Verdict.FAILED),
        ("(disabled)", Verdict.SKIPPED),
    ],
)
def test_an_archive_command_is_known_for_whose_it_is(command: str, verdict: Verdict) -> None:
    assert judge_archive_command(command, COMMAND, "main").verdict is verdict


def test_a_command_for_another_cluster_is_not_ours() -> None:
    assert is_own_command(COMMAND, "main")
    assert not is_own_command(COMMAND, "mainly")


@pytest.mark.parametrize(
    ("missing", "verdict"),
    [
        ((), Verdict.OK),
        (("pg_checkpoint",), Verdict.WARNING),
        (("EXECUTE ON FUNCTION pg_catalog.pg_backup_stop(boolean)",), Verdict.FAILED),
    ],
)
def test_a_missing_privilege_fails_where_a_backup_needs_it(missing: tuple[str, ...], verdict: Verdict) -> None:
    result = judge_privileges('o"dd', missing)
    assert result.verdict is verdict
    assert all(f'GRANT {one} TO "o""dd"' in (result.hint or "") for one in missing)


@pytest.mark.parametrize(
    ("entries", "verdict"),
    [
        ([], Verdict.WARNING),
        ([entry(timedelta(days=1))], Verdict.OK),
        ([entry(timedelta(days=8))], Verdict.WARNING),
        ([entry(timedelta(days=8)), entry(timedelta(hours=1))], Verdict.OK),
        ([entry(timedelta(hours=1), bad_pages=1)], Verdict.WARNING),
        ([entry(timedelta(hours=-1))], Verdict.OK),
    ],
)
def test_the_newest_backup_is_judged_by_age_and_wholeness(entries: list[BackupEntry], verdict: Verdict) -> None:
    assert judge_newest_backup("main", entries, NOW).verdict is verdict


def test_a_repository_needs_room_for_one_more_backup() -> None:
    entries = [entry(timedelta(0))]
    assert judge_repository_space(99, entries, "space").verdict is Verdict.WARNING
    assert judge_repository_space(100, entries, "space").verdict is Verdict.OK
    assert judge_repository_space(None, entries, "space").verdict is Verdict.SKIPPED


def test_an_archive_may_be_a_few_segments_behind_a_standby() -> None:
    assert judge_standby_archive(Lsn(500), Lsn(100), 100) is None
    behind = judge_standby_archive(Lsn(501), Lsn(100), 100)
    assert behind is not None
    assert behind.verdict is Verdict.WARNING
    assert judge_standby_archive(Lsn(100), Lsn(500), 100) is None


def test_old_settings_are_told_with_what_does_it_today() -> None:
    (fine,) = judge_old_settings({"promote_trigger_file": "", "vacuum_defer_cleanup_age": "0"}, ())
    assert fine.verdict is Verdict.OK
    found = judge_old_settings({"promote_trigger_file": "/tmp/go"}, ("recovery.done",))
    assert [result.verdict for result in found] == [Verdict.WARNING, Verdict.WARNING]
    assert found[0].hint == "Today: pg_ctl promote, or SELECT pg_promote()."


MISSED = Behind(
    repository="second",
    since=datetime(2026, 1, 1, tzinfo=UTC),
    tried_at=datetime(2026, 1, 1, tzinfo=UTC),
    reason="could not reach it",
    names=("000000010000000000000003",),
)


@pytest.mark.parametrize(
    ("missed", "behind_bytes", "verdict", "text"),
    [
        (None, None, Verdict.OK, "nothing of this timeline yet"),
        (None, 3 << 20, Verdict.OK, "3.00 MiB of WAL are not in it yet"),
        (None, 17 << 20, Verdict.WARNING, "17.0 MiB of WAL are not in it yet"),
        (MISSED, 0, Verdict.WARNING, "1 WAL file missed since"),
    ],
)
def test_the_backlog_of_a_repository(
    missed: Behind | None, behind_bytes: int | None, verdict: Verdict, text: str
) -> None:
    found = judge_backlog("backlog", "main", missed, behind_bytes, 1 << 20)
    assert found.verdict is verdict
    assert text in found.text
