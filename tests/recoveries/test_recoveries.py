"""``wal get`` has no server come up short, whatever is wrong with the archive; and the judge finds those that do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.recoveries.cases import CASES, OPENS, STOPS, Case
from tests.recoveries.recorded import record
from tests.recoveries.run import Judge, Outcome
from tests.recoveries.tools import Pghaven, Plain
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory, ObjectServerFactory
from tests.support.httpproxy import proxying

# What other tests with real servers do not hold already; all others are slow.
QUICK = {"absent at the end", "misdirected", "other cluster", "one down, one with a gap", "part at the end"}


@pytest.fixture
def judge(make_cluster: ClusterFactory, server_path: Path) -> Judge:
    return Judge(make_cluster, record(make_cluster, server_path), server_path)


def assert_held(case: Case, outcome: Outcome, by_hand: bool = False) -> None:
    told = f"{case.name}: {outcome.end} with {outcome.rows}, {outcome.calls}\n{outcome.log}"
    assert not outcome.fails(case), told
    if case.absent is not None:
        assert set(outcome.statuses_of(case.absent)) == {1}, told
    if outcome.end == STOPS:
        assert outcome.calls[-1][1] > 125, told
        assert all(status == 0 or status > 125 or name.endswith(".history") for name, status in outcome.calls), told


def test_no_server_comes_up_short_in_what_is_quickly_tried(judge: Judge, pghaven_command: PghavenCommand) -> None:
    tool = Pghaven(command=pghaven_command)
    for case in CASES:
        if case.name in QUICK:
            assert_held(case, judge.judge(case, tool))


@pytest.mark.slow
def test_no_server_comes_up_short(pg_version: int, judge: Judge, pghaven_command: PghavenCommand) -> None:
    tool = Pghaven(command=pghaven_command)
    for case in CASES:
        if case.needs <= tool.can:
            assert_held(case, judge.judge(case, tool))


@pytest.mark.slow
def test_no_server_comes_up_short_without_a_plan(judge: Judge, pghaven_command: PghavenCommand) -> None:
    tool = Pghaven(command=pghaven_command, planned=False)
    for case in CASES:
        if case.needs <= tool.can - {"plan"} and case.name != "left line":  # which is what a plan saves from
            assert_held(case, judge.judge(case, tool))


@pytest.mark.slow
def test_no_server_comes_up_short_over_a_network(
    judge: Judge, pghaven_command: PghavenCommand, object_server: ObjectServerFactory
) -> None:
    server = object_server("moto")
    with proxying(server.port) as proxy:
        store = server.settings(endpoint=proxy.endpoint)
        tool = Pghaven(command=pghaven_command, store=store, can=frozenset({"network"}))
        for case in CASES:
            if case.needs == {"network"}:
                assert_held(case, judge.judge(case, tool, proxy))


def test_a_command_that_takes_trouble_for_absence_is_found(judge: Judge) -> None:
    """Without this the judge could not be believed: cp gives 1 for all that goes wrong."""
    tool = Plain(name="cp", command="cp {archive}/%f %p")
    cases = {case.name: case for case in CASES}
    found = judge.judge(cases["found"], tool)
    assert (found.end, found.rows) == (OPENS, cases["found"].rows), found.log
    away = judge.judge(cases["repository away"], tool)
    assert away.lost(cases["repository away"])
    assert (away.end, away.rows) == (OPENS, (1, 2, 3)), away.log
    stopping = replace(tool, command="cp {archive}/%f %p || exit 255")
    assert judge.judge(cases["repository away"], stopping).end == STOPS
