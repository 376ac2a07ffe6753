"""What drills say now: failed, too old, how fast."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.proof.drilled import estimate_recovery, find_rates, judge_drills, judge_proofs
from pghaven.repository.drills import DrillEvidence, find_drill_of

NOW = datetime(2026, 11, 29, tzinfo=UTC)
GIB = 1 << 30
PASSED = DrillEvidence(
    name="clusters/main/evidence/x-drill",
    began_at=NOW - timedelta(days=1),
    passed=True,
    backup="B",
    manifest_hash="aa",
    system_identifier=1,
    target="latest",
    timeline=None,
    reached_lsn=None,
    reached_at=None,
    failures=(),
    seconds={"fetch": 10.0, "replay": 20.0, "first_query": 33.0},
    written_bytes=5 * GIB,
    fetched_bytes=GIB,
    replayed_bytes=2 * GIB,
)
FAILED = replace(PASSED, passed=False, failures=("marker: rows are missing", "rows: x"))


def test_a_drill_that_passed_is_no_problem_until_it_is_old() -> None:
    assert list(judge_drills("main", [PASSED], NOW)) == []
    assert list(judge_drills("main", [], NOW)) == []
    (problem,) = judge_drills("main", [replace(PASSED, began_at=NOW - timedelta(days=31))], NOW)
    assert problem.level == "warning"
    assert problem.hint == "Run: pghaven drill main"


def test_a_drill_that_failed_is_critical_whatever_was_before() -> None:
    (problem,) = judge_drills("main", [FAILED, PASSED], NOW)
    assert problem.level == "critical"
    assert "failed: marker: rows are missing; and 1 more" in problem.text


def test_what_does_not_count_is_told_and_hides_nothing() -> None:
    doubtful = replace(PASSED, began_at=NOW, passed=False, doubt="it is not signed")
    (problem,) = judge_drills("main", [doubtful, PASSED], NOW)
    assert (problem.code, problem.level) == ("drill_doubtful", "warning")
    assert "0 ms ago, does not count: it is not signed" in problem.text
    assert [one.code for one in judge_drills("main", [doubtful, FAILED], NOW)] == ["drill_doubtful", "drill_failed"]
    assert [one.code for one in judge_drills("main", [doubtful], NOW)] == ["drill_doubtful"]
    assert find_drill_of([replace(doubtful, manifest_hash="aa"), PASSED], "B", "aa") is PASSED
    assert find_rates([doubtful]) is None


def test_a_dump_that_could_not_be_loaded_is_not_said_to_be_wrong() -> None:
    """Of each dump the last proof counts."""
    missing = replace(PASSED, passed=False, failures=("load: could not find the programs of PostgreSQL 18",))
    other = replace(PASSED, backup="C", passed=False, failures=("database shop: 1 differ: x",))
    could_not, differs = judge_proofs("main", [missing, PASSED, other], NOW)
    assert could_not.text == (
        "dump B could not be loaded to prove it 1 d 0 h ago: could not find the programs of PostgreSQL 18"
    )
    assert could_not.hint == "Mend that, and prove it: pghaven load B --cluster main --verify"
    assert differs.text == "dump C was found not to be what was dumped 1 d 0 h ago: database shop: 1 differ: x"
    assert list(judge_proofs("main", [PASSED, missing], NOW)) == []


def test_a_drill_in_the_future_is_of_no_known_age() -> None:
    soon = replace(PASSED, began_at=NOW + timedelta(minutes=2))
    assert not soon.is_stale(NOW), "two hosts' clocks"
    assert replace(PASSED, began_at=NOW + timedelta(hours=1)).is_stale(NOW)


def test_rates_are_of_the_last_drill_that_passed() -> None:
    rates = find_rates([FAILED, PASSED])
    assert rates is not None
    assert rates.files_bytes_per_second == 5 * GIB / 10
    assert rates.replay_bytes_per_second == 2 * GIB / 20
    assert estimate_recovery(rates, 10 * GIB, Lsn(0), Lsn(GIB), 1.0) == pytest.approx(20 + 10 + 3)


def test_one_drill_on_a_busy_host_does_not_decide() -> None:
    busy = replace(PASSED, seconds={part: 4 * value for part, value in PASSED.seconds.items()})
    before = [replace(PASSED, began_at=PASSED.began_at - timedelta(days=day)) for day in (7, 14, 21)]
    alone, usual = find_rates([PASSED]), find_rates([busy, *before])
    assert alone is not None
    assert usual is not None
    assert usual.files_bytes_per_second == alone.files_bytes_per_second
    assert usual.replay_bytes_per_second == alone.replay_bytes_per_second
    assert usual.other_seconds == alone.other_seconds
    assert usual.measured_at == PASSED.began_at
    old = replace(PASSED, began_at=PASSED.began_at - timedelta(days=40))
    assert find_rates([busy, old, old]) == find_rates([busy]), "that was another host by now"
    little = replace(PASSED, replayed_bytes=1000)
    mixed = find_rates([little, PASSED])
    assert mixed is not None
    assert (mixed.replay_bytes_per_second, mixed.other_seconds) == (alone.replay_bytes_per_second, alone.other_seconds)


def test_of_little_wal_no_rate_is_taken_and_of_nothing_nothing_is_known() -> None:
    rates = find_rates([replace(PASSED, replayed_bytes=1000)])
    assert rates is not None
    assert rates.replay_bytes_per_second is None
    assert estimate_recovery(rates, 5 * GIB, Lsn(0), Lsn(GIB), GIB) == pytest.approx(10 + 1 + 23)
    assert find_rates([FAILED]) is None
    assert estimate_recovery(None, 1, Lsn(0), Lsn(1), 1.0) is None


def test_a_drill_speaks_of_the_manifest_that_it_restored() -> None:
    assert find_drill_of([PASSED], "B", "aa") is PASSED
    assert find_drill_of([PASSED], "B", "bb") is None
    assert find_drill_of([PASSED], "C", "aa") is None
