"""Chaos in short: a few faults in a row on three nodes in namespaces. ``make chaos-ha`` is the rest."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.faults import list_faults
from tests.chaos.ledger import Ledger
from tests.chaos.members import running_cluster
from tests.chaos.network import find_obstacle
from tests.chaos.programs import find_engine
from tests.chaos.rounds import Chaos, draw_round
from tests.support.fixtures import wanted_versions

SHORT = ("kill the primary's host", "a replica's clock jumps")
LONGER = (SHORT[0], "promote a standby by hand", "lose the repository, then the primary")
LOW_DRAW = 1
"""A seed whose first draw is low: the lease of who is killed is ended, so that nobody waits for it."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("names", [SHORT, pytest.param(LONGER, marks=pytest.mark.slow)], ids=["short", "longer"])
def test_faults_in_a_row_lose_no_commit_and_break_no_line(
    request: pytest.FixtureRequest, server_path: Path, names: tuple[str, ...]
) -> None:
    engine = find_engine(wanted_versions(request.config)[-1])
    obstacle = find_obstacle() or (engine if isinstance(engine, str) else None)
    if obstacle is not None or isinstance(engine, str):
        pytest.skip(obstacle or "")
    assert random.Random(LOW_DRAW).random() < 0.5
    with running_cluster(server_path, engine) as cluster:
        ledger = Ledger(cluster)
        ledger.set_up()
        with ledger:
            chaos = Chaos(cluster, ledger)
            faults = {fault.name: fault for fault in list_faults()}
            # Clocks cannot be set on every machine; the other faults are played then.
            for number, fault in enumerate(faults[name] for name in names if name in faults):
                done = chaos.play(number, fault, "quorum", random.Random(LOW_DRAW))
                assert done.problems == (), done
                assert done.acknowledged > 0
            assert chaos.judge_restores(random.Random(LOW_DRAW)) == []  # the newest and another


def test_a_seed_gives_each_fault_and_the_same_again() -> None:
    drawn = [draw_round(7, number) for number in range(len(list_faults()))]
    assert {fault.name for fault, _, _ in drawn} == {fault.name for fault in list_faults()}
    again = [draw_round(7, number) for number in range(len(list_faults()))]
    assert [(a[0].name, a[1], a[2].random()) for a in drawn] == [(b[0].name, b[1], b[2].random()) for b in again]
