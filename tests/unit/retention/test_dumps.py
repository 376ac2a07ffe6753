"""Which dumps stay: for each database by itself."""

from __future__ import annotations

from datetime import timedelta

from pghaven.postgres.timeline import Timeline
from pghaven.repository.entry import BackupEntry, BackupState, Intent, Purpose
from pghaven.retention.dumps import DumpVerdict, plan_dumps
from pghaven.retention.policy import RetentionPolicy
from pghaven.runtime.whoami import ProcessIdentity
from tests.unit.retention.backups import NOW, days

ONE = RetentionPolicy(count=1)


def dump(label: str, age_days: float, *databases: str, options: tuple[str, ...] = ()) -> BackupEntry:
    """A dump of these databases that was begun so many days before NOW."""
    intent = Intent(
        who=ProcessIdentity(host="db1", boot_id="f00d", pid=4711, start="123"),
        started_at=NOW - days(age_days),
        system_identifier=7,
        timeline=Timeline(1),
        start_lsn="0/1000000",
        parent=None,
        sources=(),
        purpose=Purpose.DUMP,
    )
    summary = {"dump": {"databases": list(databases), "options": list(options)}}
    return BackupEntry(label=label, state=BackupState.COMMITTED, intent=intent, last_sign=None, summary=summary)


def kept(verdicts: tuple[DumpVerdict, ...]) -> dict[str, str]:
    return {one.label: "; ".join(one.reasons) for one in verdicts if one.is_kept}


def test_nightly_dumps_of_single_databases_take_no_other_ones_place() -> None:
    entries = [
        dump("shop-1", 2.1, "shop"),
        dump("billing-1", 2.0, "billing"),
        dump("shop-2", 1.1, "shop"),
        dump("billing-2", 1.0, "billing"),
    ]
    found = kept(plan_dumps(ONE, entries, now=NOW))
    assert found == {"shop-2": 'the newest of "shop"', "billing-2": 'the newest of "billing"'}


def test_a_run_with_several_databases_stays_for_one_of_them() -> None:
    entries = [dump("both", 2, "shop", "billing"), dump("shop", 1, "shop")]
    found = kept(plan_dumps(ONE, entries, now=NOW))
    assert found == {"both": 'the newest of "billing"', "shop": 'the newest of "shop"'}
    entries.append(dump("all", 0, "shop", "billing", "new"))
    assert set(kept(plan_dumps(ONE, entries, now=NOW))) == {"all"}, "a new database keeps no old run"


def test_who_always_dumps_the_same_databases_reads_nothing_of_them() -> None:
    entries = [dump(f"run-{number}", 9 - number, "shop", "billing") for number in range(4)]
    found = kept(plan_dumps(RetentionPolicy(count=2), entries, now=NOW))
    assert found == {"run-2": "number 2 of the 2 newest", "run-3": "number 1 of the 2 newest"}


def test_what_was_dumped_with_other_options_takes_no_full_dumps_place() -> None:
    entries = [dump("full", 2, "shop"), dump("bare", 1, "shop", options=("--schema-only",)), dump("roles", 0)]
    found = kept(plan_dumps(ONE, entries, now=NOW))
    assert found == {
        "full": 'the newest of "shop"',
        "bare": 'the newest of "shop" with --schema-only',
        "roles": "the newest of roles and tablespaces alone",
    }


def test_the_last_dump_of_each_database_outlives_the_window() -> None:
    entries = [dump("old", 30, "shop"), dump("older", 40, "billing"), dump("oldest", 50, "billing")]
    found = kept(plan_dumps(RetentionPolicy(window=timedelta(days=7)), entries, now=NOW))
    assert found == {"old": 'the last dump of "shop"', "older": 'the last dump of "billing"'}
