"""What was asked of a store is counted, over all processes, and slowed where there is a pace."""

from __future__ import annotations

from pathlib import Path

from pghaven.clock import ManualClock
from pghaven.runtime.crew import Crew
from pghaven.runtime.pace import Pace
from pghaven.store.memory import MemoryStore
from pghaven.store.metered import LISTED_TOGETHER, MeteredStore, Meters, Requests, find_leftover_keeper
from pghaven.store.open import open_store
from tests.unit.runtime import crew_jobs


def test_each_kind_of_request_is_counted_with_its_bytes() -> None:
    store = MeteredStore(MemoryStore())
    store.create("a/b", [b"123", memoryview(b"45")])
    store.read("a/b")
    store.read_range("a/b", 1, 2)
    store.find("a/b")
    store.confirm("a/b")
    list(store.list("a/"))
    store.list_children("a/")
    store.delete("a/b")
    assert store.requests == Requests(put=1, get=2, head=2, list=2, delete=1, sent_bytes=5, received_bytes=7)
    assert store.requests.total == 8


def test_a_long_listing_is_several_requests() -> None:
    store = MeteredStore(MemoryStore())
    for number in range(LISTED_TOGETHER + 1):
        store.create(f"a/{number}", [b""])
    before = store.requests.list
    assert len(list(store.list("a/"))) == LISTED_TOGETHER + 1
    assert store.requests.list - before == 2
    store.list_children("a/")
    assert store.requests.list - before == 4


def test_what_workers_ask_is_counted_here(tmp_path: Path) -> None:
    store = MeteredStore(open_store(f"file://{tmp_path}"))
    store.create("before", [b"x"])
    with Crew(size=2, setup=crew_jobs.Write, settings=store) as crew:
        crew.run(iter([f"a/{number}" for number in range(20)]), lambda _: None)
    assert store.requests == Requests(put=21, sent_bytes=1 + 20 * 3)
    assert len(list(store.list("a/"))) == 20


def test_bytes_of_objects_keep_to_the_pace_both_ways() -> None:
    clock = ManualClock()
    store = MeteredStore(MemoryStore())
    store.create("a", [bytes(100)])
    store.pace = Pace(10, clock)
    store.read("a")
    store.read_range("a", 0, 50)
    store.create("b", [b""])
    assert store.pace.passed_bytes == 150
    assert 9 <= clock.monotonic() <= 11, "the second waits until the first is paid; the third has nothing to pay"


def test_what_no_listing_shows_is_found_behind_it(tmp_path: Path) -> None:
    directory = open_store(f"file://{tmp_path}")
    assert find_leftover_keeper(MeteredStore(directory)) is directory
    assert find_leftover_keeper(MeteredStore(MemoryStore())) is None


def test_a_process_knows_its_stores() -> None:
    meters = Meters()
    first, second = meters.meter(MemoryStore()), meters.meter(MemoryStore())
    assert meters.stores == (first, second)
