"""Large objects in a directory, which pass by the page cache: the same promises as for small ones, at every call."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pghaven.errors import StoreFull
from pghaven.runtime.direct import PIECE_BYTES_MIN
from pghaven.store.api import Store
from pghaven.store.open import open_store
from tests.fault.tracing import Call, Traced, kills, needs_strace, run_traced
from tests.fault.volumes import memory_volume, needs_root, power_cut_volume

NAME = "object"
SIZE = (4 << 20) + 1001
TRACE = ("fcntl", "writev", "fchmod", "fsync", "linkat", "unlinkat")
CREATE = f"""
import sys
from pghaven.errors import PghavenError
from pghaven.store.open import open_store
store = open_store("file://" + sys.argv[1])
whole = bytes(range(251)) * ({SIZE} // 251 + 1)
try:
    store.create({NAME!r}, [whole[:16], whole[16:300_000], whole[300_000:{SIZE}]])
except PghavenError as error:
    print(type(error).__name__, error)
else:
    print("acknowledged")
"""
WHOLE = (bytes(range(251)) * (SIZE // 251 + 1))[:SIZE]


def create(tmp_path: Path, root: Path, inject: str | None = None) -> Traced:
    root.mkdir(exist_ok=True)
    return run_traced(CREATE, [str(root)], tmp_path / "log", inject=inject, trace=TRACE)


def store_in(root: Path) -> Store:
    return open_store(f"file://{root}")


def is_whole_or_absent(root: Path) -> bool:
    store = store_in(root)
    there = [info.name for info in store.list("")]
    assert there in ([], [NAME])
    if there:
        assert store.read(NAME) == WHOLE
    return bool(there)


def of_the_store(calls: tuple[Call, ...]) -> list[Call]:
    return [call for call in calls if call.name not in ("fcntl", "writev") or ".tmp-" in call.arguments]


def steps(calls: tuple[Call, ...]) -> list[str]:
    """Names, and for fcntl whether it asks for direct writes."""
    names = []
    for call in of_the_store(calls):
        if call.name != "fcntl":
            names.append(call.name)
        elif "F_SETFL" in call.arguments:
            names.append("direct" if "O_DIRECT" in call.arguments else "usual")
    return names


@pytest.fixture
def on_a_device(tmp_path: Path) -> None:
    if not os.major(tmp_path.stat().st_dev):
        pytest.skip("this file system lies on no device of its own")


@needs_strace
@pytest.mark.usefixtures("on_a_device")
def test_whole_blocks_are_written_directly_and_the_rest_before_the_flush(tmp_path: Path) -> None:
    traced = create(tmp_path, tmp_path / "root")
    assert traced.out == "acknowledged\n", traced.err
    end = ["fchmod", "fsync", "linkat", "unlinkat", "fsync"]
    assert steps(traced.calls) == ["direct", "writev", "writev", "usual", "writev", *end]
    assert is_whole_or_absent(tmp_path / "root")


@needs_strace
@pytest.mark.usefixtures("on_a_device")
def test_killed_before_any_call_it_leaves_all_or_nothing(tmp_path: Path) -> None:
    undisturbed = create(tmp_path, tmp_path / "root")
    outcomes = []
    for number, (call, kill) in enumerate(zip(undisturbed.calls, kills(undisturbed.calls), strict=True)):
        if call not in of_the_store(undisturbed.calls):
            continue
        root = tmp_path / f"root-{number}"
        assert create(tmp_path, root, kill).out == ""
        outcomes.append(is_whole_or_absent(root))
        if not outcomes[-1]:
            assert create(tmp_path, root).out == "acknowledged\n"
    assert outcomes[-3:] == [False, True, True]  # from the link on it is there, and before it there is nothing
    assert not any(outcomes[:-2])


@needs_strace
@pytest.mark.usefixtures("on_a_device")
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(("error", "kind"), [("ENOSPC", "StoreFull"), ("EIO", "StoreUnreachable")])
def test_a_write_that_fails_is_reported_and_leaves_nothing(tmp_path: Path, number: int, error: str, kind: str) -> None:
    traced = create(tmp_path, tmp_path / "root", f"writev:error={error}:when={number}")
    assert traced.out.startswith(f"{kind} could not create")
    assert list((tmp_path / "root").iterdir()) == []


@needs_strace
@pytest.mark.usefixtures("on_a_device")
@pytest.mark.parametrize("number", [1, 2])
def test_where_direct_writes_end_the_rest_is_written_as_usual(tmp_path: Path, number: int) -> None:
    traced = create(tmp_path, tmp_path / "root", f"writev:error=EINVAL:when={number}")
    assert traced.out == "acknowledged\n", traced.err
    assert steps(traced.calls)[: number + 2] == ["direct", *["writev"] * number, "usual"]
    assert is_whole_or_absent(tmp_path / "root")


@pytest.mark.root
@needs_root
def test_a_full_disk_is_said_and_leaves_the_room_it_had(tmp_path: Path) -> None:
    with power_cut_volume(tmp_path) as volume:
        store = store_in(volume.path)
        store.create("small", [b"x"])
        before = store.free_bytes()
        assert before is not None
        with pytest.raises(StoreFull, match="no space left"):
            store.create("large", [bytes(before + (4 << 20) + 7)])
        assert store.free_bytes() == before
        assert [info.name for info in store.list("")] == ["small"]
        store.create("large", [WHOLE])
        assert store.read("large") == WHOLE


@pytest.mark.root
@needs_root
def test_what_was_acknowledged_survives_a_power_cut_whole(tmp_path: Path) -> None:
    sizes = [PIECE_BYTES_MIN - 1, PIECE_BYTES_MIN, PIECE_BYTES_MIN + 1, 2 << 20, (2 << 20) + 4095, SIZE]
    with power_cut_volume(tmp_path) as volume:
        for size in sizes:
            store_in(volume.path).create(f"{size}", [WHOLE[:size]])
        volume.cut()
        for size in sizes:
            assert store_in(volume.path).read(f"{size}") == WHOLE[:size]


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("size", [PIECE_BYTES_MIN, SIZE])
def test_in_memory_there_is_no_direct_write_and_none_is_missed(tmp_path: Path, size: int) -> None:
    with memory_volume(tmp_path / "memory", "size=8m") as root:
        store_in(root).create(NAME, [WHOLE[:size]])
        assert store_in(root).read(NAME) == WHOLE[:size]
