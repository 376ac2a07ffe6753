"""A posix store's promise, "durable when it returns, whole or not at all", under kills, errors and power cuts."""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from pghaven.errors import NotPermitted, ObjectExists, StoreUnreachable
from pghaven.store.api import Store
from pghaven.store.open import create_root, open_store
from pghaven.store.posix import PosixStore
from pghaven.units import since_epoch
from tests.fault.tracing import Call, kills, needs_strace, run_traced
from tests.fault.volumes import PowerCut, memory_volume, needs_root, power_cut_volume
from tests.support.moving import list_files

NAME = "clusters/main/object"
CONTENT = [b"head", bytes(range(256)) * 300, b"tail"]
WHOLE = b"".join(CONTENT)

CREATE = f"""
import sys
from pghaven.errors import PghavenError
from pghaven.store.open import open_store
store = open_store("file://" + sys.argv[1])
try:
    store.create({NAME!r}, [b"head", bytes(range(256)) * 300, b"tail"])
except PghavenError as error:
    print(type(error).__name__, error)
else:
    print("acknowledged")
"""


def fresh(tmp_path: Path, name: str = "root") -> Path:
    root = tmp_path / name
    root.mkdir()
    return root


def store_in(root: Path) -> Store:
    return open_store(f"file://{root}")


def leftovers(root: Path) -> list[Path]:
    return list_files(root, ".tmp-*")


def step(call: Call) -> tuple[str, str]:
    """A call and what it is about: the temporary file, or a directory by its last name."""
    about = re.search(r'<([^>]*)>(?:, "([^"]*)")?', call.arguments)
    assert about is not None, call
    path = about[1].split("/")[-1]
    return call.name, "temporary" if ".tmp-" in (about[2] or path) and call.name != "linkat" else path


def is_whole_or_absent(store: Store) -> bool:
    """Whether the object is there. It must be whole then, and no listing shows anything else."""
    found = store.find(NAME)
    assert [info.name for info in store.list("")] == ([] if found is None else [NAME])
    if found is None:
        return False
    assert found.size_bytes == len(WHOLE)
    assert store.read(NAME) == WHOLE
    return True


def create_again(store: Store) -> None:
    """What a caller does after a crash: create, and on "exists" compare and confirm."""
    was_there = is_whole_or_absent(store)
    try:
        store.create(NAME, CONTENT)
    except ObjectExists:
        assert was_there
        store.confirm(NAME)
    assert is_whole_or_absent(store)


# The order of system calls


@needs_strace
def test_content_is_durable_before_it_has_a_name_and_the_name_before_success(tmp_path: Path) -> None:
    root = fresh(tmp_path)
    (root / "clusters" / "main").mkdir(parents=True)
    traced = run_traced(CREATE, [str(root)], tmp_path / "log")
    assert traced.out == "acknowledged\n", traced.err
    assert [step(call) for call in traced.calls] == [
        ("writev", "temporary"),
        ("fchmod", "temporary"),
        ("fsync", "temporary"),
        ("linkat", "main"),
        ("unlinkat", "temporary"),
        ("fsync", "main"),
    ]


@needs_strace
def test_new_directories_are_durable_before_anything_is_put_into_them(tmp_path: Path) -> None:
    root = fresh(tmp_path)
    traced = run_traced(CREATE, [str(root)], tmp_path / "log")
    assert [step(call) for call in traced.calls][:7] == [
        ("mkdirat", "root"),
        ("fsync", "root"),
        ("fchmod", "clusters"),
        ("mkdirat", "clusters"),
        ("fsync", "clusters"),
        ("fchmod", "main"),
        ("writev", "temporary"),
    ]


@needs_strace
@pytest.mark.parametrize("operation", ["create", "confirm"])
def test_a_directory_made_by_another_and_not_yet_durable_is_flushed_too(tmp_path: Path, operation: str) -> None:
    root = fresh(tmp_path)
    if operation == "confirm":
        store_in(root).create(NAME, CONTENT)
    else:
        (root / "clusters").mkdir()
    os.chmod(root / "clusters", 0o1750)  # as its maker leaves it between mkdir and fsync
    code = CREATE if operation == "create" else CREATE.replace("store.create(", "store.confirm(").replace(", [b", ") #")
    traced = run_traced(code, [str(root)], tmp_path / "log")
    assert traced.out == "acknowledged\n", traced.err
    steps = [step(call) for call in traced.calls]
    assert steps.index(("fsync", "root")) < steps.index(("fchmod", "clusters")) < steps.index(("fsync", "main"))
    assert stat.S_IMODE(os.stat(root / "clusters").st_mode) == 0o750


# Kills


@needs_strace
def test_killed_before_any_call_it_leaves_all_or_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    undisturbed = run_traced(CREATE, [str(fresh(tmp_path))], tmp_path / "log")
    outcomes = []
    for number, kill in enumerate(kills(undisturbed.calls)):
        root = fresh(tmp_path, f"root-{number}")
        traced = run_traced(CREATE, [str(root)], tmp_path / "log", inject=kill)
        assert traced.out == ""
        outcomes.append(is_whole_or_absent(store_in(root)))
        create_again(store_in(root))
    assert outcomes == [False] * 10 + [True] * 2  # nothing up to the link, and all of it from then on


@needs_strace
def test_leftovers_of_the_killed_are_removed_when_they_are_old(tmp_path: Path) -> None:
    root = fresh(tmp_path)
    run_traced(CREATE, [str(root)], tmp_path / "log", inject="linkat:signal=SIGKILL")
    (left,) = leftovers(root)
    store = PosixStore.open("file:", str(root))
    assert store.remove_leftovers(store_time(left, -1)) == 0
    assert leftovers(root) == [left]
    assert store.remove_leftovers(store_time(left, 1)) == len(WHOLE)
    assert leftovers(root) == []


def store_time(path: Path, seconds: float) -> datetime:
    return since_epoch(path.stat().st_mtime + seconds)


# Errors


@needs_strace
@pytest.mark.parametrize(
    ("inject", "error"),
    [
        ("writev:error=ENOSPC", "no space left"),
        ("writev:error=EDQUOT", "no space left"),
        ("writev:error=EIO", "Input/output error"),
        ("fsync:error=EIO:when=1", "Input/output error"),
        ("fsync:error=ENOSPC:when=1", "no space left"),
        ("linkat:error=EIO", "Input/output error"),
        ("linkat:error=ENOSPC", "no space left"),
    ],
)
def test_a_failing_call_is_reported_and_leaves_nothing(tmp_path: Path, inject: str, error: str) -> None:
    root = fresh(tmp_path)
    (root / "clusters" / "main").mkdir(parents=True)
    traced = run_traced(CREATE, [str(root)], tmp_path / "log", inject=inject)
    kind = "StoreFull" if error == "no space left" else "StoreUnreachable"
    assert traced.out.startswith(f"{kind} could not create"), traced
    assert error in traced.out
    assert leftovers(root) == []
    assert not is_whole_or_absent(store_in(root))
    create_again(store_in(root))


@needs_strace
def test_a_failed_fsync_is_never_tried_again(tmp_path: Path) -> None:
    root = fresh(tmp_path)
    (root / "clusters" / "main").mkdir(parents=True)
    traced = run_traced(CREATE, [str(root)], tmp_path / "log", inject="fsync:error=EIO:when=1")
    assert [(*step(call), call.error) for call in traced.calls][-2:] == [
        ("fsync", "temporary", "EIO"),
        ("unlinkat", "temporary", None),
    ]


@needs_strace
def test_an_object_whose_name_may_not_be_durable_is_not_acknowledged(tmp_path: Path) -> None:
    root = fresh(tmp_path)
    (root / "clusters" / "main").mkdir(parents=True)
    traced = run_traced(CREATE, [str(root)], tmp_path / "log", inject="fsync:error=EIO:when=2")
    assert traced.out.startswith("StoreUnreachable")
    assert is_whole_or_absent(store_in(root))  # another may have read and confirmed it: it stays


@needs_strace
def test_a_file_system_that_cannot_flush_directories_is_taken_as_it_is(tmp_path: Path) -> None:
    root = fresh(tmp_path)
    (root / "clusters" / "main").mkdir(parents=True)
    traced = run_traced(CREATE, [str(root)], tmp_path / "log", inject="fsync:error=EINVAL:when=2")
    assert traced.out == "acknowledged\n"


@needs_strace
@pytest.mark.parametrize("reason", ["EPERM", "EOPNOTSUPP"])
def test_without_hard_links_a_rename_that_replaces_nothing_does_the_same(tmp_path: Path, reason: str) -> None:
    root = fresh(tmp_path)
    traced = run_traced(CREATE, [str(root)], tmp_path / "log", inject=f"linkat:error={reason}")
    assert traced.out == "acknowledged\n", traced.err
    assert is_whole_or_absent(store_in(root))
    traced = run_traced(CREATE, [str(root)], tmp_path / "log", inject=f"linkat:error={reason}")
    assert traced.out.startswith("ObjectExists")
    assert is_whole_or_absent(store_in(root))
    assert leftovers(root) == []


@needs_strace
def test_a_temporary_file_lost_to_the_cleaner_fails_the_create(tmp_path: Path) -> None:
    root = fresh(tmp_path)
    traced = run_traced(CREATE, [str(root)], tmp_path / "log", inject="linkat:error=ENOENT")
    assert traced.out.startswith("StoreUnreachable could not create")
    assert not is_whole_or_absent(store_in(root))


# Full disks


@pytest.mark.root
@needs_root
def test_a_full_disk_is_said_and_leaves_the_room_it_had(tmp_path: Path) -> None:
    with memory_volume(tmp_path / "full", "size=1m") as root:
        store = store_in(root)
        store.create("a/small", [b"x"])
        before = store.free_bytes()
        with pytest.raises(StoreUnreachable, match="no space left") as raised:
            store.create("a/large", [bytes(1 << 19)] * 8)
        assert raised.value.hint is not None
        assert store.free_bytes() == before
        assert [info.name for info in store.list("")] == ["a/small"]
        store.create("a/large", [bytes(1 << 19)])


@pytest.mark.root
@needs_root
def test_a_disk_without_inodes_is_said(tmp_path: Path) -> None:
    with memory_volume(tmp_path / "full", "nr_inodes=6") as root:
        store = store_in(root)
        with pytest.raises(StoreUnreachable, match="no space left"):
            for number in range(10):
                store.create(f"a/{number}", [b"x"])
        last = max(info.name for info in store.list(""))
        store.delete(last)  # what is full can still be emptied
        store.create(last, [b"again"])


@pytest.mark.root
@needs_root
def test_an_unmounted_disk_is_no_proof_of_absence(tmp_path: Path) -> None:
    with memory_volume(tmp_path / "disk", "size=1m") as root:
        store = store_in(root)
        store.create(NAME, CONTENT)
    for call in (store.find, store.read, store.confirm, store.delete, lambda name: store.create(name, CONTENT)):
        with pytest.raises(StoreUnreachable, match="another directory") as raised:
            call(NAME)
        assert "mounted" in str(raised.value.hint)
    with pytest.raises(StoreUnreachable):
        list(store.list(""))
    assert os.listdir(root) == []


@pytest.mark.root
@needs_root
def test_a_read_only_disk_is_said_and_what_it_has_is_there(tmp_path: Path) -> None:
    with power_cut_volume(tmp_path) as volume:
        store_in(volume.path).create(NAME, CONTENT)
        subprocess.run(["mount", "-o", "remount,ro", str(volume.path)], check=True)
        store = store_in(volume.path)
        assert is_whole_or_absent(store)
        with pytest.raises(NotPermitted, match="Read-only") as raised:
            store.create("other", [b"x"])
        assert "read-only" in str(raised.value.hint)
        with pytest.raises(ObjectExists):
            store.create(NAME, CONTENT)


# Power cuts


@pytest.mark.root
@needs_root
def test_the_power_cut_is_sharp_enough_to_empty_a_file_renamed_without_fsync(tmp_path: Path) -> None:
    """Shows that the tests below would see it: the same cut ruins a writer that flushes nothing."""
    with power_cut_volume(tmp_path) as volume:
        (volume.path / "temporary").write_bytes(WHOLE)
        os.rename(volume.path / "temporary", volume.path / "object")
        volume.cut()
        assert (volume.path / "object").read_bytes() == b""


@pytest.mark.root
@needs_root
def test_what_was_acknowledged_survives_a_power_cut_whole(tmp_path: Path) -> None:
    with power_cut_volume(tmp_path) as volume:
        store = create_root(f"file://{volume.path}/deep/er")
        names = [f"a/{number % 3}/b/{number}" for number in range(20)]
        for name in names:
            store.create(name, [name.encode(), *CONTENT])
        volume.cut()
        store = open_store(f"file://{volume.path}/deep/er")
        assert [info.name for info in store.list("")] == sorted(names)
        assert all(store.read(name) == name.encode() + WHOLE for name in names)


@pytest.mark.root
@needs_root
@needs_strace
def test_killed_before_any_call_and_then_without_power_it_leaves_all_or_nothing(tmp_path: Path) -> None:
    with power_cut_volume(tmp_path) as volume:
        undisturbed = run_traced(CREATE, [str(fresh(volume.path))], tmp_path / "log")
        cut_and_check(volume, volume.path / "root", acknowledged=True, was_there=True)
        for number, kill in enumerate(kills(undisturbed.calls)):
            root = fresh(volume.path, f"root-{number}")
            run_traced(CREATE, [str(root)], tmp_path / "log", inject=kill)
            was_there = is_whole_or_absent(store_in(root))
            cut_and_check(volume, root, acknowledged=False, was_there=was_there)
            create_again(store_in(root))
            cut_and_check(volume, root, acknowledged=True, was_there=True)


def cut_and_check(volume: PowerCut, root: Path, *, acknowledged: bool, was_there: bool) -> None:
    volume.cut()
    is_there = root.exists() and is_whole_or_absent(store_in(root))
    assert is_there or not acknowledged
    assert was_there or not is_there
    root.mkdir(exist_ok=True)


# Owners


@pytest.mark.root
@needs_root
def test_what_root_makes_belongs_to_the_owner_of_the_root_directory(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    root = fresh(tmp_path)
    os.chown(root, nobody.pw_uid, nobody.pw_gid)
    store_in(root).create(NAME, CONTENT)
    made = [root / "clusters", root / "clusters/main", root / NAME]
    assert [(path.stat().st_uid, path.stat().st_gid) for path in made] == [(nobody.pw_uid, nobody.pw_gid)] * 3
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o750, 0o750, 0o640]


@pytest.mark.root
@needs_root
@needs_strace
def test_a_directory_root_was_killed_making_is_given_to_its_owner_by_the_next(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    root = fresh(tmp_path)
    os.chown(root, nobody.pw_uid, nobody.pw_gid)
    run_traced(CREATE, [str(root)], tmp_path / "log", inject="fchown:signal=SIGKILL")
    assert (root / "clusters").stat().st_uid == 0
    store_in(root).create(NAME, CONTENT)
    assert (root / "clusters").stat().st_uid == nobody.pw_uid
