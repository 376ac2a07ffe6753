"""Any data directory comes back as it was read, also when it changes while it is read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pghaven.repository.backups import BackupCatalog
from pghaven.store.memory import MemoryStore
from tests.support.places import scratch
from tests.support.synthetic import (
    CLUSTER,
    GENERATED,
    PAGE,
    BackupOrder,
    SourceTree,
    archive_wal,
    commit,
    make_intent,
    make_repository,
    make_source,
    read_tree,
    restore,
    store_files,
    take_backup,
)

MIB = 1 << 20
# Around everything that is a limit somewhere: pages, frames, batches, what counts as small.
SIZES = [0, 1, PAGE - 1, PAGE, PAGE + 1, MIB - 1, MIB, MIB + 1, 4 * MIB, 4 * MIB + 1, 6 * MIB + 3]
FILE = st.tuples(st.sampled_from(SIZES) | st.integers(0, 3 * PAGE), st.integers(0, 255), st.integers(0, 2))
NAMES = st.binary(min_size=1, max_size=4).filter(lambda name: b"/" not in name and b"\0" not in name).map(os.fsdecode)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map("/".join)


@contextmanager
def work_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="property-", dir=scratch()))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def make_content(size: int, fill: int, zeros: int) -> bytes:
    """``zeros`` MiB in the middle are nothing, the rest compresses a little."""
    content = np.arange(size, dtype=np.uint32).astype(np.uint8) ^ np.uint8(fill)
    content[MIB : (1 + zeros) * MIB] = 0
    return content.tobytes()


def write_more(source: SourceTree, more: dict[str, tuple[int, int, int]]) -> dict[str, bytes]:
    """Add files below ``extra``; where a name is needed as a directory the file gives way."""
    written: dict[str, bytes] = {}
    for name, (size, fill, zeros) in more.items():
        path = source.data_directory / "extra" / name
        if path.exists() or any(parent.is_file() for parent in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_content(size, fill, zeros))
        written[f"extra/{name}"] = path.read_bytes()
    return written


@settings(max_examples=25, deadline=None)
@given(more=st.dictionaries(PATHS, FILE, max_size=6), workers=st.integers(1, 3), one_by_one=st.booleans())
def test_any_files_come_back(more: dict[str, tuple[int, int, int]], workers: int, one_by_one: bool) -> None:
    with work_directory() as root:
        source = make_source(root, tablespaces=False)
        expected = {**source.files, **write_more(source, more)}
        repository = make_repository(MemoryStore())
        take_backup(repository, source, BackupOrder(workers=workers, one_by_one=one_by_one))
        restore(repository, BackupOrder().label, root / "target")
        files, _ = read_tree(root / "target")
        assert {name for name in files if name not in GENERATED} == set(expected)
        assert not [name for name, content in expected.items() if files[name] != content]


@dataclass(frozen=True)
class Change:
    """What happens to a file between listing and reading."""

    name: str
    kind: str
    amount: int


CHANGES = st.lists(
    st.builds(
        Change,
        name=st.sampled_from(["small", "page", "batch", "big"]),
        kind=st.sampled_from(["cut", "grow", "remove", "replace"]),
        amount=st.sampled_from([0, 1, PAGE, MIB, 5 * MIB]),
    ),
    max_size=3,
)


def apply(change: Change, path: Path) -> None:
    if not path.exists():
        return
    size = path.stat().st_size
    if change.kind == "cut":
        os.truncate(path, min(size, change.amount))
    elif change.kind == "grow":
        with open(path, "ab") as file:
            file.write(b"g" * change.amount)
    elif change.kind == "remove":
        path.unlink()
    else:
        path.write_bytes(b"r" * change.amount)


@settings(max_examples=40, deadline=None)
@given(changes=CHANGES, one_by_one=st.booleans())
def test_files_that_change_before_they_are_read_are_as_they_were_found(changes: list[Change], one_by_one: bool) -> None:
    """Never longer than listed, never anything that was not in the file; one that vanished is not in the backup."""
    sizes = {"small": 100, "page": 3 * PAGE, "batch": MIB + 5, "big": 5 * MIB + 7}
    with work_directory() as root:
        source = make_source(root, tablespaces=False)
        for number, (name, size) in enumerate(sizes.items()):
            (source.data_directory / name).write_bytes(make_content(size, number, 0))
        repository = make_repository(MemoryStore())
        catalog = BackupCatalog(repository, CLUSTER)
        order = BackupOrder(one_by_one=one_by_one)

        def change() -> None:
            for one in changes:
                apply(one, source.data_directory / one.name)

        catalog.announce(order.label, make_intent(order))
        manifest = store_files(catalog, source, order, change)
        archive_wal(repository, order)
        commit(catalog, manifest, order)
        restore(repository, order.label, root / "target")
        found, _ = read_tree(root / "target")
        for name, size in sizes.items():
            path = source.data_directory / name
            if path.exists():
                assert found[name] == path.read_bytes()[:size]
            else:
                assert name not in found
