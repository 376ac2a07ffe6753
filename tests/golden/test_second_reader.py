"""What the format's page says is enough: a reader written from it gives the same bytes as pghaven."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pghaven.errors import Damaged
from pghaven.repository.container import Container, Kind
from pghaven.repository.document import parse_document
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.store.open import open_store
from tests.golden import second_reader
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import PROJECT
from tests.support.protected import Protected
from tests.support.synthetic import (
    CLUSTER,
    SYSTEM_IDENTIFIER,
    BackupOrder,
    SourceTree,
    make_repository,
    make_source,
    open_archive,
    read_tree,
    restore,
    take_backup,
)

READER = Path(second_reader.__file__)
PAGE = (PROJECT / "docs" / "format.md").read_text(encoding="utf-8")
REPOSITORY_ID = "00112233445566778899aabbccddeeff"
ORDERS = (BackupOrder(number=1, workers=3), BackupOrder(number=2, workers=1, one_by_one=False))
# A restore adds what a server needs to recover, and its own plan; the second reader only extracts.
ADDED = {"pghaven.restore.json", "recovery.signal"}


def run(*arguments: object) -> str:
    """The second reader in a process of its own, from another directory."""
    command = [sys.executable, "-I", str(READER), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Repository, dict[str, SourceTree]]:
    """A repository in a directory with two backups: holes, several frames and packs, odd names, a tablespace."""
    root = tmp_path_factory.mktemp("repository")
    repository = make_repository(open_store(f"file://{root}"))
    sources = {}
    for order in ORDERS:
        source = make_source(tmp_path_factory.mktemp("source"), salt=order.number, big=True)
        (source.data_directory / "random").write_bytes(os.urandom((3 << 20) + 17))
        take_backup(repository, source, order)
        sources[order.label] = source
    open_archive(repository).put("00000002.history", b"1\t0/600000\tno reason\n", {})
    return root, repository, sources


def test_it_imports_nothing_of_pghaven() -> None:
    allowed = {*sys.stdlib_module_names, "blake3", "backports", "compression"}
    for node in ast.walk(ast.parse(READER.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert {name.partition(".")[0] for name in names} <= allowed


def test_it_lists_the_backups(site: tuple[Path, Repository, dict[str, SourceTree]]) -> None:
    root, _, _ = site
    lines = run(root, "list").splitlines()
    assert lines == [f"{CLUSTER} {order.label} {order.start_lsn} {order.stop_lsn}" for order in ORDERS]


@pytest.mark.parametrize("number", [0, 1])
def test_it_extracts_what_a_restore_gives(
    site: tuple[Path, Repository, dict[str, SourceTree]], tmp_path: Path, number: int
) -> None:
    root, repository, _ = site
    label = ORDERS[number].label
    restore(repository, label, tmp_path / "restored")
    run(root, "extract", CLUSTER, label, tmp_path / "extracted")
    assert_same(tmp_path / "restored", tmp_path / "extracted")


def assert_same(restored: Path, extracted: Path) -> None:
    """The same files with the same bytes and times, the same directories."""
    ours, our_directories = read_tree(restored)
    theirs, their_directories = read_tree(extracted)
    ours = {name: content for name, content in ours.items() if name not in ADDED}
    settings = "postgresql.auto.conf"  # a restore puts its own behind those of the backup
    assert ours.pop(settings).startswith(theirs.pop(settings, b"").rstrip(b"\n"))
    assert ours.keys() == theirs.keys()
    assert not [name for name, content in ours.items() if theirs[name] != content]
    assert our_directories == their_directories
    for name in ours:
        if name not in ("backup_label", "global/pg_control"):
            assert (restored / name).stat().st_mtime_ns == (extracted / name).stat().st_mtime_ns, name


def test_it_reads_wal(site: tuple[Path, Repository, dict[str, SourceTree]], tmp_path: Path) -> None:
    root, repository, _ = site
    for name in ("000000010000000000000003", "00000002.history"):
        run(root, "wal", CLUSTER, SYSTEM_IDENTIFIER, name, tmp_path / name)
        assert (tmp_path / name).read_bytes() == open_archive(repository).get(name)


def test_it_finds_damage_too(site: tuple[Path, Repository, dict[str, SourceTree]], tmp_path: Path) -> None:
    root, _, _ = site
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-a", str(root), str(broken)], check=True)
    pack = max(broken.glob(f"clusters/{CLUSTER}/packs/*/*"), key=lambda path: path.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    reader = second_reader.Repository(broken)
    with pytest.raises(second_reader.Unreadable):
        for number, order in enumerate(ORDERS):
            second_reader.Backup(reader, CLUSTER, order.label).extract(tmp_path / f"x{number}")


def test_it_extracts_a_real_backup(
    make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    protected = Protected(make_cluster(), pghaven_command, server_path)
    protected.cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 20000) i")
    label = protected.backup().facts.label
    run(protected.repository_directory, "extract", protected.name, label, server_path / "extracted")
    assert_same(protected.restore(backup_label=label), server_path / "extracted")


# -- the page's examples ------------------------------------------------------------------------------------------


def example(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_page_s_document_is_one() -> None:
    context = f"{REPOSITORY_ID}/clusters/shop/x"
    data = example("document").encode()
    assert parse_document(context, data) == second_reader.parse_document(context, data) == {"a": 1}


def test_the_page_s_container_is_one() -> None:
    context = f"{REPOSITORY_ID}/clusters/shop/wal/1/other/x".encode()
    data = bytes.fromhex(example("container"))
    container = Container(data, kind=Kind.WAL, context=context, keyring=OPEN_KEYRING)
    assert (container.meta, container.read_all()) == ({}, b"abc")
    index = second_reader.parse_end(data, len(data), 3, context)
    (frame,) = index.frames
    assert (index.facts, frame.open(data[frame.at : frame.at + frame.stored_length])) == ({}, b"abc")


@pytest.mark.parametrize("place", range(len(bytes.fromhex(example("container")))))
def test_both_readers_find_every_changed_byte(place: int) -> None:
    context = f"{REPOSITORY_ID}/clusters/shop/wal/1/other/x".encode()
    data = bytearray.fromhex(example("container"))
    data[place] ^= 0x11

    def ours() -> Any:
        return Container(data, kind=Kind.WAL, context=context, keyring=OPEN_KEYRING).read_all()

    def theirs() -> Any:
        second_reader.require(data[:16] == second_reader.make_header(3), "no header")
        index = second_reader.parse_end(bytes(data), len(data), 3, context)
        return [frame.open(bytes(data[frame.at : frame.at + frame.stored_length])) for frame in index.frames]

    with pytest.raises(Damaged):
        ours()
    with pytest.raises(second_reader.Unreadable):
        theirs()
