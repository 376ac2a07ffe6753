"""What drills have found, as it is kept: who wrote it, and what of it counts."""

from __future__ import annotations

from typing import Any

import pytest

from pghaven.clock import ManualClock
from pghaven.proof.drilled import judge_drills
from pghaven.repository.drills import KIND, load_drills, store_drill
from pghaven.repository.evidence import DRILL_SUFFIX, store_evidence
from pghaven.repository.keytext import Access
from pghaven.repository.repository import Repository
from pghaven.repository.signing import Signature
from pghaven.store.memory import MemoryStore
from pghaven.units import render_time_utc
from tests.support.keys import SealedSite, make_sealed
from tests.support.synthetic import CLUSTER, START, make_repository


def make_body(*, passed: bool = True) -> dict[str, Any]:
    verdict = "OK" if passed else "FAILED"
    return {
        "began_at": render_time_utc(START),
        "passed": passed,
        "backup": "B",
        "manifest": "aa",
        "system_identifier": "1",
        "target": {"text": "latest"},
        "reached": None,
        "checks": [{"name": "rows", "verdict": verdict, "text": "…"}],
        "seconds": {"fetch": 1.25, "total": 2.1},
        "written_bytes": "1",
        "fetched_bytes": "1",
        "replayed_bytes": "1",
    }


@pytest.fixture
def site() -> SealedSite:
    return make_sealed(MemoryStore())


@pytest.fixture
def writer(site: SealedSite) -> Repository:
    """A host that is to write, and not to say what a drill found."""
    opened = site.open(site.add("host", Access.WRITER))
    assert not opened.keyring.can_sign
    return opened


def store_as(repository: Repository, body: dict[str, Any]) -> str:
    """Whatever somebody says who holds this repository's key."""
    return store_evidence(repository, CLUSTER, body, kind=KIND, suffix=DRILL_SUFFIX)


def test_what_a_reader_has_found_counts_for_every_host(site: SealedSite, writer: Repository) -> None:
    store_drill(site.open(), CLUSTER, make_body())
    for repository in (site.open(), writer):
        (found,) = load_drills(repository, CLUSTER)
        assert (found.passed, found.signature, found.doubt) == (True, Signature.GOOD, None)
    site.rotate()
    (found,) = load_drills(site.open(), CLUSTER)
    assert found.passed, "another data key is no other signer"


def test_a_host_that_only_writes_cannot_say_that_a_drill_passed(site: SealedSite, writer: Repository) -> None:
    store_drill(site.open(), CLUSTER, make_body(passed=False))
    store_drill(writer, CLUSTER, make_body())
    newest, before = load_drills(site.open(), CLUSTER)
    assert (newest.passed, newest.signature) == (False, Signature.MISSING)
    assert newest.doubt is not None
    assert before.failures == ("rows: …",)
    codes = [one.code for one in judge_drills(CLUSTER, [newest, before], START)]
    assert codes == ["drill_doubtful", "drill_failed"]


def test_a_failure_is_believed_of_anybody(writer: Repository) -> None:
    store_drill(writer, CLUSTER, make_body(passed=False))
    (found,) = load_drills(writer, CLUSTER)
    assert (found.passed, found.doubt) == (False, None)


def test_a_signed_result_counts_under_its_own_name_and_as_it_was_signed(site: SealedSite, writer: Repository) -> None:
    name = store_drill(site.open(), CLUSTER, make_body())
    signed = {key: value for key, value in writer.read_document(name).items() if key != "kind"}
    for body in (signed, {**signed, "backup": "C"}, {**signed, "signature": "zz"}, {**signed, "signature": 7}):
        again = store_as(writer, body)
        newest, *_ = load_drills(site.open(), CLUSTER)
        assert newest.name == again
        assert (newest.passed, newest.signature) == (False, Signature.WRONG)


def test_a_failure_that_was_turned_into_a_success_does_not_count(site: SealedSite, writer: Repository) -> None:
    name = store_drill(site.open(), CLUSTER, make_body(passed=False))
    body = writer.read_document(name)
    site.store.delete(name)
    writer.create_document(name, {**body, "passed": True})
    (found,) = load_drills(site.open(), CLUSTER)
    assert (found.passed, found.signature) == (False, Signature.WRONG)


def test_in_the_open_nobody_signs_and_results_count() -> None:
    repository = make_repository(MemoryStore())
    name = store_drill(repository, CLUSTER, make_body())
    assert "signature" not in repository.read_document(name)
    (found,) = load_drills(repository, CLUSTER)
    assert (found.passed, found.signature, found.doubt) == (True, Signature.NO_KEY, None)


def test_what_cannot_be_read_is_told_and_nothing_before_it_counts() -> None:
    clock = ManualClock(START)
    repository = make_repository(MemoryStore(), clock=clock)
    store_drill(repository, CLUSTER, make_body())
    clock.advance(3600)
    name = store_drill(repository, CLUSTER, make_body(passed=False))
    whole = repository.store.read(name)
    repository.store.delete(name)
    repository.store.create(name, [whole[:-5]])
    (found,) = load_drills(repository, CLUSTER)
    assert (found.name, found.passed) == (name, False)
    assert (found.began_at - START).total_seconds() == 3600
    assert found.doubt is not None
    assert name in found.doubt
