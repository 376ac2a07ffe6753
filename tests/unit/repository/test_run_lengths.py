"""Run lengths that are few different ones, written as numbers of these."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pghaven.errors import Damaged
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.codec import Compressor
from pghaven.repository.container import Container, Kind
from pghaven.repository.kit import rescue
from pghaven.repository.manifest import Manifest, parse_manifest, render_manifest
from pghaven.repository.manifest_columns import RANKED_RUNS_MIN, complete_runs, iter_byte_planes, rank_lengths
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.runtime.names import Names
from pghaven.runtime.spill import PART_ROWS
from pghaven.store.memory import MemoryStore
from tests.support.manifests import take_apart
from tests.support.synthetic import CLUSTER, BackupOrder, make_repository, make_source, store_files

CONTEXT = b"some repository/clusters/shop/backups/x/manifest"
RUNS = RANKED_RUNS_MIN + 3


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One file of many runs, of seven different lengths."""
    source = make_source(tmp_path_factory.mktemp("source"))
    made = store_files(BackupCatalog(make_repository(MemoryStore()), CLUSTER), source, BackupOrder())
    length = (np.arange(RUNS, dtype=np.uint64) ** np.uint64(2)) % np.uint64(11) + np.uint64(300)
    files = replace(
        made.files,
        names=Names([b"rows"]),
        size=np.array([length.sum()], np.uint64),
        **{
            name: getattr(made.files, name)[:1]
            for name in ("directory", "mode", "mtime_ns", "owner", "flags", "content_hash")
        },
    )
    block_map = replace(
        made.block_map,
        runs_of_file=np.array([RUNS], np.uint32),
        length=length,
        pack=np.zeros(RUNS, np.uint32),
        offset=np.arange(RUNS, dtype=np.uint64) % np.uint64(5),
    )
    facts = replace(made.facts, file_count=1, total_bytes=int(length.sum()))
    return replace(made, facts=facts, files=files, block_map=block_map)


def pack_up(manifest: Manifest) -> Container:
    return open_manifest(render_manifest(manifest, context=CONTEXT, keyring=OPEN_KEYRING).to_bytes())


def open_manifest(stored: bytes) -> Container:
    return Container(stored, kind=Kind.MANIFEST, context=CONTEXT, keyring=OPEN_KEYRING)


def test_many_runs_of_few_lengths_come_back(manifest: Manifest) -> None:
    container = pack_up(manifest)
    assert "run_length" not in container.meta["columns"]
    assert container.meta["columns"]["run_lengths"][1] == 6
    found = parse_manifest(container).block_map
    np.testing.assert_array_equal(found.length, manifest.block_map.length)
    np.testing.assert_array_equal(found.offset, manifest.block_map.offset)
    assert found.length.dtype == np.uint64


def test_a_manifest_with_the_lengths_themselves_is_read_as_before(manifest: Manifest) -> None:
    parts = take_apart(pack_up(manifest))
    container = open_manifest(parts.render(CONTEXT))
    assert "run_length" in container.meta["columns"]
    np.testing.assert_array_equal(parse_manifest(container).block_map.length, manifest.block_map.length)


def test_the_rescue_kit_reads_them(manifest: Manifest) -> None:
    container = pack_up(manifest)
    backup = object.__new__(rescue.Backup)
    backup._plain, backup._places = bytes(container.read_all()), container.meta["columns"]
    assert backup._look_up().tolist() == manifest.block_map.length.tolist()
    backup._places = backup._places | {"run_lengths": [backup._places["run_lengths"][0], 5]}
    with pytest.raises(rescue.Unreadable, match="without a length"):
        backup._look_up()


def test_a_length_that_is_not_there_is_damage(manifest: Manifest) -> None:
    container = pack_up(manifest)
    container.meta["columns"]["run_lengths"][1] -= 1  # type: ignore[index]
    with pytest.raises(Damaged, match="not a backup's manifest"):
        parse_manifest(container)


@pytest.mark.parametrize("different", [1, 300, 1 << 13])
def test_lengths_come_back_over_parts(different: int) -> None:
    length = np.random.default_rng(different).geometric(3 / different if different > 3 else 1, 2 * PART_ROWS + 5)
    columns = {"run_length": (length * 97).astype(np.uint64), "run_offset": np.zeros(0, np.uint64)}
    ranked = rank_lengths(columns)
    times = np.bincount(ranked["run_rank"])
    assert (np.diff(times) <= 0).all()
    assert len(times) == len(ranked["run_lengths"])
    complete_runs(ranked)
    np.testing.assert_array_equal(ranked["run_length"], columns["run_length"])


@pytest.mark.parametrize("length", [np.arange(1, RUNS, dtype=np.uint64), np.ones(RANKED_RUNS_MIN - 1, np.uint64)])
def test_many_different_lengths_and_few_runs_are_written_as_they_are(length: np.ndarray) -> None:
    columns = {"run_length": length}
    assert rank_lengths(columns) is columns


def test_the_bytes_of_ranks_are_fewer_than_those_of_lengths() -> None:
    """Rows of 97 bytes of which one in a hundred changed: what is left is about what that says, a byte a run."""
    length = np.random.default_rng(1).geometric(0.01, 50_000).astype(np.uint64) * np.uint64(97)
    ranked = rank_lengths({"run_length": length})
    compressor = Compressor(6)

    def measure(column: np.ndarray, dtype: str) -> int:
        return sum(len(compressor.compress(frame)[1]) for frame in iter_byte_planes(column, np.dtype(dtype)))

    size = measure(ranked["run_rank"], "<u2") + measure(ranked["run_lengths"], "<u8")
    assert size < 0.7 * measure(length, "<u8")
    assert size < 1.2 * len(length)
