"""What networks and object stores do to requests, and what a store makes of it."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import obstore
import pytest

from pghaven.errors import (
    NotPermitted,
    ObjectExists,
    ObjectMissing,
    PghavenError,
    Refused,
    StoreUnreachable,
    UsageError,
)
from pghaven.store.api import Store
from pghaven.store.clients import Clients
from pghaven.store.open import create_root, open_store
from pghaven.store.probe import Probe, probe_store, require_promises
from tests.support.fixtures import ObjectServerFactory
from tests.support.httpproxy import FaultyProxy, Kind, make_certificates, proxying
from tests.support.objectservers import SECRET_KEY, ObjectServer, write_keys
from tests.support.waiting import PATIENCE_SECONDS

BODY = bytes(range(256)) * 64


@pytest.fixture(scope="module")
def server(object_server: ObjectServerFactory) -> ObjectServer:
    return object_server("seaweedfs")


@pytest.fixture
def proxy(server: ObjectServer) -> Iterator[FaultyProxy]:
    with proxying(server.port) as made:
        yield made


@pytest.fixture
def store(server: ObjectServer, proxy: FaultyProxy) -> Store:
    """Patient: what passes is waited for. It has been heard before."""
    made = create_root(server.settings(endpoint=proxy.endpoint, request_timeout_seconds=20, retry_timeout_seconds=60))
    proxy.calm()
    return made


def make_impatient(server: ObjectServer, proxy: FaultyProxy, **others: object) -> Store:
    """Of a place that has one object, "a/b"; it gives up after a second."""
    settings = server.settings(endpoint=proxy.endpoint, retry_timeout_seconds=1, **others)
    made = open_store(settings)
    made.create("a/b", [BODY])
    return made


READS: list[Callable[[Store], object]] = [
    lambda store: store.read("a/b") == BODY,
    lambda store: store.read_range("a/b", 100, 50) == BODY[100:150],
    lambda store: [info.size_bytes for info in store.list("a/")] == [len(BODY)],
    lambda store: store.list_children("a/") == ("b",),
    lambda store: store.find("a/b") is not None,
]


# A request that is made again


@pytest.mark.parametrize("kind", ["lost", "failed-late"])
def test_a_create_knows_its_own_write_when_the_answer_was_lost(store: Store, proxy: FaultyProxy, kind: Kind) -> None:
    proxy.strike(kind, method="PUT")
    store.create("a/b", [BODY])
    assert [method for method, _ in proxy.asked] == ["PUT", "PUT", "GET"]
    assert store.read("a/b") == BODY


@pytest.mark.parametrize("kind", ["lost", "failed-late", "refused", "reset"])
def test_a_create_does_not_take_what_another_wrote_for_its_own(store: Store, proxy: FaultyProxy, kind: Kind) -> None:
    store.create("a/b", [b"another's"])
    proxy.strike(kind, method="PUT")
    with pytest.raises(ObjectExists):
        store.create("a/b", [BODY])
    assert store.read("a/b") == b"another's"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, ""),
        (503, "SlowDown"),
        (500, "InternalError"),
        (400, "RequestTimeout"),
        (409, "ConditionalRequestConflict"),
    ],
)
def test_a_store_that_asks_for_patience_is_asked_again(
    store: Store, proxy: FaultyProxy, status: int, code: str
) -> None:
    proxy.strike("refused", 2, status=status, code=code)
    store.create("a/b", [BODY])
    assert len(proxy.asked) == 3
    proxy.strike("refused", 2, status=status, code=code)
    assert store.read("a/b") == BODY


@pytest.mark.parametrize("kind", ["reset", "truncated", "lost", "failed-late"])
@pytest.mark.parametrize("read", READS, ids=["read", "range", "list", "children", "find"])
def test_a_read_whose_answer_does_not_come_whole_is_made_again(
    store: Store, proxy: FaultyProxy, read: Callable[[Store], object], kind: Kind
) -> None:
    store.create("a/b", [BODY])
    proxy.strike(kind, method="GET")
    assert read(store)
    assert proxy.unspent == 0


@pytest.mark.parametrize("read", READS, ids=["read", "range", "list", "children", "find"])
def test_an_error_in_the_colours_of_success_is_no_answer(
    store: Store, proxy: FaultyProxy, read: Callable[[Store], object]
) -> None:
    store.create("a/b", [BODY])
    proxy.strike("refused", method="GET", status=200, code="InternalError")
    assert read(store)


def test_a_listing_that_ends_where_a_page_does_is_made_again(
    server: ObjectServer, store: Store, proxy: FaultyProxy
) -> None:
    def put_foreign_object() -> None:
        """With a name that none of ours has, and which sorts before them; the page is full with it all the same."""
        settings = server.settings(url=store.url)
        place, prefix = settings.url.split("/", 3)[2:]
        obstore.put(Clients(settings, place).get(0), f"{prefix}/a/!", b"x")

    def create_share(worker: int) -> None:
        for number in range(worker, 1010, 4):
            store.create(f"a/{number}", [b"x"])

    workers = [threading.Thread(target=create_share, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    put_foreign_object()
    proxy.strike("refused", contains="continuation-token", status=200, code="InternalError")
    assert len(list(store.list("a/"))) == 1010
    assert proxy.unspent == 0


def test_a_create_that_was_answered_with_an_error_in_the_colours_of_success_is_made(
    store: Store, proxy: FaultyProxy
) -> None:
    proxy.strike("refused", method="PUT", status=200, code="InternalError")
    store.create("a/b", [BODY])
    assert store.read("a/b") == BODY


def test_a_request_that_hangs_is_made_again_when_its_time_is_up(server: ObjectServer, proxy: FaultyProxy) -> None:
    store = create_root(server.settings(endpoint=proxy.endpoint, request_timeout_seconds=0.5))
    store.create("a/b", [BODY])
    proxy.strike("hanging", method="GET")
    assert store.read("a/b") == BODY
    proxy.strike("hanging", method="PUT")
    store.create("a/c", [BODY])


def test_deleting_twice_for_a_lost_answer_is_fine(store: Store, proxy: FaultyProxy) -> None:
    store.create("a/b", [BODY])
    proxy.strike("lost", method="DELETE")
    store.delete("a/b")
    assert store.find("a/b") is None


# What is told when patience ends


def test_a_store_that_goes_on_failing_is_unreachable_in_its_own_words(server: ObjectServer, proxy: FaultyProxy) -> None:
    store = make_impatient(server, proxy)
    proxy.strike("refused", 1000)
    for call in (lambda: store.read("a/b"), lambda: store.find("x"), lambda: list(store.list(""))):
        with pytest.raises(StoreUnreachable, match="503 Service Unavailable"):
            call()


def test_answers_that_never_end_are_no_damage(server: ObjectServer, proxy: FaultyProxy) -> None:
    store = make_impatient(server, proxy)
    proxy.strike("truncated", 1000)
    with pytest.raises(StoreUnreachable):
        store.read("a/b")


@pytest.mark.parametrize("code", ["", "NotFound", "NoSuchUpload"])
def test_a_status_alone_proves_no_absence(server: ObjectServer, proxy: FaultyProxy, code: str) -> None:
    store = make_impatient(server, proxy)
    for call in (store.find, store.read, store.confirm, lambda name: store.read_range(name, 0, 1)):
        proxy.strike("refused", status=404, code=code)
        with pytest.raises(StoreUnreachable, match="404"):
            call("a/b")
    assert store.find("nowhere") is None


def test_a_server_that_is_gone_is_told_soon(server: ObjectServer) -> None:
    with proxying(server.port) as proxy:
        settings = server.settings(endpoint=proxy.endpoint, retry_timeout_seconds=0.5)
    with pytest.raises(StoreUnreachable, match="Connection refused"):
        create_root(settings)


# Promises


@pytest.mark.parametrize("name", ["seaweedfs", "moto", "gcs"])
def test_a_store_that_keeps_its_promises_passes_the_probe_again_and_again(
    object_server: ObjectServerFactory, name: str
) -> None:
    store = open_store(object_server(name).settings())
    for _ in range(3):
        require_promises(store, "probe")
    assert [info.name for info in store.list("")] == ["probe"]


def test_a_store_that_gives_a_taken_name_again_is_found_and_can_have_one_writer(
    object_server: ObjectServerFactory,
) -> None:
    moto = object_server("moto")
    with proxying(moto.port) as proxy:
        proxy.ignores_conditions = True
        settings = moto.settings(endpoint=proxy.endpoint)
        store = open_store(settings)
        for _ in range(2):
            probe = probe_store(store, "probe")
            assert probe == Probe(refuses_second=False, reads_written=True, lists_written=True)
        with pytest.raises(Refused, match="lets a second writer replace") as raised:
            require_promises(store, "probe")
        assert "single_writer = true" in str(raised.value.hint)

        alone = open_store(replace(settings, single_writer=True))
        require_promises(alone, "probe")
        alone.create("a", [b"first"])
        with pytest.raises(ObjectExists):
            alone.create("a", [b"second"])
        assert pickle.loads(pickle.dumps(alone)).read("a") == b"first"
        proxy.strike("lost", method="PUT")
        alone.create("b", [b"answer lost"])
        assert alone.read("b") == b"answer lost"


def test_a_store_that_does_not_know_conditions_fails_the_probe(store: Store, proxy: FaultyProxy) -> None:
    proxy.strike("refused", method="PUT", status=501, code="NotImplemented")
    probe = probe_store(store, "probe")
    assert probe is not None
    assert not probe.refuses_second
    proxy.strike("refused", method="PUT", status=501, code="NotImplemented")
    with pytest.raises(Refused, match="501") as raised:
        store.create("a", [b"x"])
    assert "single_writer" in str(raised.value.hint)


def test_a_directory_needs_no_probe(tmp_path: Path) -> None:
    assert probe_store(open_store(tmp_path.as_uri()), "probe") is None
    assert list(tmp_path.iterdir()) == []


# Keys and permissions


def test_keys_that_expired_are_read_again(server: ObjectServer, proxy: FaultyProxy, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    write_keys(keys, "AKOLD", "old-secret")
    settings = server.settings(endpoint=proxy.endpoint, credentials_file=str(keys))
    store = open_store(settings)
    with pytest.raises(NotPermitted, match="InvalidAccessKeyId"):
        store.find("a")
    keys.write_bytes(Path(server.credentials_file).read_bytes())
    store.create("a", [b"x"])
    proxy.strike("refused", status=400, code="ExpiredToken")
    with pytest.raises(NotPermitted, match="ExpiredToken") as raised:
        store.find("a")
    assert "object-stores.md" in str(raised.value.hint)
    assert store.read("a") == b"x"


def test_what_keys_do_not_allow_is_told(server: ObjectServer) -> None:
    owner = open_store(settings := server.settings())
    owner.create("a", [b"x"])
    reader = open_store(server.settings(url=settings.url, credentials_file=server.reader_file))
    assert reader.read("a") == b"x"
    for call in (lambda: reader.create("b", [b"y"]), lambda: reader.delete("a")):
        with pytest.raises(NotPermitted, match="AccessDenied"):
            call()


def test_a_bucket_that_is_not_there_is_no_empty_one(object_server: ObjectServerFactory) -> None:
    for name in ("seaweedfs", "moto", "gcs"):
        settings = object_server(name).settings(bucket="nowhere")
        store = open_store(settings)
        calls: list[Callable[[], object]] = [
            *[lambda: store.find("a"), lambda: store.read("a"), lambda: list(store.list(""))],  # noqa: B023
            *[lambda: create_root(settings), lambda: store.create("a", [b"x"])],  # noqa: B023
        ]
        for call in calls:
            with pytest.raises(StoreUnreachable, match='there is no bucket "nowhere"') as raised:
                call()
            assert "own tools" in str(raised.value.hint)


def test_no_secret_is_ever_shown(server: ObjectServer, proxy: FaultyProxy, tmp_path: Path) -> None:
    token = "a-session-token-nobody-may-see"
    keys = write_keys(tmp_path / "keys", "AKTESTS", SECRET_KEY + "wrong", token)
    store = open_store(server.settings(endpoint=proxy.endpoint, credentials_file=str(keys), retry_timeout_seconds=0.2))
    shown = [repr(store), str(pickle.dumps(store))]
    for fault in ("none", "reset", "refused", "truncated"):
        if fault != "none":
            proxy.strike(fault, 20)  # type: ignore[arg-type]
        try:
            store.read("a")
        except PghavenError as error:
            shown.append("".join(traceback.format_exception(error)) + f"{error.detail}{error.hint}")
        proxy.calm()
    assert len(shown) == 6
    for text in shown:
        assert SECRET_KEY not in text
        assert token not in text
        assert "Signature=" not in text


def test_a_file_of_keys_that_makes_no_sense_is_told_without_its_content(server: ObjectServer, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    for content in ("aws_secret_access_key = hunter2\n", "[default\nhunter2", "[other]\na = hunter2\n"):
        keys.write_text(content)
        store = open_store(server.settings(credentials_file=str(keys)))
        with pytest.raises(UsageError) as raised:
            store.find("a")
        assert str(keys) in str(raised.value)
        assert "hunter2" not in "".join(traceback.format_exception(raised.value))


# Transport


def test_a_certificate_authority_of_ones_own_is_trusted_only_when_it_is_named(
    server: ObjectServer, tmp_path: Path
) -> None:
    ca_file, certificate = make_certificates(tmp_path)
    with proxying(server.port, tls=certificate) as proxy:
        assert proxy.endpoint.startswith("https://")
        with pytest.raises(StoreUnreachable, match="certificate is refused") as raised:
            create_root(server.settings(endpoint=proxy.endpoint))
        assert "ca_file" in str(raised.value.hint)
        store = create_root(server.settings(endpoint=proxy.endpoint, ca_file=str(ca_file)))
        store.create("a", [BODY])
        assert store.read("a") == BODY


def test_a_certificate_of_another_host_is_refused(server: ObjectServer, tmp_path: Path) -> None:
    ca_file, certificate = make_certificates(tmp_path, host="store.example.com")
    with (
        proxying(server.port, tls=certificate) as proxy,
        pytest.raises(StoreUnreachable, match="certificate is refused"),
    ):
        create_root(server.settings(endpoint=proxy.endpoint, ca_file=str(ca_file)))


# Processes and interrupts


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_an_interrupt_comes_through_at_once(store: Store, proxy: FaultyProxy, method: str) -> None:
    proxy.strike("hanging", method=method)

    def interrupt() -> None:
        assert proxy.is_hanging.wait(PATIENCE_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        store.read("a/b") if method == "GET" else store.create("a/b", [BODY])
    interrupter.join()
    store.create("a/c", [BODY])  # the store is of use afterwards


def test_a_forked_process_is_told_instead_of_hanging(store: Store) -> None:
    with pytest.raises(ObjectMissing):
        store.read("nowhere")
    child = os.fork()
    if child == 0:
        try:
            store.find("a")
        except RuntimeError:
            os._exit(7)
        os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
