"""Damage to one backup's small objects is told, and does not stand in the way of everything else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pghaven.backup.rivals import make_way
from pghaven.errors import Damaged, Refused
from pghaven.events import ignore
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.removal import Removal, RetireOrder
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.restore.plan import plan_restore
from pghaven.restore.request import RestoreRequest
from tests.support.places import scratch
from tests.support.reference import FIRST, SECOND, Reference, make_reference
from tests.support.synthetic import CLUSTER, START

PARTS = ["intent", "decision", "manifest"]
DOCUMENTS = PARTS[:2]


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    root = Path(tempfile.mkdtemp(prefix="damage-", dir=scratch()))
    yield make_reference(root, OPEN_KEYRING)
    shutil.rmtree(root)


def object_of(part: str) -> str:
    """Of the first backup, the second is whole."""
    return f"clusters/{CLUSTER}/backups/{FIRST.label}/{part}"


@pytest.mark.parametrize("part", PARTS)
def test_another_backup_can_be_restored_by_its_label(reference: Reference, part: str) -> None:
    whole = reference.restore(SECOND.label)
    with reference.holding(object_of(part), b"rotten"):
        assert reference.restore(SECOND.label) == whole
        with pytest.raises(Damaged, match=object_of(part)):
            reference.restore(FIRST.label)


@pytest.mark.parametrize("part", DOCUMENTS)
def test_another_backup_is_chosen_for_a_restore(reference: Reference, part: str) -> None:
    """As it would be if the damaged one were not there; recovery leads to the same point."""
    request = RestoreRequest(
        cluster=CLUSTER, target_dir=str(reference.scratch / "x"), target=RecoveryTarget(kind=TargetKind.IMMEDIATE)
    )
    with reference.holding(object_of(part), b"rotten"):
        plan = plan_restore(reference.open(), request)
    assert plan.backup.label == SECOND.label
    assert any(FIRST.label in notice.text for notice in plan.notices)


@pytest.mark.parametrize("part", DOCUMENTS)
def test_a_new_backup_can_be_made(reference: Reference, part: str) -> None:
    """A rotten intent of last year must not be the end of all backups."""
    with reference.holding(object_of(part), b"rotten"):
        make_way(BackupCatalog(reference.open(), CLUSTER), None, ignore)


def test_a_hold_that_cannot_be_read_holds_and_keeps_nobody_from_restoring(reference: Reference) -> None:
    own = reference.at(dict(reference.content))
    whole = own.restore(FIRST.label)
    with own.holding(object_of("hold/00000001"), b"rotten"):
        assert own.restore(FIRST.label) == whole
        catalog = BackupCatalog(own.open(), CLUSTER)
        hold = catalog.read_entry(FIRST.label).hold
        assert hold is not None
        assert hold.reason.startswith("why cannot be read: ")
        with pytest.raises(Refused, match="is held"):
            Removal(catalog).retire(FIRST.label, RetireOrder(reason="by hand: not needed", not_before=START))
        # Whoever knows that it is not needed lets it go as any other.
        Removal(catalog).release(FIRST.label)
        assert catalog.read_entry(FIRST.label).hold is None
