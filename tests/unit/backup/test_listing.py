"""What of a data directory goes into a backup, and what never can keep one from being made."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from pghaven.backup.jobs import BATCH_BYTES, RANGE_BYTES, iter_jobs
from pghaven.backup.listing import Listing, ListingRules, list_data_directory
from pghaven.repository.backups import BackupCatalog
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import (
    CLUSTER,
    PAGE,
    TABLESPACE_OID,
    BackupOrder,
    SourceTree,
    archive_wal,
    assert_restored,
    commit,
    make_intent,
    make_repository,
    make_source,
    restore,
    store_files,
    take_backup,
)


@pytest.fixture
def source(tmp_path: Path) -> SourceTree:
    return make_source(tmp_path)


def listing_of(source: SourceTree) -> Listing:
    oids = frozenset(tablespace.oid for tablespace in source.tablespaces)
    return list_data_directory(str(source.data_directory), ListingRules(tablespace_oids=oids, segment_blocks=131072))


def paths(listing: Listing) -> set[str]:
    return {listing.relative_path(number) for number in range(len(listing.names))}


def test_it_lists_what_belongs_into_a_backup_and_nothing_else(source: SourceTree) -> None:
    listing = listing_of(source)
    assert paths(listing) == set(source.files)
    assert set(listing.directories) == source.directories
    assert listing.skipped == []


def test_sizes_are_those_of_the_files(source: SourceTree) -> None:
    listing = listing_of(source)
    assert list(listing.size) == [len(source.files[listing.relative_path(n)]) for n in range(len(listing.names))]


def test_files_come_in_the_order_of_a_manifest(source: SourceTree) -> None:
    listing = listing_of(source)
    places = list(zip(listing.directory, listing.names, strict=True))
    assert places == sorted(places)
    for number, directory in enumerate(listing.directories[1:], start=1):
        assert listing.directories.index(directory.rpartition("/")[0]) < number


def test_a_relation_s_blocks_count_on_through_its_files(source: SourceTree) -> None:
    listing = listing_of(source)
    first = {listing.relative_path(number): block for number, block in enumerate(listing.first_block)}
    assert first["base/5/16384"] == first["base/5/16384_fsm"] == first["global/1262"] == 0
    assert first["base/5/16384.1"] == 131072
    assert first["PG_VERSION"] == first["base/5/PG_VERSION"] == first["global/pg_filenode.map"] == -1


def test_what_an_administrator_linked_is_stored_as_if_it_lay_here(source: SourceTree, tmp_path: Path) -> None:
    (tmp_path / "server.key").write_bytes(b"secret")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "today.log").write_bytes(b"line")
    (source.data_directory / "server.key").symlink_to(tmp_path / "server.key")
    (source.data_directory / "log").symlink_to(tmp_path / "logs")
    listing = listing_of(source)
    assert paths(listing) == {*source.files, "server.key", "log/today.log"}
    assert dict(listing.links) == {"server.key": str(tmp_path / "server.key"), "log": str(tmp_path / "logs")}


@pytest.mark.parametrize("goal", ["nowhere", "loop", "."], ids=["to nothing", "to itself", "to a directory above"])
def test_a_link_that_leads_nowhere_is_told_and_passed_over(source: SourceTree, goal: str) -> None:
    (source.data_directory / "loop").symlink_to(goal)
    listing = listing_of(source)
    assert paths(listing) == set(source.files)
    (text,) = listing.skipped
    assert '"loop"' in text


def test_a_tablespace_the_server_does_not_know_is_told_and_passed_over(source: SourceTree, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (source.data_directory / "pg_tblspc" / "99999").symlink_to(tmp_path / "old")
    (text,) = listing_of(source).skipped
    assert '"pg_tblspc/99999" is not a tablespace' in text


def test_a_directory_left_among_the_tablespaces_does_not_prevent_a_backup(source: SourceTree, tmp_path: Path) -> None:
    (source.data_directory / "pg_tblspc" / "old").mkdir()
    (source.data_directory / "pg_tblspc" / "old" / "file").write_bytes(b"x")
    repository = make_repository(MemoryStore())
    take_backup(repository, source, BackupOrder())
    restore(repository, BackupOrder().label, tmp_path / "target")
    assert_restored(source, tmp_path / "target")


def test_sockets_and_the_like_are_passed_over(source: SourceTree, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(source.data_directory / "fifo")
    monkeypatch.chdir(source.data_directory)  # a socket's path may not be as long as that of this directory
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        assert paths(listing_of(source)) == set(source.files)


def test_a_tablespace_lies_below_its_number(source: SourceTree) -> None:
    assert f"pg_tblspc/{TABLESPACE_OID}/PG_17_202406281/5/16500" in paths(listing_of(source))


def test_jobs_cover_every_byte_of_every_file_once(tmp_path: Path) -> None:
    """Sparse files stand for large ones; nothing is read here."""
    data = tmp_path / "data"
    (data / "base" / "5").mkdir(parents=True)
    sizes = {"16384": 2 * RANGE_BYTES + 3 * PAGE, "16385": RANGE_BYTES, "16386": 5 << 20, "16387": 0}
    sizes.update({str(20000 + number): (number * 7919) % (3 * PAGE) for number in range(3000)})
    for name, size in sizes.items():
        with open(data / "base" / "5" / name, "wb") as file:
            file.truncate(size)
    listing = list_data_directory(str(data), ListingRules(tablespace_oids=frozenset(), segment_blocks=131072))
    covered: dict[str, int] = {}
    for job in iter_jobs(listing, PAGE):
        assert job.size_bytes == sum(part.length for part in job.files)
        assert job.is_range or sum(part.room(PAGE) for part in job.files) <= BATCH_BYTES
        for number, path, offset, length, block, is_main, _ in job.files:
            assert is_main
            name = os.path.basename(path)
            assert os.fsdecode(listing.names[number]) == name
            assert covered.get(name, 0) == offset, "in order, without gap or overlap"
            assert block == offset // PAGE
            covered[name] = offset + length
    assert covered == {name: size for name, size in sizes.items() if size}


def test_a_backup_of_a_listing_that_vanished_meanwhile_is_of_what_is_left(source: SourceTree, tmp_path: Path) -> None:
    repository = make_repository(MemoryStore())
    catalog = BackupCatalog(repository, CLUSTER)
    order = BackupOrder()
    gone = source.data_directory / "base" / "5" / "16384"
    catalog.announce(order.label, make_intent(order))
    manifest = store_files(catalog, source, order, gone.unlink)
    archive_wal(repository, order)
    commit(catalog, manifest, order)
    restore(repository, order.label, tmp_path / "target")
    left = {name: content for name, content in source.files.items() if name != "base/5/16384"}
    assert_restored(replace(source, files=left), tmp_path / "target")
