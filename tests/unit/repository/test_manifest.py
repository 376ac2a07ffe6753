"""Manifests come back as they were written. What must be refused is in tests/damage/test_malicious_manifest.py."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pghaven.errors import Damaged
from pghaven.postgres.lsn import Lsn
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.container import Container, Kind
from pghaven.repository.manifest import (
    BackupFacts,
    BadPage,
    ConfigFile,
    Manifest,
    Tablespace,
    parse_manifest,
    render_manifest,
    render_relation,
)
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from pghaven.runtime.names import Names
from pghaven.store.memory import MemoryStore
from tests.support.manifests import take_apart
from tests.support.synthetic import (
    CLUSTER,
    SEALED,
    BackupOrder,
    commit,
    make_repository,
    make_source,
    store_files,
)

CONTEXT = b"some repository/clusters/shop/backups/x/manifest"
RINGS = [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")]
CONFIG = (
    ConfigFile(role="config", path="/etc/postgresql/17/main/postgresql.conf", mode=0o640, content=b"port = 5433\n"),
    ConfigFile(role="hba", path="/etc/postgresql/17/main/pg_hba.conf", mode=0o600, content=b""),
    ConfigFile(role="include", path="/etc/x.conf", mode=0o644, content=b"\xff\0\n"),
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A real one, with some of everything."""
    repository = make_repository(MemoryStore())
    source = make_source(tmp_path_factory.mktemp("source"), big=True)
    made = store_files(BackupCatalog(repository, CLUSTER), source, BackupOrder(config_files=CONFIG))
    bad = BadPage(path="base/5/16384", block=2, lsn="0/28", relation=None)
    return replace(made, facts=replace(made.facts, bad_pages=(bad, replace(bad, relation="shop.public.orders"))))


def pack_up(manifest: Manifest, ring: Keyring = OPEN_KEYRING) -> Container:
    finished = render_manifest(manifest, context=CONTEXT, keyring=ring)
    return Container(finished.to_bytes(), kind=Kind.MANIFEST, context=CONTEXT, keyring=ring)


def assert_same(one: Manifest, other: Manifest) -> None:
    assert one.facts == other.facts
    assert (one.packs, one.relations, one.config_files, one.control) == (
        other.packs,
        other.relations,
        other.config_files,
        other.control,
    )
    for part in ("files", "block_map"):
        for field in fields(getattr(one, part)):
            here, there = getattr(getattr(one, part), field.name), getattr(getattr(other, part), field.name)
            if isinstance(here, np.ndarray):
                np.testing.assert_array_equal(here, there)
                assert here.dtype == there.dtype, field.name
            else:
                assert list(here) == list(there), field.name


@pytest.mark.parametrize("ring", RINGS)
def test_a_manifest_comes_back(manifest: Manifest, ring: Keyring) -> None:
    assert_same(parse_manifest(pack_up(manifest, ring)), manifest)


def test_what_the_format_s_page_says_gives_the_same_manifest(manifest: Manifest) -> None:
    written = take_apart(pack_up(manifest)).render(CONTEXT)
    parsed = parse_manifest(Container(written, kind=Kind.MANIFEST, context=CONTEXT, keyring=OPEN_KEYRING))
    assert_same(parsed, manifest)


def test_the_same_manifest_is_the_same_bytes(manifest: Manifest) -> None:
    assert pack_up(manifest).index.hash == pack_up(manifest).index.hash


def test_names_are_bytes_as_on_disk(manifest: Manifest) -> None:
    assert b"odd \xff name" in manifest.files.names
    assert os.fsdecode(manifest.files.path(manifest.files.names.index(b"odd \xff name"))) == "odd \udcff name"
    paths = [manifest.files.path(number) for number in range(len(manifest.files.names))]
    assert b"pg_tblspc/16400/PG_17_202406281/5/16500" in paths


def test_a_backup_without_files_comes_back(manifest: Manifest) -> None:
    files = replace(
        manifest.files,
        directories=[b"", b"global"],
        directory_mode=np.array([0o700, 0o700], np.uint16),
        names=Names(),
        **{
            name: getattr(manifest.files, name)[:0]
            for name in ("directory", "size", "mode", "mtime_ns", "owner", "flags", "content_hash")
        },
    )
    block_map = replace(
        manifest.block_map,
        **{name: getattr(manifest.block_map, name)[:0] for name in ("runs_of_file", "length", "pack", "offset")},
    )
    facts = replace(manifest.facts, file_count=0, total_bytes=0)
    empty = replace(manifest, facts=facts, files=files, block_map=block_map, packs=(), relations=b"", control=b"")
    assert_same(parse_manifest(pack_up(empty)), empty)


def test_numbers_at_their_limits_come_back(manifest: Manifest) -> None:
    facts = replace(
        manifest.facts,
        system_identifier=(1 << 64) - 1,
        start_lsn=Lsn(0),
        stop_lsn=Lsn((1 << 64) - 1),
        tablespaces=(Tablespace(oid=(1 << 32) - 1, name="ä", path="/ü"), *manifest.facts.tablespaces),
    )
    files = replace(manifest.files, mtime_ns=manifest.files.mtime_ns.copy())
    files.mtime_ns[:2] = [-(1 << 63), (1 << 63) - 1]
    assert_same(
        parse_manifest(pack_up(replace(manifest, facts=facts, files=files))),
        replace(manifest, facts=facts, files=files),
    )


def parse_with(manifest: Manifest, **facts: Any) -> BackupFacts:
    parts = take_apart(pack_up(manifest))
    for name, value in facts.items():
        if value is ...:
            del parts.facts[name]
        else:
            parts.facts[name] = value
    container = Container(parts.render(CONTEXT), kind=Kind.MANIFEST, context=CONTEXT, keyring=OPEN_KEYRING)
    return parse_manifest(container).facts


def test_facts_of_the_future_are_passed_over(manifest: Manifest) -> None:
    tablespace = {"oid": 16400, "name": "space", "path": "/s", "colour": "red"}
    facts = parse_with(manifest, colour="red", tablespaces=[tablespace])
    assert facts == replace(manifest.facts, tablespaces=(Tablespace(oid=16400, name="space", path="/s"),))


@pytest.mark.parametrize("name", [field.name for field in fields(BackupFacts)])
def test_a_fact_that_is_missing_or_of_another_type_is_damage(manifest: Manifest, name: str) -> None:
    for value in (..., {"a": 1}, 1.5, [[]], float("inf")):
        with pytest.raises(Damaged):
            parse_with(manifest, **{name: value})


def test_a_relation_is_a_line_of_json() -> None:
    assert render_relation((5, 'a "b"\n', "ü")) == b'[5,"a \\"b\\"\\n","\\u00fc"]\n'


def test_what_no_reader_would_take_is_not_committed(tmp_path: Path) -> None:
    """A directory in pg_tblspc that no tablespace of the server explains."""
    store = MemoryStore()
    repository = make_repository(store)
    catalog = BackupCatalog(repository, CLUSTER)
    order = BackupOrder()
    made = store_files(catalog, make_source(tmp_path), order)
    unknown = replace(made, facts=replace(made.facts, tablespaces=()))
    with pytest.raises(Damaged, match=r"pg_tblspc/16400.* belongs to no tablespace"):
        commit(catalog, unknown, order)
    assert not [info.name for info in store.list("clusters/shop/backups/")]
