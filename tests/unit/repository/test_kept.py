"""Records of kept snapshots: what they hold comes back, and what they must not name is not believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pghaven.backup.frozen import parse_snapshot_name
from pghaven.errors import Damaged
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.kept import KeptSnapshot, list_kept, name_snapshot, record_snapshot
from pghaven.repository.manifest import ConfigFile
from pghaven.repository.repository import create_repository
from pghaven.snapshot.driver import Volume
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import CLUSTER, BackupOrder, make_repository, make_source, store_files

LABEL = "20260301T130000Z-1a2b"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> KeptSnapshot:
    catalog = BackupCatalog(make_repository(MemoryStore()), CLUSTER)
    made = store_files(catalog, make_source(tmp_path_factory.mktemp("source")), BackupOrder())
    facts = replace(made.facts, cluster="shop", label=LABEL)
    return KeptSnapshot(
        facts=facts,
        name=name_snapshot("shop", LABEL),
        volumes=(Volume(kind="zfs", source="tank/pg", root="/srv/pg"),),
        home="/srv/pg/main",
        elsewhere={"pg_tblspc/16400": "/srv/space"},
        control=bytes(range(256)),
        config_files=(ConfigFile(role="config", path="/etc/p.conf", mode=0o640, content=b"port = 1"),),
        first_segment="000000010000000000000001",
        last_segment="000000010000000000000002",
    )


def test_what_was_recorded_comes_back(kept: KeptSnapshot) -> None:
    repository = create_repository(MemoryStore())
    record_snapshot(repository, kept)
    assert list_kept(repository, "shop") == (kept,)


@pytest.mark.parametrize(
    "forge",
    [
        lambda kept: replace(kept, name="../../../base"),
        lambda kept: replace(kept, name=name_snapshot("shop", "20260301T130000Z-ffff")),
        lambda kept: replace(kept, facts=replace(kept.facts, label="20260301T130000Z-ffff")),
        lambda kept: replace(kept, home="/srv/pg/../../etc"),
        lambda kept: replace(kept, home="main"),
        lambda kept: replace(kept, elsewhere={"../outside": "/srv/space"}),
        lambda kept: replace(kept, elsewhere={"pg_tblspc/1": "/srv/../etc"}),
        lambda kept: replace(kept, volumes=(Volume(kind="zfs", source="-r", root="/srv/pg"),)),
        lambda kept: replace(kept, volumes=(Volume(kind="ext9", source="x", root="/srv/pg"),)),
        lambda kept: replace(kept, volumes=()),
    ],
)
def test_a_record_that_names_something_else_is_not_believed(
    kept: KeptSnapshot, forge: Callable[[KeptSnapshot], KeptSnapshot]
) -> None:
    repository = create_repository(MemoryStore())
    record_snapshot(repository, forge(kept))
    with pytest.raises(Damaged, match="names something else"):
        list_kept(repository, "shop")


def test_a_cluster_is_not_another_whose_name_begins_alike() -> None:
    assert parse_snapshot_name("shop", name_snapshot("shop", LABEL)) == LABEL
    assert parse_snapshot_name("shop", name_snapshot("shop-2", LABEL)) is None
    assert parse_snapshot_name("shop", f"pghaven-shop-{LABEL}x") is None
