"""A host whose key only writes: complete backups, small ones too, WAL, and nothing of it can be read there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pghaven.errors import NotPermitted, Refused
from pghaven.repository.container import Kind
from pghaven.repository.keysource import KeySource
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.repository import Repository
from pghaven.store.settings import StoreSettings
from tests.cli.site import NAME, Site, shared_site
from tests.cli.test_keys import key_of, make_sealed, use_key
from tests.support.places import own

NOT_PERMITTED = NotPermitted.exit_status
REFUSED = Refused.exit_status


@pytest.fixture(scope="module")
def sites(request: pytest.FixtureRequest) -> Iterator[tuple[Site, Site]]:
    """The database's host, and another one that has the recovery key and no more."""
    with shared_site(request.config) as host:
        recovery = make_sealed(host)
        own(recovery)  # the restored server fetches WAL with it
        writer = host.place / "writer.key"
        host.ok("repo", "key", "add", "host", "--writer", "--key-file", str(writer))
        own(writer)
        reader = use_key(host, recovery, "reader.toml")
        text = host.config.read_text().replace(str(key_of(host)), str(writer))
        host.config.write_text(text + f'state_directory = "{host.place / "state"}"\n')
        key_of(host).unlink()
        host.cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 200000) i")
        host.cluster.sql("VACUUM t")
        host.cluster.sql("CHECKPOINT")
        yield host, reader


def open_with(site: Site, key_file: Path) -> Repository:
    return open_place(
        RepositoryPlace(name="main", store=StoreSettings(url=site.url), key=KeySource(key_file=str(key_file)))
    )


def test_backups_and_wal_of_a_host_that_reads_nothing(sites: tuple[Site, Site]) -> None:
    host, reader = sites
    full = host.json("backup")
    assert (full["changes"], full["parent"]) == ("full", None)
    host.cluster.sql("UPDATE t SET x = 'changed' WHERE i % 20000 = 7")
    second = host.json("backup")
    assert second["changes"] in ("lsn", "summaries")
    assert second["parent"] == full["label"]
    assert second["stored_bytes"] < full["stored_bytes"] / 10
    # Without its map the host reads everything again, and says so; nothing else happens.
    shutil.rmtree(host.place / "state")
    host.cluster.sql("UPDATE t SET x = 'changed again' WHERE i = 1")
    ended = host.run("backup", "--verbose")
    assert ended.status == 0
    assert "has no copy of that backup's map" in ended.err
    labels = [one["label"] for one in host.json("list")["clusters"][0]["backups"]]
    assert len(labels) == 3
    host.cluster.sql("INSERT INTO t VALUES (0, 'the last')")
    host.archive_all()
    # Whoever has the recovery key gets all of it.
    reader.ok("verify")
    for label in (second["label"], labels[-1]):
        with reader.started("--backup", label):
            assert reader.ask_restored("SELECT x FROM t WHERE i = 0") == "the last"
            assert reader.ask_restored("SELECT count(*) FROM t WHERE x = 'changed'") == 10
            assert reader.ask_restored("SELECT count(*) FROM t") == 200001


@pytest.mark.parametrize("order", [("main", "away"), ("away", "main")])
def test_of_two_repositories_each_gets_a_backup_though_neither_can_be_copied(
    sites: tuple[Site, Site], order: tuple[str, str]
) -> None:
    """The other one is in the open: what cannot be read cannot be copied, nor is it known what a copy would add to."""
    host, reader = sites
    alone = host.config.read_text()
    away = f'[repository.away]\nurl = "file://{host.place / "away"}"\nencryption = false\n'
    names = f"repositories = {list(order)}".replace("'", '"')
    host.config.write_text(away + re.sub("^repositories = .*$", names, alone, flags=re.MULTILINE))
    try:
        assert host.run("init", NAME).status in (0, 3)
        for _ in range(2):
            shown = host.json("backup")
            assert [one["repository"] for one in shown["repositories"]] == list(order)
            labels = {one["repository"]: one["label"] for one in shown["repositories"]}
        assert shown["changes"] in ("lsn", "summaries"), "each goes on from its own"
        listed = host.json("list")["clusters"]
        assert {one["repository"]: one["backups"][-1]["label"] for one in listed} == labels
    finally:
        host.config.write_text(alone)
    with reader.started("--backup", labels["main"]):
        assert reader.ask_restored("SELECT count(*) > 0 FROM t") is True


def test_the_same_segment_again_is_success_and_another_is_refused(sites: tuple[Site, Site]) -> None:
    host, _ = sites
    name = host.archive_all()
    segment = host.place / name
    shutil.copy(host.cluster.data_directory / "pg_wal" / name, segment)
    assert host.run("wal", "push", "--cluster", NAME, str(segment)).status == 0
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)
    ended = host.run("wal", "push", "--cluster", NAME, str(segment))
    assert ended.status == REFUSED, ended
    assert "with other contents" in ended.err


@pytest.mark.parametrize("words", [("verify",), ("expire",), ("restore", NAME, "--target-dir", "/var/tmp/nowhere")])
def test_what_must_read_is_not_permitted(sites: tuple[Site, Site], words: tuple[str, ...]) -> None:
    host, _ = sites
    host.archive_all()
    if not host.json("list")["clusters"][0]["backups"]:
        host.ok("backup")
    error = host.error(*words, status=NOT_PERMITTED)
    assert "only writes" in error["message"]
    assert "keys.md" in error["hint"]


def test_wal_get_stops_recovery(sites: tuple[Site, Site]) -> None:
    host, _ = sites
    name = host.archive_all()
    ended = host.run("wal", "get", "--cluster", NAME, name, str(host.place / "got"))
    assert ended.status == 255
    assert not (host.place / "got").exists()


def test_what_only_looks_works(sites: tuple[Site, Site]) -> None:
    host, _ = sites
    host.ok("list")
    assert host.run("status").status in (0, 3)
    found = host.run("check")
    assert found.status in (0, 3), found
    assert "WAL round trip: segment" in found.out
    assert host.json("repo", "key", "check")["access"] == "writer"
    assert "only writes" in host.error("repo", "key", "rotate", status=NOT_PERMITTED)["message"]


def test_no_object_gives_anything_of_the_database(sites: tuple[Site, Site]) -> None:
    """Straight at the objects, with all that the host's key can do."""
    host, reader = sites
    if not host.json("list")["clusters"][0]["backups"]:
        host.ok("backup")
    host.archive_all()
    repository = open_with(host, host.place / "writer.key")
    whole = open_with(reader, host.place / "apart" / "recovery.key")
    seen: set[Kind] = set()
    for info in repository.store.list("clusters/"):
        kind = find_kind(info.name)
        if kind is None:
            continue
        seen.add(kind)
        with pytest.raises(NotPermitted, match="only writes"):
            read_whole(repository, info.name, kind)
        assert read_whole(whole, info.name, kind)
    assert seen == set(Kind)


def read_whole(repository: Repository, name: str, kind: Kind) -> bytes:
    if kind is not Kind.PACK:
        return repository.read_container(name, kind).read_all()
    from pghaven.repository.container import Container

    context = f"{repository.id}/{name.rpartition('/')[0]}/".encode()
    return Container(repository.store.read(name), kind=kind, context=context, keyring=repository.keyring).read_all()


def find_kind(name: str) -> Kind | None:
    if "/packs/" in name:
        return Kind.PACK
    if name.endswith("/manifest"):
        return Kind.MANIFEST
    return Kind.WAL if "/wal/" in name and not name.endswith(".history") else None
