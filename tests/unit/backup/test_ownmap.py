"""The map that a host keeps of its own backup counts only if it is whole, and for the manifest that was decided on."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pghaven.backup.ownmap import OwnMaps, find_maps
from pghaven.errors import Damaged, StoreUnreachable
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.keytext import Access
from pghaven.repository.manifest import Manifest
from pghaven.store.memory import MemoryStore
from tests.support.keys import make_sealed
from tests.support.synthetic import CLUSTER, BackupOrder, make_source, take_backup

DECIDED = "ab" * 32


@pytest.fixture
def made(tmp_path: Path) -> tuple[OwnMaps, Manifest]:
    """A host's maps, and the manifest of a backup that it took."""
    site = make_sealed(MemoryStore())
    source_root = tmp_path / "source"
    source_root.mkdir()
    manifest = take_backup(site.open(), make_source(source_root), BackupOrder(number=1))
    writer = BackupCatalog(site.open(site.add("host", Access.WRITER)), CLUSTER)
    maps = find_maps(writer, str(tmp_path / "state"), str(tmp_path))
    assert maps is not None
    assert find_maps(BackupCatalog(site.open(), CLUSTER), None, str(tmp_path)) is None
    return maps, manifest


def test_a_map_comes_back_as_it_was(made: tuple[OwnMaps, Manifest]) -> None:
    maps, manifest = made
    label = manifest.facts.label
    assert not maps.list_labels()
    maps.save(label, manifest, DECIDED)
    assert maps.list_labels() == {label}
    found = maps.load(label, DECIDED)
    assert (found.facts, found.packs) == (manifest.facts, manifest.packs)
    assert stat.S_IMODE(Path(maps.directory).stat().st_mode) == 0o700


def test_a_map_of_another_manifest_does_not_count(made: tuple[OwnMaps, Manifest]) -> None:
    maps, manifest = made
    maps.save(manifest.facts.label, manifest, DECIDED)
    with pytest.raises(Damaged, match="written anew"):
        maps.load(manifest.facts.label, "cd" * 32)
    with pytest.raises(Damaged, match="not kept on this host"):
        maps.load("another", DECIDED)


def test_every_change_of_a_map_is_found(made: tuple[OwnMaps, Manifest]) -> None:
    maps, manifest = made
    label = manifest.facts.label
    maps.save(label, manifest, DECIDED)
    (path,) = Path(maps.directory).iterdir()
    whole = path.read_bytes()
    for at in range(0, len(whole), 41):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(Damaged):
            maps.load(label, DECIDED)


def test_only_the_newest_is_kept_and_failing_to_is_told(made: tuple[OwnMaps, Manifest], tmp_path: Path) -> None:
    maps, manifest = made
    maps.save("20200101T000000Z-0001", manifest, DECIDED)
    maps.save(manifest.facts.label, manifest, DECIDED)
    assert maps.list_labels() == {manifest.facts.label}
    (tmp_path / "taken").write_text("")
    elsewhere = OwnMaps(maps._repository, CLUSTER, str(tmp_path / "taken"), str(tmp_path))
    with pytest.raises(StoreUnreachable, match="could not keep a copy") as caught:
        elsewhere.save(manifest.facts.label, manifest, DECIDED)
    assert "state_directory" in str(caught.value.hint)
