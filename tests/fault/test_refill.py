"""Filling in what a repository has missed, where that cannot be done: it is told, and what was noted stays noted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pghaven.errors import NotFound, ObjectMissing
from pghaven.repository.repository import create_repository
from pghaven.repository.walstore import WalArchive
from pghaven.store.open import create_root
from pghaven.wal.behind import BehindNotes
from pghaven.wal.refill import Refill
from tests.support.walfile import SYSTEM_IDENTIFIER, WalSite, make_lineage, make_segment, segment_name

NAME = segment_name(3)


@pytest.fixture
def site(tmp_path: Path) -> WalSite:
    """The second repository, ``r1``, has missed a segment, and is away."""
    made = WalSite(tmp_path)
    (made.data_directory / "pg_wal" / "archive_status").mkdir()
    made.configure(tmp_path / "second", extra='wal_required = 1\nwal_patience = "1s"\n')
    assert made.push(made.write(NAME, make_segment(NAME))).status == 0
    assert missed(made) == (str(NAME),)
    return made


def missed(site: WalSite) -> tuple[str, ...] | None:
    behind = BehindNotes(str(site.data_directory / "pg_wal")).read("r1")
    return None if behind is None else behind.names


def test_a_repository_that_does_not_know_the_cluster_lacks_what_was_noted(site: WalSite, tmp_path: Path) -> None:
    create_repository(create_root((tmp_path / "second").as_uri()))
    ended = site.run_bare("refill")
    assert ended.status != 0
    assert 'r1: failed: cluster "main" is not registered in repository file://' in ended.out
    assert "pghaven init main" in ended.out
    assert missed(site) == (str(NAME),)


def test_a_repository_that_knows_an_earlier_cluster_alone_lacks_it_too(site: WalSite, tmp_path: Path) -> None:
    repository = create_repository(create_root((tmp_path / "second").as_uri()))
    repository.register_lineage("main", make_lineage(system_identifier=SYSTEM_IDENTIFIER - 1), new_lineage=False)
    ended = site.run_bare("refill")
    assert ended.status != 0
    assert f"with system identifier {SYSTEM_IDENTIFIER} is not registered" in ended.out
    assert missed(site) == (str(NAME),)


def test_without_another_repository_nothing_is_gone(site: WalSite, tmp_path: Path) -> None:
    site.register(tmp_path / "second")
    refill = Refill(target=site.archive_in(tmp_path / "second"), sources=(), wal_directory=None)
    with pytest.raises(NotFound, match="no other repository"):
        refill.fill(str(NAME))
    site.repository_path.rename(tmp_path / "away")
    ended = site.run_bare("refill")
    assert ended.status != 0
    assert f'r1: failed: no other repository tells what was archived as "{NAME}"' in ended.out
    assert missed(site) == (str(NAME),)


class _VanishingArchive(WalArchive):
    """What it holds is removed by somebody just when it is to be compared with what is put."""

    def _require_same(self, name: str, file_name: str, content: bytes, facts: Mapping[str, Any]) -> None:
        self.store.delete(name)
        super()._require_same(name, file_name, content, facts)


def test_what_vanishes_from_the_target_is_not_gone_everywhere(site: WalSite, tmp_path: Path) -> None:
    site.register(tmp_path / "second")
    there = site.archive_in(tmp_path / "second")
    there.put(str(NAME), make_segment(NAME), {})
    target = _VanishingArchive(there.repository, there.cluster, there.system_identifier, there.segment_size)
    refill = Refill(target=target, sources=(site.archive,), wal_directory=None)
    with pytest.raises(ObjectMissing):
        refill.fill(str(NAME))
