"""What a host archives whose key only writes: it cannot compare contents, and holds up no server for that."""

from __future__ import annotations

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Conflict, NotPermitted
from pghaven.events import ignore
from pghaven.postgres.lsn import Lsn
from pghaven.repository.keytext import Access
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import PutOutcome
from pghaven.store.memory import MemoryStore
from pghaven.wal.archives import open_archive
from pghaven.wal.push import push_into, read_wal_file
from tests.support.keys import SealedSite, make_sealed
from tests.support.walfile import (
    CLUSTER,
    SEGMENT_SIZE,
    WalSite,
    make_lineage,
    make_segment,
    render_history,
    segment_name,
)

FORK = Lsn(5 * SEGMENT_SIZE + 4096)


@pytest.fixture
def sealed() -> SealedSite:
    made = make_sealed(MemoryStore())
    made.open().register_lineage(CLUSTER, make_lineage(), new_lineage=False)
    return made


@pytest.fixture
def writer(sealed: SealedSite) -> Repository:
    return sealed.open(sealed.add("host", Access.WRITER))


def push(site: WalSite, repository: Repository, name: object, content: bytes) -> PutOutcome:
    file = read_wal_file(site.write(name, content))
    return push_into(open_archive(repository, CLUSTER, file.claim), file, ManualClock(), ignore)


def test_what_differs_in_the_segment_of_a_fork_is_kept_beside_what_is_archived(
    site: WalSite, sealed: SealedSite, writer: Repository
) -> None:
    name = segment_name(5)
    archived, other = make_segment(name), make_segment(name, seed=1)
    push(site, writer, "00000002.history", render_history((1, FORK)))
    assert push(site, writer, name, archived) is PutOutcome.STORED
    assert push(site, writer, name, other) is PutOutcome.QUARANTINED
    archive = open_archive(sealed.open(), CLUSTER, None).archive
    assert archive.get(str(name)) == archived
    (entry,) = archive.list_quarantine(str(name))
    assert archive.get_quarantined(entry) == other
    with pytest.raises(NotPermitted):
        open_archive(writer, CLUSTER, None).archive.get(str(name))


def test_the_same_again_in_the_segment_of_a_fork_is_success(site: WalSite, writer: Repository) -> None:
    name = segment_name(5)
    push(site, writer, "00000002.history", render_history((1, FORK)))
    push(site, writer, name, make_segment(name))
    assert push(site, writer, name, make_segment(name)) is PutOutcome.ALREADY


def test_two_writers_where_no_timeline_was_left_are_told_apart_by_hash(site: WalSite, writer: Repository) -> None:
    name = segment_name(5)
    push(site, writer, name, make_segment(name))
    with pytest.raises(Conflict, match="other contents"):
        push(site, writer, name, make_segment(name, seed=1))
