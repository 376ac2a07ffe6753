"""Listings that a store ends before their end, again and again, and what is removed then: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

from pghaven.errors import Damaged
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collect import BackupCollector, CollectRules
from pghaven.store.open import create_root
from tests.support.fixtures import ObjectServerFactory
from tests.support.httpproxy import FaultyProxy, proxying
from tests.support.synthetic import CLUSTER, BackupOrder, make_repository, make_source, take_backup

BACKUPS = f"clusters/{CLUSTER}/backups"
OFTEN = 50  # more than anybody lists them


@pytest.fixture(params=["gcs", "seaweedfs"])
def proxy(object_server: ObjectServerFactory, request: pytest.FixtureRequest) -> Iterator[FaultyProxy]:
    with proxying(object_server(request.param).port) as made:
        yield made


@pytest.fixture
def catalog(
    object_server: ObjectServerFactory, proxy: FaultyProxy, request: pytest.FixtureRequest, tmp_path: Path
) -> BackupCatalog:
    """Of one backup."""
    server = object_server(request.node.callspec.params["proxy"])
    store = create_root(server.settings(endpoint=proxy.endpoint))
    made = BackupCatalog(make_repository(store), CLUSTER)
    take_backup(made.repository, make_source(tmp_path, tablespaces=False), BackupOrder(number=1))
    proxy.calm()
    return made


def list_packs(catalog: BackupCatalog) -> list[str]:
    store = catalog.repository.store
    return [info.name for info in store.list(f"clusters/{CLUSTER}/") if "/packs/" in info.name]


def hide_backups(catalog: BackupCatalog, proxy: FaultyProxy) -> None:
    """Have the store answer whoever lists all backups with an error that says it is a success."""
    assert len(catalog.list_labels()) == 1
    place = next(path for method, path in proxy.asked if "prefix=" in path and urlencode({"": BACKUPS})[1:] in path)
    prefix = next(word for word in place.replace("?", "&").split("&") if word.startswith("prefix="))
    proxy.calm()
    ending = "&" if f"{prefix}&" in place else ""
    proxy.strike("refused", OFTEN, method="GET", contains=prefix + ending, status=200, code="SlowDown")


@pytest.mark.parametrize("is_preview", [True, False], ids=["preview", "run"])
def test_nothing_is_removed_where_a_listing_leaves_out_what_is_there(
    catalog: BackupCatalog, proxy: FaultyProxy, *, is_preview: bool
) -> None:
    before = list_packs(catalog)
    assert before
    hide_backups(catalog, proxy)
    collector = BackupCollector(catalog, CollectRules(grace=timedelta(0)))
    with pytest.raises(Damaged, match="the store left it out of its listing"):
        collector.preview() if is_preview else collector.run()
    assert proxy.unspent < OFTEN
    proxy.calm()
    assert list_packs(catalog) == before
    assert not (collector.preview() if is_preview else collector.run()).packs
