"""Repositories of every version of the format there was are read as they are (INV-14), by both readers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from blake3 import blake3

from pghaven.clock import ManualClock
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.repository import Repository, open_repository
from pghaven.store.open import open_store
from pghaven.store.recording import RecordingStore
from tests.golden import second_reader
from tests.support.synthetic import CLUSTER, SYSTEM_IDENTIFIER, open_archive, read_tree, restore

GOLDEN = Path(__file__).parent
REPOSITORIES = sorted(GOLDEN.glob("repository-v*.json"))
MADE = {"pghaven.restore.json", "recovery.signal", "postgresql.auto.conf"}


@pytest.fixture(params=REPOSITORIES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def open_golden(golden: Path) -> Repository:
    return open_repository(RecordingStore(open_store(f"file://{golden.with_suffix('')}")), clock=ManualClock())


def expected_of(golden: Path) -> dict[str, dict[str, str]]:
    expected: dict[str, dict[str, str]] = json.loads(golden.read_text(encoding="utf-8"))
    return expected


def hashes(files: dict[str, bytes]) -> dict[str, str]:
    kept = {name: content for name, content in files.items() if not name.startswith("pghaven.config/")}
    return {name: blake3(content).hexdigest() for name, content in kept.items() if name not in MADE}


def test_there_is_one() -> None:
    assert REPOSITORIES


def test_every_backup_restores_as_it_was_and_nothing_is_written(golden: Path, tmp_path: Path) -> None:
    repository = open_golden(golden)
    expected = expected_of(golden)
    assert [entry.label for entry in BackupCatalog(repository, CLUSTER).list_committed()] == list(expected)
    for label, files in expected.items():
        restore(repository, label, tmp_path / label)
        assert hashes(read_tree(tmp_path / label)[0]) == files
    assert isinstance(repository.store, RecordingStore)
    assert repository.store.mutations == ()


def test_the_second_reader_reads_it_too(golden: Path, tmp_path: Path) -> None:
    reader = second_reader.Repository(golden.with_suffix(""))
    for label, files in expected_of(golden).items():
        second_reader.Backup(reader, CLUSTER, label).extract(tmp_path / label)
        assert hashes(read_tree(tmp_path / label)[0]) == files


def test_wal_and_quarantine_are_read(golden: Path) -> None:
    archive = open_archive(open_golden(golden))
    reader = second_reader.Repository(golden.with_suffix(""))
    names = [str(segment.name) for timeline in archive.list_timelines() for segment in archive.list_segments(timeline)]
    assert names == [f"0000000100000000{number:08X}" for number in (3, 4, 5)]
    for name in [*names, "00000002.history"]:
        assert archive.get(name) == reader.wal(CLUSTER, str(SYSTEM_IDENTIFIER), name)
    assert len(archive.list_quarantine()) == 1
