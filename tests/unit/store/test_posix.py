"""What only a directory store has to withstand: links, strangers' files, lost answers, a root that goes away."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pghaven.errors import ObjectExists, ObjectMissing, Refused, StoreUnreachable
from pghaven.store import tree
from pghaven.store.posix import PosixStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def store(root: Path) -> PosixStore:
    return PosixStore.open(f"file://{root}", str(root))


def test_files_and_directories_have_their_modes_whatever_the_umask(store: PosixStore, root: Path) -> None:
    before = os.umask(0o077)
    try:
        store.create("a/b/c", [b"x"])
    finally:
        os.umask(before)
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in ("a", "a/b", "a/b/c")] == [0o750, 0o750, 0o640]


def test_the_mode_somebody_gave_a_directory_is_left_alone(store: PosixStore, root: Path) -> None:
    store.create("a/b", [b"x"])
    os.chmod(root / "a", 0o700)
    store.create("a/c", [b"x"])
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o700


def test_directories_go_with_their_last_object(store: PosixStore, root: Path) -> None:
    store.create("a/b/c/d", [b"x"])
    store.create("a/e", [b"x"])
    store.delete("a/b/c/d")
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["a", "a/e"]
    store.delete("a/e")
    assert os.listdir(root) == []


def test_no_symbolic_link_below_the_root_is_followed(store: PosixStore, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "object").write_bytes(b"not ours")
    (root / "linked").symlink_to(outside)
    (root / "object").symlink_to(outside / "object")
    (root / "dangling").symlink_to(outside / "nothing")
    for name in ("linked/object", "linked/deep/new", "object"):
        for call in (store.read, store.find, store.confirm):
            with pytest.raises(Refused, match="symbolic link"):
                call(name)
    for name in ("linked/new", "linked/deep/new"):
        with pytest.raises(Refused, match="symbolic link"):
            store.create(name, [b"x"])
    for name in ("object", "dangling"):
        with pytest.raises(ObjectExists):
            store.create(name, [b"x"])
    with pytest.raises(Refused, match="symbolic link"):
        store.delete("linked/object")
    assert list(store.list("")) == []
    assert store.list_children("") == ()
    assert [path.name for path in outside.iterdir()] == ["object"]
    assert (outside / "object").read_bytes() == b"not ours"


def test_strangers_in_the_directory_are_passed_over(store: PosixStore, root: Path) -> None:
    store.create("a/object", [b"x"])
    for name in ("lost+found", ".snapshot", "with space"):
        (root / name).mkdir()
        (root / name / "inside").write_bytes(b"x")
    (root / "a" / ".tmp-1234").write_bytes(b"x")
    (root / "a" / os.fsdecode(b"\xff")).write_bytes(b"x")
    os.mkfifo(root / "a" / "fifo")
    assert [info.name for info in store.list("")] == ["a/object"]
    assert store.list_children("") == ("a/",)
    assert store.list_children("a/") == ("object",)


def test_a_fifo_is_no_object_and_does_not_make_anyone_wait(store: PosixStore, root: Path) -> None:
    os.mkfifo(root / "fifo")
    assert store.find("fifo") is None
    with pytest.raises(ObjectMissing):
        store.read("fifo")
    with pytest.raises(ObjectExists):
        store.create("fifo", [b"x"])


def test_a_link_whose_answer_was_lost_is_known_by_its_inode(root: Path) -> None:
    (root / "temporary").write_bytes(b"x")
    (root / "other").write_bytes(b"x")
    os.link(root / "temporary", root / "object")
    descriptor = os.open(root, os.O_RDONLY)
    try:
        tree.link_if_absent(descriptor, "temporary", "object")
        with pytest.raises(FileExistsError):
            tree.link_if_absent(descriptor, "temporary", "other")
    finally:
        os.close(descriptor)


def test_a_root_that_is_gone_or_another_proves_nothing(store: PosixStore, root: Path, tmp_path: Path) -> None:
    store.create("a/b", [b"x"])
    root.rename(tmp_path / "elsewhere")
    for expected in ("No such file", "another directory"):
        for call in (store.find, store.read, store.confirm, store.delete, lambda name: store.create(name, [b"y"])):
            with pytest.raises(StoreUnreachable, match=expected) as raised:
                call("a/b")
            assert "mounted" in str(raised.value.hint)
        for listing in (store.list_children, lambda prefix: list(store.list(prefix))):
            with pytest.raises(StoreUnreachable, match=expected):
                listing("a/")
        if not root.exists():
            root.mkdir()
    assert os.listdir(root) == []


def test_a_pickled_store_knows_its_root_too(store: PosixStore, root: Path, tmp_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    root.rename(tmp_path / "elsewhere")
    root.mkdir()
    with pytest.raises(StoreUnreachable):
        copy.find("a")


def test_a_root_may_be_reached_through_a_link(tmp_path: Path, root: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    store = PosixStore.open("file:", str(tmp_path / "link"))
    store.create("a", [b"x"])
    assert (root / "a").read_bytes() == b"x"


def test_no_descriptor_is_left_open(store: PosixStore) -> None:
    store.create("a/b/c", [b"x"])
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(ObjectExists):
            store.create("a/b/c", [b"x"])
        with pytest.raises(Refused):
            store.create("a/b", [b"x"])
        with pytest.raises(ObjectMissing):
            store.read("a/b/d")
        next(store.list(""))
        store.find("a/b/c")
        store.confirm("a/b/c")
        store.list_children("a/")
        store.create("a/x", [b"x"])
        store.delete("a/x")
    assert os.listdir("/proc/self/fd") == before


def test_content_that_cannot_be_written_leaves_nothing(store: PosixStore, root: Path) -> None:
    with pytest.raises(TypeError):
        store.create("a", [b"x", "text"])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        store.create("a", [memoryview(bytes(10))[::2]])
    assert os.listdir(root) == []


def test_what_the_system_does_not_permit_is_said_with_what_to_do() -> None:
    code = """
import os, sys
from pghaven.errors import NotPermitted
from pghaven.store.posix import PosixStore
if os.geteuid() == 0:
    os.setuid(65534)
store = PosixStore.open("file:///place", sys.argv[1])
for name, call in [("a/b", store.create), ("closed/a", lambda name, _: store.read(name))]:
    try:
        call(name, [b"x"])
    except NotPermitted as error:
        print(error, error.hint, sep="\\n")
"""
    with tempfile.TemporaryDirectory() as place:  # one that others can reach, unlike pytest's
        os.mkdir(f"{place}/closed", 0)
        os.chmod(place, 0o555)
        ended = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True)
    hint = "Run this as the user who owns the directory, or give it to that user."
    assert ended.stdout.splitlines() == [
        'could not create "a/b" in file:///place: Permission denied',
        hint,
        'could not read "closed/a" in file:///place: Permission denied',
        hint,
    ], ended.stderr
