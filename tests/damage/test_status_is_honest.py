"""Whatever object of a repository is damaged or missing, ``status`` answers, and promises no more than before."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.events import ignore
from pghaven.proof.catalog import ShownState
from pghaven.proof.states import ClusterStatus, RepositorySilence, RepositoryState
from pghaven.proof.status import StatusSettings, gather_status
from pghaven.proof.verify import VerifySettings, run_verify
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.drills import store_drill
from pghaven.repository.evidence import Verdict
from pghaven.repository.place import RepositoryPlace
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.store.settings import StoreSettings
from pghaven.units import render_time_utc
from tests.support.places import scratch
from tests.support.reference import FIRST, SECOND, ObjectKind, Reference, kind_of, make_reference
from tests.support.synthetic import CLUSTER, START, SYSTEM_IDENTIFIER

NOW = START + timedelta(hours=12)
# Without these nothing is known of the cluster.
FATAL = (ObjectKind.DESCRIPTOR, ObjectKind.LINEAGE)
LEFT_OUT = (ObjectKind.PACK, ObjectKind.KIT)  # status reads none of them


@dataclass(frozen=True, kw_only=True)
class OnDisk:
    """The repository in a directory, where ``status`` opens it as it opens any."""

    directory: Path
    names: tuple[str, ...]

    def look(self, *, clock: ManualClock | None = None) -> ClusterStatus:
        settings = StatusSettings(
            cluster=CLUSTER,
            data_directory="/nonexistent",
            conninfo="host=/nonexistent",
            repositories=(RepositoryPlace(name="main", store=StoreSettings(url=f"file://{self.directory}")),),
        )
        return gather_status(settings, ignore, clock=clock or ManualClock(NOW))

    @contextmanager
    def holding(self, name: str, content: bytes | None) -> Iterator[None]:
        path = self.directory / name
        whole = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        try:
            yield
        finally:
            path.write_bytes(whole)


@pytest.fixture(scope="module")
def on_disk() -> Iterator[OnDisk]:
    """With a verification and a drill that all went well."""
    root = Path(tempfile.mkdtemp(prefix="status-", dir=scratch()))
    made = root / "made"
    made.mkdir()
    reference = make_reference(made, OPEN_KEYRING)
    add_proofs(reference)
    directory = root / "repository"
    for info in reference.store.list(""):
        path = directory / info.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(reference.store.read(info.name))
    ours = [name for name in reference.content if name.startswith(f"clusters/{CLUSTER}/") or "/" not in name]
    added = [info.name for info in reference.store.list(f"clusters/{CLUSTER}/evidence/")]
    yield OnDisk(directory=directory, names=tuple(sorted({*ours, *added})))
    shutil.rmtree(root)


def add_proofs(reference: Reference) -> None:
    repository = reference.open()
    for info in reference.store.list(f"clusters/{CLUSTER}/evidence/"):
        reference.store.delete(info.name)
        reference.content.pop(info.name, None)
    catalog = BackupCatalog(repository, CLUSTER)
    for order in (FIRST, SECOND):
        body = {
            "began_at": render_time_utc(START),
            "passed": True,
            "backup": order.label,
            "manifest": catalog.find_manifest(catalog.read_entry(order.label))[1],
            "system_identifier": str(SYSTEM_IDENTIFIER),
            "target": {"text": "latest"},
            "reached": None,
            "checks": [],
            "seconds": {"fetch": 1.0, "first_query": 2.0},
            "written_bytes": "1000",
            "fetched_bytes": "1000",
            "replayed_bytes": "0",
        }
        store_drill(repository, CLUSTER, body)
    run_verify(repository, VerifySettings(cluster=CLUSTER, processes=0), ignore)


def read_state(status: ClusterStatus) -> RepositoryState:
    (state,) = status.repositories
    assert isinstance(state, RepositoryState), state
    return state


def list_claims(state: RepositoryState) -> set[tuple[str, str]]:
    """What it says that is good, each as a claim of its own."""
    found: set[tuple[str, str]] = set()
    for one in state.backups:
        found |= {("complete", one.label)} if one.state is ShownState.COMPLETE else set()
        found |= {("whole", one.label)} if one.verified.verdict is Verdict.WHOLE else set()
        found |= {("drilled", one.label)} if one.drilled is not None and one.drilled.passed else set()
    found |= {("passed", one.name) for one in state.drills if one.passed}
    return found | {("dump", one.label) for one in state.dumps}


def assert_no_better(state: RepositoryState, whole: RepositoryState) -> None:
    assert list_claims(state) <= list_claims(whole)
    for window in state.reach.windows:
        wide = [one for one in whole.reach.windows if one.timeline == window.timeline]
        assert any(one.begin_lsn <= window.begin_lsn and window.end_lsn <= one.end_lsn for one in wide), window
        assert any(one.begin <= window.begin for one in wide), window


def test_the_whole_repository_claims_all_that_is_true(on_disk: OnDisk) -> None:
    state = read_state(on_disk.look())
    expected = {(what, one.label) for what in ("complete", "whole", "drilled") for one in (FIRST, SECOND)}
    assert list_claims(state) >= expected
    assert state.reach.windows


@pytest.mark.parametrize("kind", [one for one in ObjectKind if one not in LEFT_OUT])
def test_nothing_is_told_better_when_an_object_is_damaged_or_gone(on_disk: OnDisk, kind: ObjectKind) -> None:
    whole = read_state(on_disk.look())
    names = [name for name in on_disk.names if kind_of(name) is kind]
    assert names
    for name in names:
        good = (on_disk.directory / name).read_bytes()
        changed = good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :]
        for content in (changed, good[: len(good) // 2], b"", None):
            with on_disk.holding(name, content):
                status = on_disk.look()
            (found,) = status.repositories
            if isinstance(found, RepositorySilence):
                assert kind in FATAL, (name, found.reason)
                assert any(one.code == "repository_failed" for one in status.problems)
            else:
                assert_no_better(found, whole)


def test_a_damaged_result_of_a_drill_is_told(on_disk: OnDisk) -> None:
    name = max(one for one in on_disk.names if one.endswith("-drill"))
    with on_disk.holding(name, b"rotten"):
        status = on_disk.look()
    assert list_claims(read_state(status)).isdisjoint({("drilled", FIRST.label), ("drilled", SECOND.label)})
    (problem,) = [one for one in status.problems if one.code == "drill_doubtful"]
    assert name in problem.text


def test_a_clock_that_is_behind_makes_nothing_young(on_disk: OnDisk) -> None:
    """As after a dead battery: everything in the repository was made in the future."""
    status = on_disk.look(clock=ManualClock(START - timedelta(days=4000)))
    state = read_state(status)
    (problem,) = [one for one in status.problems if one.code == "clock"]
    assert "is not known" in problem.text
    assert state.recovery_point is not None
    assert state.recovery_point.seconds is None
    assert all(one.is_stale(status.looked_at) for one in state.drills)
    assert not any(one.drilled is None or not one.drilled.is_stale for one in state.backups if one.drilled)


def test_a_clock_that_is_ahead_makes_everything_old(on_disk: OnDisk) -> None:
    status = on_disk.look(clock=ManualClock(START + timedelta(days=4000)))
    assert {"backup_old", "verification_old", "drill_old"} <= {one.code for one in status.problems}
