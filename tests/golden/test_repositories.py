"""Repositories of every version of the format there was are read as they are (INV-14), by us and by the rescue kit."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3

from pghaven.clock import ManualClock
from pghaven.dump.extract import extract_files
from pghaven.dump.load import open_dump
from pghaven.events import ignore
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import Purpose
from pghaven.repository.keytext import find_key_text
from pghaven.repository.kit import rescue
from pghaven.repository.partials import read_partial
from pghaven.repository.repository import Repository, open_repository
from pghaven.store.open import open_store
from pghaven.store.recording import RecordingStore
from tests.golden.make_repository import PIECES
from tests.support.keys import open_with
from tests.support.synthetic import CLUSTER, SYSTEM_IDENTIFIER, make_segment, open_archive, read_tree, restore

GOLDEN = Path(__file__).parent
REPOSITORIES = sorted(GOLDEN.glob("repository-v*.zip"))
MADE = {"pghaven.restore.json", "recovery.signal", "postgresql.auto.conf"}


@dataclass(frozen=True)
class Golden:
    """A golden repository, unpacked, the hash of every file of backups and of dumps by label and path, and its key."""

    root: Path
    expected: dict[str, dict[str, str]]
    dumps: dict[str, dict[str, str]]
    key: str | None

    def open(self) -> Repository:
        store = RecordingStore(open_store(f"file://{self.root}"))
        found = find_key_text(self.key or "")
        return open_repository(store, clock=ManualClock()) if found is None else open_with(store, found)


@pytest.fixture(scope="module", params=REPOSITORIES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return unpack(request.param, tmp_path_factory.mktemp(request.param.stem))


def unpack(path: Path, root: Path) -> Golden:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(root)
    known = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return Golden(root, known["files"], known["dumps"], known["key"])


def hashes(files: dict[str, bytes]) -> dict[str, str]:
    kept = {name: content for name, content in files.items() if not name.startswith("pghaven.config/")}
    return {name: blake3(content).hexdigest() for name, content in kept.items() if name not in MADE}


def test_there_is_one() -> None:
    assert REPOSITORIES


def test_every_backup_restores_as_it_was_and_nothing_is_written(golden: Golden, tmp_path: Path) -> None:
    repository = golden.open()
    assert [entry.label for entry in BackupCatalog(repository, CLUSTER).list_committed()] == list(golden.expected)
    for label, files in golden.expected.items():
        restore(repository, label, tmp_path / label)
        assert hashes(read_tree(tmp_path / label)[0]) == files
    assert isinstance(repository.store, RecordingStore)
    assert repository.store.mutations == ()


def test_every_dump_is_what_it_was(golden: Golden, tmp_path: Path) -> None:
    """The second one has the rows that did not change where the first one has them."""
    catalog = BackupCatalog(golden.open(), CLUSTER)
    assert [entry.label for entry in catalog.list_committed(Purpose.DUMP)] == list(golden.dumps)
    sizes = []
    for label, files in golden.dumps.items():
        dump = open_dump(catalog, label)
        wanted = [(path, str(tmp_path / label / path)) for path in files]
        extract_files(catalog, dump.manifest, wanted, processes=0, listener=ignore)
        found = {path: (tmp_path / label / path).read_bytes() for path in files}
        assert {path: blake3(content).hexdigest() for path, content in found.items()} == files
        (database,) = dump.facts.databases
        for table in database.tables:
            content = found[f"{database.directory}/{table.file}"]
            assert table.hash == blake3(content).hexdigest()[:32]
            assert table.rows == content.count(b"\n") - 3
        sizes.append(dump.manifest.facts.stored_bytes)
    assert sizes[1] < sizes[0] / 5


def test_the_rescue_kit_reads_dumps_too(golden: Golden, tmp_path: Path) -> None:
    """As files for pg_restore, without what only a data directory has."""
    reader = rescue.Repository(golden.root, golden.key)
    for label, files in golden.dumps.items():
        rescue.Backup(reader, CLUSTER, label).extract(tmp_path / label)
        found = {str(path.relative_to(tmp_path / label)): path for path in (tmp_path / label).rglob("*")}
        assert {name: blake3(path.read_bytes()).hexdigest() for name, path in found.items() if path.is_file()} == files


def test_the_rescue_kit_reads_it_too(golden: Golden, tmp_path: Path) -> None:
    reader = rescue.Repository(golden.root, golden.key)
    for label, files in golden.expected.items():
        rescue.Backup(reader, CLUSTER, label).extract(tmp_path / label)
        assert hashes(read_tree(tmp_path / label)[0]) == files


def test_pieces_of_a_segment_are_read(golden: Golden) -> None:
    archive = open_archive(golden.open())
    found = read_partial(archive, SegmentName(timeline=Timeline(1), number=6, segment_size=archive.segment_size))
    assert found is not None
    partial, content = found
    assert [(one.begin, one.end) for one in partial.pieces] == list(PIECES)
    assert content == make_segment(6)[: PIECES[-1][1]] + bytes(archive.segment_size - PIECES[-1][1])


def test_wal_and_quarantine_are_read(golden: Golden) -> None:
    archive = open_archive(golden.open())
    reader = rescue.Repository(golden.root, golden.key)
    names = [str(segment.name) for timeline in archive.list_timelines() for segment in archive.list_segments(timeline)]
    assert names == [f"0000000100000000{number:08X}" for number in (3, 4, 5)]
    for name in [*names, "00000002.history"]:
        assert archive.get(name) == reader.wal(CLUSTER, str(SYSTEM_IDENTIFIER), name)
    assert len(archive.list_quarantine()) == 1
