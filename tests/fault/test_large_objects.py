"""Large objects go into an object store in parts: what fails is sent again, not the whole, and a name is taken once."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pghaven.errors import ObjectExists
from pghaven.store.inparts import LARGE_BYTES, takes_parts
from pghaven.store.metered import MeteredStore, find_leftover_keeper
from pghaven.store.objects import ObjectStore
from pghaven.store.open import create_root
from pghaven.store.settings import StoreSettings
from tests.support.fixtures import ObjectServerFactory
from tests.support.httpproxy import FaultyProxy, Kind, proxying
from tests.support.objectservers import ObjectServer
from tests.support.waiting import PATIENCE_SECONDS

MIB = 1 << 20
PARTS = 5
BODY = os.urandom(MIB) * ((LARGE_BYTES >> 20) + 3)


@pytest.fixture(params=["seaweedfs", "moto", "gcs"])
def server(object_server: ObjectServerFactory, request: pytest.FixtureRequest) -> ObjectServer:
    return object_server(request.param)


@pytest.fixture
def proxy(server: ObjectServer) -> Iterator[FaultyProxy]:
    with proxying(server.port) as made:
        yield made


@pytest.fixture
def store(server: ObjectServer, proxy: FaultyProxy) -> MeteredStore:
    patience = {"request_timeout_seconds": 20, "retry_timeout_seconds": 60}
    made = create_root(server.settings(endpoint=proxy.endpoint, multipart=True, **patience))
    proxy.calm()
    return MeteredStore(made)


def count_parts(proxy: FaultyProxy) -> int:
    """Requests that sent a part of the object; others are copies within the store, of which each is one part."""
    keys = [path.partition("?")[0] for method, path in proxy.asked if method == "PUT" and "partNumber=" in path]
    return max(Counter(key for key in keys if "parts" in key).values(), default=0)


def remove_leftovers(store: MeteredStore, age: timedelta) -> int:
    keeper = find_leftover_keeper(store)
    assert keeper is not None
    return keeper.remove_leftovers(datetime.now(UTC) - age)


def test_it_is_sent_in_parts_and_is_one_object(store: MeteredStore, proxy: FaultyProxy) -> None:
    before = store.requests
    store.create("a/b", [BODY])
    assert count_parts(proxy) == PARTS
    asked = [method for method, _ in proxy.asked]
    assert store.requests.put - before.put == asked.count("PUT") + asked.count("POST"), "each is billed"
    assert store.read("a/b") == BODY
    assert [(info.name, info.size_bytes) for info in store.list("")] == [("a/b", len(BODY))]
    assert remove_leftovers(store, -timedelta(hours=1)) == 0


def test_a_taken_name_stays_as_it_is_and_nothing_is_sent_for_it(store: MeteredStore, proxy: FaultyProxy) -> None:
    store.create("a/b", [b"first"])
    proxy.calm()
    with pytest.raises(ObjectExists):
        store.create("a/b", [BODY])
    assert [method for method, _ in proxy.asked] == ["GET"]
    assert store.read("a/b") == b"first"


@pytest.mark.parametrize("kind", ["reset", "refused", "lost", "failed-late"])
def test_of_what_fails_only_the_part_is_sent_again(store: MeteredStore, proxy: FaultyProxy, kind: Kind) -> None:
    proxy.strike(kind, 3, method="PUT", contains="partNumber=2")
    store.create("a/b", [BODY])
    assert proxy.unspent == 0
    assert count_parts(proxy) == PARTS + 3
    assert store.read("a/b") == BODY


@pytest.mark.parametrize("kind", ["lost", "failed-late", "reset"])
def test_a_lost_answer_to_the_last_request_is_no_failure(store: MeteredStore, proxy: FaultyProxy, kind: Kind) -> None:
    if store.url.startswith("gs://"):
        proxy.strike(kind, method="PUT", contains="a%2Fb")
    else:
        proxy.strike(kind, method="POST", contains="a/b?uploadId")
    store.create("a/b", [BODY])
    assert proxy.unspent == 0
    assert count_parts(proxy) == PARTS
    assert store.read("a/b") == BODY


@pytest.mark.parametrize("server", ["gcs"], indirect=True)
def test_of_those_that_send_at_once_one_wins_whole(store: MeteredStore) -> None:
    """All have found the name free, and each sends its parts before it asks for the name. Other stores here look first
    and then put together, and now and then let several through: with them parts are no default."""
    bodies = {letter: letter.encode() * len(BODY) for letter in "xyz"}
    won: list[str] = []
    start = threading.Barrier(len(bodies))

    def race(letter: str) -> None:
        start.wait()
        try:
            store.create("a/b", [bodies[letter]])
        except ObjectExists:
            return
        won.append(letter)

    racers = [threading.Thread(target=race, args=(letter,)) for letter in bodies]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(won) == 1
    assert store.read("a/b") == bodies[won[0]]
    assert remove_leftovers(store, -timedelta(hours=1)) == 0


def test_a_store_of_one_s_own_gets_it_in_one_request_unless_it_is_said_to_be_trusted(
    server: ObjectServer, proxy: FaultyProxy
) -> None:
    settings = server.settings(endpoint=proxy.endpoint)
    store = create_root(settings)
    proxy.calm()
    store.create("a/b", [BODY])
    assert [method for method, _ in proxy.asked] == ["PUT"]
    assert store.read("a/b") == BODY
    assert [takes_parts(replace(settings, multipart=said)) for said in (None, True, False)] == [False, True, False]


def test_s3_and_google_s_storage_themselves_get_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nowhere")
    assert takes_parts(StoreSettings(url="s3://bucket"))
    assert takes_parts(StoreSettings(url="gs://bucket"))
    assert not takes_parts(StoreSettings(url="az://container"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example.com")
    assert not takes_parts(StoreSettings(url="s3://bucket"))


def test_where_the_store_does_not_copy_it_is_one_request(store: MeteredStore, proxy: FaultyProxy) -> None:
    copies = {"method": "POST"} if store.url.startswith("s3://") else {"method": "PUT", "contains": "%2Eparts"}
    proxy.strike("refused", status=501, code="NotImplemented", **copies)
    store.create("a/b", [BODY])
    assert proxy.unspent == 0
    assert count_parts(proxy) == 0
    with pytest.raises(ObjectExists):
        store.create("a/b", [b"other"])
    assert store.read("a/b") == BODY


def test_with_a_single_writer_it_comes_together_under_its_own_name(server: ObjectServer, proxy: FaultyProxy) -> None:
    store = create_root(server.settings(endpoint=proxy.endpoint, single_writer=True, multipart=True))
    proxy.strike("reset", method="PUT", contains="partNumber=2")
    store.create("a/b", [BODY])
    sent = [path for method, path in proxy.asked if method == "PUT"]
    assert len(sent) == PARTS + 1
    assert all(re.search(r"a(/|%2F)b\?", path) for path in sent)
    assert store.read("a/b") == BODY
    with pytest.raises(ObjectExists):
        store.create("a/b", [BODY])


def test_what_could_not_be_removed_is_not_listed_and_goes_by_its_age(store: MeteredStore, proxy: FaultyProxy) -> None:
    proxy.strike("refused", 10, method="DELETE", status=403, code="AccessDenied")
    store.create("a/b", [BODY])
    proxy.calm()
    assert [info.name for info in store.list("")] == ["a/b"]
    assert store.list_children("") == ("a/",)
    assert remove_leftovers(store, timedelta(hours=1)) == 0
    assert remove_leftovers(store, -timedelta(hours=1)) >= len(BODY)
    assert remove_leftovers(store, -timedelta(hours=1)) == 0
    assert store.read("a/b") == BODY


def test_an_interrupt_comes_through_at_once(store: MeteredStore, proxy: FaultyProxy) -> None:
    proxy.strike("hanging", 2 * PARTS, method="PUT", contains="partNumber=")

    def interrupt() -> None:
        assert proxy.is_hanging.wait(PATIENCE_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        store.create("a/b", [BODY])
    interrupter.join()
    proxy.ends.set()
    assert isinstance(store.inner, ObjectStore)
    assert store.inner.find("a/b") is None
