"""Each rule of finding changes has a test that fails without it, and only its own tests do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.rules.planting import Plant
from tests.rules.rules import PLANTS

ROOT = Path(__file__).parents[2]
QUICK_EVERY = 9

Found = dict[str, list[str]]


def run(kind: str, plants: Sequence[Plant]) -> Iterator[tuple[Plant, Found]]:
    """What each mistake broke, in a process that has nothing of ours in it but the mistake."""
    command = [sys.executable, "-m", "tests.rules.driver", kind, *(one.rule for one in plants)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["rule"] for answer in answers] == [one.rule for one in plants]
    yield from zip(plants, answers, strict=True)


def test_every_mistake_has_its_place_and_is_found_by_something() -> None:
    for one in PLANTS:
        text = (ROOT / "src" / f"{one.module.replace('.', '/')}.py").read_text()
        assert text.count(one.old) == 1, one.rule
        assert one.found_by or one.servers, one.rule
    assert len({one.rule for one in PLANTS}) == len(PLANTS)


def test_some_rules_are_missed_by_their_tests_at_once() -> None:
    """Another part of them is all others; here are a few, so that the means are known to work."""
    chosen = [one for one in PLANTS if one.found_by][::QUICK_EVERY]
    for one, found in run("named", chosen):
        assert (found["failed"], found["broken"]) == (sorted(one.found_by), []), one.rule


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_rule_is_missed_by_its_own_tests_and_no_others() -> None:
    wrong = {
        one.rule: found
        for one, found in run("exact", PLANTS)
        if (found["failed"], found["broken"]) != (sorted(one.found_by), [])
    }
    assert not wrong


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("one", [one for one in PLANTS if one.servers], ids=lambda one: one.rule)
def test_rule_is_missed_on_a_real_server_too(one: Plant) -> None:
    ((_, found),) = run("servers", [one])
    assert found["broken"] == []
    assert set(found["failed"]) == {name.rpartition("::")[2] for name in one.servers}
