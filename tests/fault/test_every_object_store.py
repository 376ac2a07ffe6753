"""The same faults before each object store: what networks and stores do to requests, and what is made of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator

import pytest

from pghaven.errors import NotPermitted, ObjectExists, StoreUnreachable
from pghaven.store.metered import MeteredStore
from pghaven.store.open import create_root, open_store
from pghaven.store.settings import StoreSettings
from tests.support.fixtures import ObjectServerFactory
from tests.support.httpproxy import FaultyProxy, Kind, proxying
from tests.support.objectservers import ObjectServer

BODY = bytes(range(256)) * 64


@pytest.fixture(scope="module", params=["seaweedfs", "moto", "azurite", "gcs"])
def server(request: pytest.FixtureRequest, object_server: ObjectServerFactory) -> ObjectServer:
    return object_server(request.param)


@pytest.fixture
def proxy(server: ObjectServer) -> Iterator[FaultyProxy]:
    with proxying(server.port) as made:
        yield made


@pytest.fixture
def settings(server: ObjectServer, proxy: FaultyProxy) -> StoreSettings:
    path = server.endpoint.partition("://")[2].partition("/")[2]
    endpoint = f"{proxy.endpoint}/{path}".rstrip("/")
    return server.settings(endpoint=endpoint, request_timeout_seconds=20, retry_timeout_seconds=60)


@pytest.fixture
def store(settings: StoreSettings, proxy: FaultyProxy) -> MeteredStore:
    made = MeteredStore(create_root(settings))
    proxy.calm()
    return made


@pytest.mark.parametrize("kind", ["lost", "failed-late"])
def test_a_create_whose_answer_was_lost_knows_its_own_and_no_other(
    store: MeteredStore, proxy: FaultyProxy, kind: Kind
) -> None:
    proxy.strike(kind, method="PUT")
    store.create("a/own", [BODY])
    assert [method for method, _ in proxy.asked] == ["PUT", "PUT", "GET"]
    store.create("a/taken", [b"another's"])
    proxy.strike(kind, method="PUT")
    with pytest.raises(ObjectExists):
        store.create("a/taken", [BODY])
    assert (store.read("a/own"), store.read("a/taken")) == (BODY, b"another's")


@pytest.mark.parametrize(("status", "code"), [(429, ""), (503, "SlowDown"), (503, "ServerBusy"), (500, "")])
def test_a_store_that_asks_for_patience_is_asked_again(
    store: MeteredStore, proxy: FaultyProxy, status: int, code: str
) -> None:
    for method in ("PUT", "GET", "GET", "DELETE"):
        proxy.strike("refused", status=status, code=code, method=method)
    store.create("a/b", [BODY])
    assert store.read("a/b") == BODY
    assert [info.size_bytes for info in store.list("a/")] == [len(BODY)]
    proxy.strike("reset", method="DELETE")
    try:
        store.delete("a/b")
    finally:
        proxy.calm()
    assert store.find("a/b") is None


@pytest.mark.parametrize("kind", ["truncated", "reset", "lost"])
def test_what_does_not_come_whole_is_read_again(store: MeteredStore, proxy: FaultyProxy, kind: Kind) -> None:
    store.create("a/b", [BODY])
    reads: list[Callable[[], bool]] = [
        lambda: store.read("a/b") == BODY,
        lambda: store.read_range("a/b", 100, 50) == BODY[100:150],
        lambda: [info.size_bytes for info in store.list("a/")] == [len(BODY)],
    ]
    for read in reads:
        proxy.strike(kind, method="GET")
        assert read()
        assert proxy.unspent == 0


def test_an_error_in_the_colours_of_success_is_no_answer(store: MeteredStore, proxy: FaultyProxy) -> None:
    store.create("a/b", [BODY])
    proxy.strike("refused", status=200, code="InternalError", method="GET")
    assert store.read("a/b") == BODY
    proxy.strike("refused", status=200, code="InternalError", method="GET")
    assert [info.name for info in store.list("a/")] == ["a/b"]


@pytest.mark.parametrize("code", ["ExpiredToken", "AccessDenied", "AuthenticationFailed"])
def test_keys_that_expired_or_do_not_allow_it_are_told(store: MeteredStore, proxy: FaultyProxy, code: str) -> None:
    store.create("a/b", [BODY])
    calls: list[Callable[[], object]] = [
        lambda: store.read("a/b"),
        lambda: store.find("a/b"),
        lambda: list(store.list("a/")),
        lambda: store.create("a/c", [BODY]),
    ]
    for call in calls:
        proxy.strike("refused", 5, status=403, code=code)
        with pytest.raises(NotPermitted, match=code) as raised:
            call()
        assert "object-stores.md" in str(raised.value.hint)
        proxy.calm()


def test_a_bucket_that_is_not_there_is_no_absence(server: ObjectServer) -> None:
    store = open_store(server.settings(bucket="nowhere"))
    for call in (lambda: store.read("a"), lambda: list(store.list("")), lambda: store.create("a", [b"x"])):
        with pytest.raises(StoreUnreachable, match=r'there is no (bucket|container) "nowhere"'):
            call()


def test_every_request_is_counted_since_each_is_billed(store: MeteredStore, proxy: FaultyProxy) -> None:
    """As the proxy saw them: made again, read in parts, and by a copy in another process."""
    proxy.calm()
    before = store.requests
    proxy.strike("lost", method="PUT")
    store.create("a/b", [BODY])
    copy = pickle.loads(pickle.dumps(store))
    proxy.strike("refused", 2, method="GET")
    assert copy.read("a/b") == BODY
    store.create("a/long", [bytes(20 << 20)])
    assert len(store.read("a/long")) == 20 << 20
    made = [method for method, _ in proxy.asked]
    assert store.requests.put - before.put == made.count("PUT") == 3
    assert store.requests.get - before.get == made.count("GET") == 1 + 3 + 2
