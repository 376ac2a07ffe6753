"""What ``pghaven.store.api.Store`` promises, held against every implementation."""

from __future__ import annotations

import array
import base64
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Damaged, ObjectExists, ObjectMissing, Refused
from pghaven.store.api import Buffers, Store
from pghaven.store.memory import MemoryStore
from pghaven.store.metered import MeteredStore
from pghaven.store.objects import ObjectStore
from pghaven.store.open import create_root, open_store
from pghaven.store.recording import RecordingStore
from tests.support.fixtures import ObjectServerFactory
from tests.support.sftpserver import SftpServer
from tests.support.waiting import PATIENCE_SECONDS

PROJECT = Path(__file__).resolve().parents[2]


SERVERS = ["seaweedfs", "moto", "azurite", "gcs"]


@pytest.fixture(params=["posix", "memory", "recording", "metered", "sftp", *SERVERS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with making_store(request, tmp_path) as made:
        yield made


@pytest.fixture(params=["posix", "sftp", *SERVERS])
def shared_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Of those that processes can share."""
    with making_store(request, tmp_path) as made:
        yield made


@contextmanager
def making_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "posix":
        yield open_store(f"file://{tmp_path}")
    elif request.param == "metered":
        yield MeteredStore(open_store(f"file://{tmp_path}"))
    elif request.param == "sftp":
        server: SftpServer = request.getfixturevalue("sftp_server")
        store = server.open_store(server.make_directory())
        yield store
        store.close()
    elif request.param in SERVERS:
        object_server: ObjectServerFactory = request.getfixturevalue("object_server")
        yield create_root(object_server(request.param).settings())
    else:
        yield MemoryStore() if request.param == "memory" else RecordingStore(MemoryStore())


def names(store: Store, prefix: str = "") -> list[str]:
    return [info.name for info in store.list(prefix)]


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run ``work(0..count-1)`` at the same moment; the first failure is raised here."""
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# Content


@pytest.mark.parametrize(
    "content",
    [
        [],
        [b""],
        [b"", b"x", b""],
        [b"one", bytearray(b"two"), memoryview(b"three")],
        [memoryview(array.array("I", range(1000)))],
        [bytes([number % 251]) * (number % 37) for number in range(5000)],
        [bytes(1 << 20), b"odd", bytes((1 << 20) - 1), bytes(8191)] * 3,
        [bytes([number]) * (3 << 20) for number in range(13)],
    ],
    ids=["none", "empty", "empty-around", "kinds", "not-bytes-view", "more-than-iov-max", "large-and-odd", "39-MiB"],
)
def test_an_object_is_the_buffers_in_their_order(store: Store, content: Buffers) -> None:
    expected = b"".join(content)
    store.create("some/where/object", content)
    assert store.read("some/where/object") == expected
    found = store.find("some/where/object")
    assert found is not None
    assert (found.name, found.size_bytes) == ("some/where/object", len(expected))


def test_objects_at_the_top_have_no_prefix(store: Store) -> None:
    store.create("pghaven.json", [b"{}"])
    assert store.read("pghaven.json") == b"{}"
    assert names(store) == ["pghaven.json"]


def test_what_was_created_does_not_follow_its_buffer(store: Store) -> None:
    buffer = bytearray(b"before")
    store.create("a", [memoryview(buffer)])
    buffer[:] = b"after!"
    assert store.read("a") == b"before"


def test_ranges_are_exact_or_damaged(store: Store) -> None:
    store.create("a/b", [b"0123456789"])
    assert store.read_range("a/b", 0, 10) == b"0123456789"
    assert store.read_range("a/b", 3, 4) == b"3456"
    assert store.read_range("a/b", 9, 1) == b"9"
    assert store.read_range("a/b", 4, 0) == b""
    for offset, length in [(0, 11), (9, 2), (10, 1), (1000, 1)]:
        with pytest.raises(Damaged, match="a/b"):
            store.read_range("a/b", offset, length)


def test_modified_is_a_recent_moment_in_utc(store: Store) -> None:
    store.create("a", [b"x"])
    found = store.find("a")
    assert found is not None
    assert found.modified.tzinfo is UTC
    assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=1)


def test_free_bytes_is_a_figure_or_nothing(store: Store) -> None:
    free = store.free_bytes()
    assert free is None or free > 0


# Names


@pytest.mark.parametrize(
    "name",
    [
        *["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/.hidden", ".tmp-1"],
        *["a b", "ä", "a\n", "a\0b", "a\\b", "a:b", "a*", "x" * 201, "/".join(["x" * 190] * 5)],
    ],
)
def test_names_that_are_no_names_are_refused_by_every_call(store: Store, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.create(name, [b""]),
        lambda: store.read(name),
        lambda: store.read_range(name, 0, 0),
        lambda: store.find(name),
        lambda: store.confirm(name),
        lambda: store.delete(name),
    ]
    for call in calls:
        with pytest.raises(Refused, match="cannot name an object"):
            call()
    assert names(store) == []


@pytest.mark.parametrize("prefix", ["a", "/", "a//", "../", "a/../", ".a/", "ä/"])
def test_prefixes_that_are_no_prefixes_are_refused(store: Store, prefix: str) -> None:
    with pytest.raises(Refused):
        store.list(prefix)
    with pytest.raises(Refused):
        store.list_children(prefix)


@pytest.mark.parametrize("name", ["a", "A-Z_0.9", "x" * 200, "-a/_b/0.c", "/".join(["x" * 98] * 9), "a...b"])
def test_names_up_to_the_limits_are_taken(store: Store, name: str) -> None:
    store.create(name, [b"x"])
    assert names(store) == [name]


def test_names_differing_in_case_are_different(store: Store) -> None:
    store.create("a/X", [b"upper"])
    store.create("a/x", [b"lower"])
    assert (store.read("a/X"), store.read("a/x")) == (b"upper", b"lower")


def test_a_name_is_an_object_or_a_prefix_never_both(store: Store) -> None:
    if isinstance(store, ObjectStore):
        pytest.skip("an object store need not notice")
    store.create("a/b", [b"object"])
    with pytest.raises(Refused) as refused:
        store.create("a/b/c", [b"below it"])
    assert not isinstance(refused.value, ObjectExists)
    with pytest.raises(Refused) as refused:
        store.create("a", [b"above it"])
    assert not isinstance(refused.value, ObjectExists)
    assert names(store) == ["a/b"]
    for absent in ("a", "a/b/c"):
        assert store.find(absent) is None
        with pytest.raises(ObjectMissing):
            store.read(absent)
        store.delete(absent)
    assert names(store, "a/b/") == []
    assert store.read("a/b") == b"object"


# Put-if-absent


def test_a_name_is_taken_once_and_its_object_stays(store: Store) -> None:
    store.create("a/b", [b"first"])
    for content in (b"second", b"first"):
        with pytest.raises(ObjectExists, match="a/b"):
            store.create("a/b", [content])
    assert store.read("a/b") == b"first"


def test_of_racing_threads_exactly_one_wins(store: Store) -> None:
    won: list[tuple[int, int]] = []

    def race(identity: int) -> None:
        for number in range(40):
            try:
                store.create(f"race/{number % 3}/{number}", [f"{identity}".encode()] * 50)
            except ObjectExists:
                continue
            won.append((number, identity))

    in_threads(6, race)
    assert Counter(number for number, _ in won) == Counter(range(40))
    for number, identity in won:
        assert store.read(f"race/{number % 3}/{number}") == f"{identity}".encode() * 50


def test_of_racing_processes_exactly_one_wins(shared_store: Store) -> None:
    count = 60
    pickled = base64.b64encode(pickle.dumps(shared_store)).decode()
    command = [sys.executable, "-m", "tests.contract.racers", pickled, str(count)]
    racers = [
        subprocess.Popen([*command, str(i)], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = {i: racer.communicate(timeout=PATIENCE_SECONDS)[0].split() for i, racer in enumerate(racers)}
    assert [racer.returncode for racer in racers] == [0] * 4
    assert Counter(int(number) for numbers in won.values() for number in numbers) == Counter(range(count))
    for identity, numbers in won.items():
        for number in numbers:
            assert shared_store.read(f"race/{int(number) % 7}/{number}") == f"{identity} wrote this".encode()
    assert len(names(shared_store)) == count


def test_creating_and_deleting_in_one_prefix_do_not_disturb_each_other(store: Store) -> None:
    """A prefix vanishes with its last object, at any moment of another's create."""

    def churn(identity: int) -> None:
        for number in range(60):
            name = f"shared/deep/{identity}-{number}"
            store.create(name, [b"x"])
            assert store.read(name) == b"x"
            store.delete(name)

    in_threads(4, churn)
    assert names(store) == []


# Absence


def test_absent_is_proven_and_said(store: Store) -> None:
    store.create("a/there", [b"x"])
    for name in ("nowhere", "a/nowhere", "b/c/nowhere"):
        assert store.find(name) is None
        for call in (store.read, store.confirm, lambda name: store.read_range(name, 0, 1)):
            with pytest.raises(ObjectMissing, match=name):
                call(name)


def test_deleting_makes_absent_and_may_be_repeated(store: Store) -> None:
    store.create("a/b/c", [b"x"])
    store.create("a/d", [b"y"])
    store.delete("a/b/c")
    store.delete("a/b/c")
    store.delete("never/was")
    assert store.find("a/b/c") is None
    assert names(store) == ["a/d"]
    assert set(store.list_children("a/")) - {"b/"} == {"d"}  # SeaweedFS removes what became empty only after a while
    store.create("a/b/c", [b"again"])
    assert store.read("a/b/c") == b"again"


def test_confirm_returns_for_what_is_there(store: Store) -> None:
    store.create("a/b", [b"x"])
    store.confirm("a/b")
    assert store.read("a/b") == b"x"


# Listing

TREE = ["a", "b-c/1", "b.c", "b.d/2", "b/c/d/e", "b/c/f", "b/x", "b0", "b_", "c/1", "c/10", "c/2"]


def test_listings_are_complete_and_sorted_by_whole_names(store: Store) -> None:
    for name in reversed(TREE):
        store.create(name, [name.encode()])
    assert sorted(TREE) == TREE
    assert names(store) == TREE
    assert [info.size_bytes for info in store.list("")] == [len(name) for name in TREE]
    assert names(store, "b/") == ["b/c/d/e", "b/c/f", "b/x"]
    assert names(store, "b/c/d/") == ["b/c/d/e"]
    assert names(store, "a/") == []
    assert names(store, "nowhere/") == []


def test_children_are_one_level_relative_and_sorted(store: Store) -> None:
    for name in TREE:
        store.create(name, [b""])
    assert store.list_children("") == ("a", "b-c/", "b.c", "b.d/", "b/", "b0", "b_", "c/")
    assert store.list_children("b/") == ("c/", "x")
    assert store.list_children("c/") == ("1", "10", "2")
    assert store.list_children("a/") == ()
    assert store.list_children("nowhere/") == ()


def test_more_than_a_thousand_objects_are_all_listed(store: Store) -> None:
    expected = sorted(f"packs/{number % 16:02x}/{number}" for number in range(1300))

    def create_share(worker: int) -> None:
        for name in expected[worker::4]:
            store.create(name, [b"x"])

    in_threads(4, create_share)
    assert names(store, "packs/") == expected
    assert len(store.list_children("packs/")) == 16


def test_a_listing_goes_on_when_objects_vanish_and_appear(store: Store) -> None:
    kept = [f"a/{letter}/kept" for letter in "bdfh"]
    for name in [*kept, "a/b/gone", "a/c/gone", "a/d/gone", "a/g/x/gone"]:
        store.create(name, [b"x"])
    listing = store.list("a/")
    seen = [next(listing).name]
    for name in ("a/b/gone", "a/c/gone", "a/d/gone", "a/g/x/gone"):
        store.delete(name)
    store.create("a/e/new", [b"x"])
    seen += [info.name for info in listing]
    assert [name for name in seen if name in kept] == kept
    assert set(seen) - set(kept) <= {"a/b/gone", "a/c/gone", "a/d/gone", "a/g/x/gone", "a/e/new"}
    assert seen == sorted(seen)


def test_listings_under_constant_change_show_all_that_stays(store: Store) -> None:
    kept = [f"a/{number}/kept" for number in range(10)]
    for name in kept:
        store.create(name, [b"x"])
    done = threading.Event()

    def work(worker: int) -> None:
        if worker == 0:
            try:
                for _ in range(30):
                    assert [name for name in names(store, "a/") if name.endswith("kept")] == sorted(kept)
            finally:
                done.set()
        while not done.is_set():
            store.create(f"a/{worker}/passing/by", [b"x"])
            store.delete(f"a/{worker}/passing/by")

    in_threads(3, work)


# What only some of them can do


def test_a_store_of_processes_is_picklable_and_others_say_no(store: Store) -> None:
    store.create("a", [b"x"])
    if isinstance(store, MemoryStore | RecordingStore):
        with pytest.raises(TypeError):
            pickle.dumps(store)
    else:
        assert pickle.loads(pickle.dumps(store)).read("a") == b"x"


def test_a_memory_store_takes_its_time_from_its_clock() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    store.create("a", [b""])
    clock.advance(60)
    store.create("b", [b""])
    assert [info.modified for info in store.list("")] == [clock.now() - timedelta(seconds=60), clock.now()]


def test_a_recording_replays_every_prefix_of_what_took_effect() -> None:
    store = RecordingStore(MemoryStore())
    store.create("a/1", [b"one", b"!"])
    with pytest.raises(ObjectExists):
        store.create("a/1", [b"two"])
    store.delete("nowhere")
    store.create("a/2", [b"two"])
    store.delete("a/1")
    assert [(m.operation, m.name, m.content) for m in store.mutations] == [
        ("create", "a/1", b"one!"),
        ("create", "a/2", b"two"),
        ("delete", "a/1", b""),
    ]
    assert [names(store.replay(count)) for count in range(4)] == [[], ["a/1"], ["a/1", "a/2"], ["a/2"]]
    assert names(store) == ["a/2"]
