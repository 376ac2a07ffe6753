"""The rescue kit: a program of one file, written from docs/format.md alone, gets out what pghaven put in."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from pghaven.errors import Damaged
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.container import Container, Kind
from pghaven.repository.document import parse_document
from pghaven.repository.keyset import make_first_key
from pghaven.repository.keytext import Access
from pghaven.repository.kit import rescue
from pghaven.repository.partials import Piece, put_piece
from pghaven.repository.repository import Repository
from pghaven.repository.rescuekit import KIT_NUMBER, kit_prefix, read_kit, write_kit
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.store.memory import MemoryStore
from pghaven.store.open import create_root, open_store
from pghaven.store.recording import RecordingStore
from tests.golden.test_repositories import REPOSITORIES
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.keys import make_sealed
from tests.support.places import PROJECT, own
from tests.support.protected import Protected, dump_hash
from tests.support.synthetic import (
    CLUSTER,
    BackupOrder,
    SourceTree,
    make_repository,
    make_segment,
    make_source,
    open_archive,
    read_tree,
    restore,
    take_backup,
)

PROGRAM = Path(rescue.__file__)
PAGE = (PROJECT / "docs" / "format.md").read_text(encoding="utf-8")
REPOSITORY_ID = "00112233445566778899aabbccddeeff"
ORDERS = (BackupOrder(number=1, workers=3), BackupOrder(number=2, workers=1, one_by_one=False))
# A restore adds what a server needs to recover, and its own plan; the kit only extracts.
ADDED = {"pghaven.restore.json", "recovery.signal"}
# Every kit that a release had, by its number. One of a release is never changed: its number is raised instead.
RELEASED: dict[int, str] = {}


def run(*arguments: object, program: Path = PROGRAM, bare: bool = True) -> str:
    """The program in a process of its own, from another directory; ``bare`` is without any installed package."""
    command = [sys.executable, "-I", *(["-S"] if bare else []), str(program), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Repository, dict[str, SourceTree]]:
    """A repository in a directory with two backups: holes, several frames and packs, odd names, a tablespace."""
    root = tmp_path_factory.mktemp("repository")
    repository = make_repository(open_store(f"file://{root}"))
    write_kit(repository)
    sources = {}
    for order in ORDERS:
        source = make_source(tmp_path_factory.mktemp("source"), salt=order.number, big=True)
        (source.data_directory / "random").write_bytes(os.urandom((3 << 20) + 17))
        take_backup(repository, source, order)
        sources[order.label] = source
    open_archive(repository).put("00000002.history", b"1\t0/600000\tno reason\n", {})
    return root, repository, sources


# -- the kit in the repository ------------------------------------------------------------------------------------


def test_it_is_one_file_that_an_old_python_reads() -> None:
    """Written for 3.9, the oldest that a distribution still supports; no package is needed, some are used."""
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"), feature_version=(3, 9))
    allowed = {*sys.stdlib_module_names, "blake3", "backports", "compression", "zstandard", "cryptography"}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert {name.partition(".")[0] for name in names} <= allowed


def test_it_is_written_once_and_costs_one_request_then() -> None:
    store = RecordingStore(MemoryStore())
    repository = make_repository(store)
    write_kit(repository)
    assert [one.name for one in store.mutations[-2:]] == ["rescue.py", "RESCUE.md"]
    before = store.mutations
    write_kit(repository)
    assert store.mutations == before


def test_a_kit_that_a_crash_cut_short_is_completed() -> None:
    store = RecordingStore(MemoryStore())
    write_kit(make_repository(store))
    store.delete("RESCUE.md")
    write_kit(make_repository(store))
    assert store.find("RESCUE.md") is not None


def test_a_later_kit_lies_beside_the_first() -> None:
    assert [kit_prefix(number) for number in (1, 2, 12)] == ["", "rescue/0002/", "rescue/0012/"]
    assert rescue.KIT_NUMBER == KIT_NUMBER


def test_a_released_kit_is_not_changed() -> None:
    content = hashlib.sha256(b"".join(read_kit().values())).hexdigest()
    assert RELEASED.get(KIT_NUMBER, content) == content, "raise KIT_NUMBER in rescuekit.py and rescue.py"


def test_the_page_names_every_command_as_it_is() -> None:
    page = read_kit()["RESCUE.md"].decode()
    for command in ("list", "extract", "wal"):
        assert f"python3 rescue.py {command}" in page
        assert f"python3 rescue.py {command}" in (rescue.__doc__ or "")


def test_it_finds_the_repository_that_it_lies_in(site: tuple[Path, Repository, dict[str, SourceTree]]) -> None:
    root, _, _ = site
    later = root / "rescue" / "0002" / "rescue.py"
    later.parent.mkdir(parents=True, exist_ok=True)
    later.write_bytes(PROGRAM.read_bytes())
    listed = run("-r", root, "list")
    assert run("list", program=root / "rescue.py") == run("list", program=later) == listed
    assert [line.split()[:2] for line in listed.splitlines()] == [[CLUSTER, order.label] for order in ORDERS]


# -- hashes and decoders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 3073, 5 * 1024, 8192, 31 * 1024 + 5])
def test_hashes_in_python_are_blake3(size: int) -> None:
    messages = [os.urandom(size) for _ in range(3)]
    assert rescue.hash_in_python(messages) == [blake3(one).digest() for one in messages]


def test_more_chunks_than_lanes_are_hashed_too() -> None:
    message = os.urandom(rescue.LANES * rescue.CHUNK_BYTES * 2 + 17)
    assert rescue.hash_in_python([message]) == [blake3(message).digest()]


def list_decoders() -> list[Any]:
    """Each way to decode zstd that this machine has."""
    import ctypes
    import ctypes.util
    import shutil

    from pghaven.repository.codec import zstd

    found = [pytest.param(lambda stored, size: rescue.decode_with_module(zstd, stored, size), id="module")]
    if name := ctypes.util.find_library("zstd"):
        library = ctypes.CDLL(name)
        library.ZSTD_decompress.restype = ctypes.c_size_t
        found.append(pytest.param(lambda stored, size: rescue.decode_with_library(library, stored, size), id="library"))
    if program := shutil.which("zstd"):
        found.append(pytest.param(lambda stored, size: rescue.decode_with_program(program, stored, size), id="program"))
    return found


@pytest.mark.parametrize("decode", list_decoders())
@pytest.mark.parametrize("said", [-1, 0])
def test_every_decoder_gives_the_plain_bytes_and_no_more_than_was_said(decode: Any, said: int) -> None:
    from pghaven.repository.codec import zstd

    plain = os.urandom(1000) * 1000
    stored = zstd.compress(plain)
    frame = rescue.Frame(16, len(stored), 0, len(plain) + said, 1, rescue.digest(plain), False)
    try:
        got = decode(stored, frame.plain_length)
    except rescue.Unreadable:
        assert said
    else:
        assert len(got) <= frame.plain_length + 1
        assert (got == plain) is (said == 0 or len(got) == len(plain))


# -- what it extracts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("bare", [False, True])
def test_it_extracts_what_a_restore_gives(
    site: tuple[Path, Repository, dict[str, SourceTree]], tmp_path: Path, number: int, bare: bool
) -> None:
    root, repository, _ = site
    label = ORDERS[number].label
    restore(repository, label, tmp_path / "restored")
    run("-r", root, "extract", CLUSTER, label if number == 0 else "latest", tmp_path / "extracted", bare=bare)
    assert_same(tmp_path / "restored", tmp_path / "extracted")


def assert_same(restored: Path, extracted: Path) -> None:
    """The same files with the same bytes, times and permissions, the same directories."""
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
            assert (restored / name).stat().st_mode == (extracted / name).stat().st_mode, name


def test_it_writes_over_nothing(site: tuple[Path, Repository, dict[str, SourceTree]], tmp_path: Path) -> None:
    root, _, _ = site
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run("-r", root, "extract", CLUSTER, ORDERS[0].label, tmp_path)
    assert "is not empty" in failed.value.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_it_gets_the_wal_out(site: tuple[Path, Repository, dict[str, SourceTree]], tmp_path: Path) -> None:
    root, repository, _ = site
    for _ in range(2):  # again is fine
        run("-r", root, "wal", CLUSTER, tmp_path / "wal")
    names = sorted(path.name for path in (tmp_path / "wal").iterdir())
    assert "00000002.history" in names
    assert "000000010000000000000003" in names
    for name in names:
        assert (tmp_path / "wal" / name).read_bytes() == open_archive(repository).get(name)
    assert list(rescue.find_spans([1, 2, 3, 5, 7, 8])) == [(1, 3), (5, 5), (7, 8)]


def test_it_puts_the_unfinished_segment_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = make_repository(create_root(f"file://{tmp_path / 'repository'}"))
    archive = open_archive(repository)
    archive.put("000000010000000000000003", make_segment(3), {})
    content = make_segment(4)
    pieces = {"00000001": ((0, 5000), (5000, 9000), (9500, 9900)), "00000002": ((0, 8000),), "00000003": ((7, 9999),)}
    for number, receivers in ((3, {"00000004": ((0, 10),)}), (4, pieces)):
        segment = SegmentName(timeline=Timeline(1), number=number, segment_size=archive.segment_size)
        for receiver, spans in receivers.items():
            for begin, end in spans:
                piece = Piece(segment=segment, receiver=receiver, begin=begin, end=end)
                put_piece(archive, piece, make_segment(number)[begin:end], {})

    def extract(target: Path) -> int:
        return rescue.main(["-r", str(tmp_path / "repository"), "wal", CLUSTER, str(target)])

    assert extract(tmp_path / "wal") == 0
    assert (tmp_path / "wal" / "000000010000000000000003").read_bytes() == make_segment(3)
    tail = (tmp_path / "wal" / "000000010000000000000004").read_bytes()
    assert tail == content[:9000] + bytes(len(content) - 9000)
    assert "the first 9000 bytes of 000000010000000000000004" in capsys.readouterr().err

    damaged = next((tmp_path / "repository").glob("clusters/*/partials/*/*/*4/00000001-00001388-*"))
    damaged.chmod(0o600)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert extract(tmp_path / "again") == 1
    assert (tmp_path / "again" / "000000010000000000000004").read_bytes()[:8001] == content[:8000] + b"\0"


def test_of_wal_it_takes_what_a_backup_needs(
    site: tuple[Path, Repository, dict[str, SourceTree]], tmp_path: Path
) -> None:
    root, _, _ = site
    run("-r", root, "wal", CLUSTER, tmp_path, "--backup", ORDERS[1].label)
    first = rescue.Backup(rescue.Repository(root), CLUSTER, ORDERS[1].label).first_segment()
    segments = sorted(path.name for path in tmp_path.iterdir() if len(path.name) == 24)
    assert int(segments[0][16:], 16) == first
    assert (tmp_path / "00000002.history").exists()


def test_it_finds_damage_too(site: tuple[Path, Repository, dict[str, SourceTree]], tmp_path: Path) -> None:
    root, _, _ = site
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-a", str(root), str(broken)], check=True)
    spoil(max(broken.glob(f"clusters/{CLUSTER}/packs/*/*"), key=lambda path: path.stat().st_size))
    reader = rescue.Repository(broken)
    with pytest.raises(rescue.Unreadable):
        for number, order in enumerate(ORDERS):
            rescue.Backup(reader, CLUSTER, order.label).extract(tmp_path / f"x{number}")
    assert not all((tmp_path / f"x{number}/global/pg_control").exists() for number in range(len(ORDERS)))
    segment = next(broken.glob(f"clusters/{CLUSTER}/wal/*/00000001/*/000000010000000000000003"))
    spoil(segment)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run("-r", broken, "wal", CLUSTER, tmp_path / "wal")
    assert f"DAMAGED, left out: {segment.name}" in failed.value.stderr
    assert segment.name not in {path.name for path in (tmp_path / "wal").iterdir()}
    spoil(broken / f"clusters/{CLUSTER}/backups/{ORDERS[0].label}/decision")
    listed = run("-r", broken, "list")
    assert [line.split()[1] for line in listed.splitlines()] == [ORDERS[1].label]


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


def test_a_sealed_repository_is_read_with_its_key_or_passphrase_and_by_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    for directory in (root, tmp_path / "source"):
        directory.mkdir()
    site = make_sealed(open_store(f"file://{root}"))
    site.add_passphrase("paper", "correct horse")
    writer = site.add("host", Access.WRITER)
    source = make_source(tmp_path / "source")
    take_backup(site.open(), source, ORDERS[1])
    for given in ({"key": site.key.render()}, {"passphrase": "correct horse"}):
        reader = rescue.Repository(root, **given)
        assert [label for label, _ in reader.backups(CLUSTER)] == [ORDERS[1].label]
        target = tmp_path / "-".join(given)
        rescue.Backup(reader, CLUSTER, "latest").extract(target)
        restore(site.open(), ORDERS[1].label, tmp_path / f"restored-{target.name}")
        assert_same(tmp_path / f"restored-{target.name}", target)
    for wrong, reason in (
        (make_first_key().render(), "another repository's"),
        (writer.render(), "only writes"),
        (site.key.render()[:-3] + "aaa", "not copied right"),
    ):
        with pytest.raises(rescue.Unreadable, match=reason):
            rescue.Repository(root, wrong)
    with pytest.raises(rescue.Unreadable, match="opens no slot"):
        rescue.Repository(root, passphrase="incorrect horse")
    with pytest.raises(rescue.Unreadable, match="give a key"):
        rescue.Repository(root).lineages(CLUSTER)
    slots = ["first  key  reader", "paper  passphrase  reader", "host  key  writer"]
    assert run("-r", root, "slots").splitlines() == slots


@pytest.mark.parametrize("path", REPOSITORIES, ids=lambda path: path.stem)
def test_every_version_of_the_format_is_read_without_any_package(path: Path, tmp_path: Path) -> None:
    key = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["key"]
    words = []
    if key is not None:  # nothing opens seals without one
        (tmp_path / "key").write_text(f"# of a sealed repository\n{key}\n", encoding="utf-8")
        words = ["--key", str(tmp_path / "key")]
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "repository")
    lines = run("-r", tmp_path / "repository", *words, "list", bare=key is None).splitlines()
    assert lines
    for line in lines:
        cluster, label = line.split()[:2]
        run("-r", tmp_path / "repository", *words, "extract", cluster, label, tmp_path / label, bare=key is None)
        first = "globals.sql" if "SQL dump" in line else "pg_control"
        assert (tmp_path / label / "global" / first).exists()


def test_a_server_comes_back_from_it(
    pg_version: int, make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path
) -> None:
    """As RESCUE.md says, step by step: the last row that was archived is there."""
    protected = Protected(make_cluster(), pghaven_command, server_path)
    space = server_path / "space"
    space.mkdir()
    own(space)
    protected.cluster.sql(f"CREATE TABLESPACE space LOCATION '{space}'")
    protected.cluster.sql(
        "CREATE TABLE t TABLESPACE space AS SELECT i, md5(i::text) AS x FROM generate_series(1, 9000) i"
    )
    protected.backup()
    protected.cluster.sql("UPDATE t SET x = 'changed' WHERE i % 7 = 0")
    label = protected.backup().facts.label
    protected.cluster.sql("INSERT INTO t VALUES (0, 'after the backup')")
    protected.settle()
    before = dump_hash(protected.cluster)

    write_kit(protected.repository)
    program = protected.repository_directory / "rescue.py"
    target, wal = server_path / "rescued", server_path / "wal"
    run("extract", protected.name, label, target, program=program)
    run("wal", protected.name, wal, "--backup", label, program=program)
    with (target / "postgresql.auto.conf").open("a") as file:
        file.write(f"""restore_command = 'cp "{wal}/%f" "%p"'\narchive_mode = off\n""")
    (target / "recovery.signal").touch()
    protected.cluster.stop()
    for path in (target, wal, server_path / "rescued-tablespaces"):
        for each in (path, *path.rglob("*")):
            own(each)
    rescued = make_cluster.adopt(target)
    rescued.append_conf(unix_socket_directories=str(rescued.socket_directory))
    rescued.start()
    rescued.wait_for("SELECT NOT pg_is_in_recovery()")
    assert dump_hash(rescued) == before
    assert rescued.value("SELECT x FROM t WHERE i = 0") == "after the backup"
    assert_tablespace_is_its_own(rescued, space)


def assert_tablespace_is_its_own(rescued: TestCluster, original: Path) -> None:
    where = Path(str(rescued.value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'")))
    assert where.resolve() != original.resolve()
    assert where.parent.name == "rescued-tablespaces"


# -- the page's examples ------------------------------------------------------------------------------------------


def example(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_page_s_document_is_one() -> None:
    context = f"{REPOSITORY_ID}/clusters/shop/x"
    data = example("document").encode()
    assert parse_document(context, data) == rescue.parse_document(context, data) == {"a": 1}


def test_the_page_s_container_is_one() -> None:
    context = f"{REPOSITORY_ID}/clusters/shop/wal/1/other/x".encode()
    data = bytes.fromhex(example("container"))
    container = Container(data, kind=Kind.WAL, context=context, keyring=OPEN_KEYRING)
    assert (container.meta, container.read_all()) == ({}, b"abc")
    index = rescue.parse_end(data, len(data), 3, context)
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
        rescue.require(data[:16] == rescue.make_header(3), "no header")
        index = rescue.parse_end(bytes(data), len(data), 3, context)
        return [frame.open(bytes(data[frame.at : frame.at + frame.stored_length])) for frame in index.frames]

    with pytest.raises(Damaged):
        ours()
    with pytest.raises(rescue.Unreadable):
        theirs()
