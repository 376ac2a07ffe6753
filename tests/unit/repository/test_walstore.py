"""The WAL archive: a name is written once, and what is read is proven."""

from __future__ import annotations

import pytest
from blake3 import blake3

from pghaven.errors import Damaged, ObjectMissing, Refused
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import History, Timeline
from pghaven.repository.container import FRAME_BYTES
from pghaven.repository.filehash import hash_file
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.repository.walstore import PutOutcome, WalArchive
from pghaven.store.memory import MemoryStore
from pghaven.store.open import open_store
from tests.support.forging import WAL, Forgery, Frame
from tests.support.synthetic import SEALED, SEGMENT_SIZE, make_repository, make_segment, open_archive

NAME = "000000010000000000000003"
PARTIAL = NAME + ".partial"
FACTS = {"host": "db1", "pushed_at": "2026-03-01T12:00:00.000000Z"}
RINGS = [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")]


@pytest.fixture(params=RINGS)
def repository(request: pytest.FixtureRequest) -> Repository:
    return make_repository(MemoryStore(), keyring=request.param)


@pytest.fixture
def archive(repository: Repository) -> WalArchive:
    return open_archive(repository)


def object_of(archive: WalArchive, file_name: str) -> str:
    return archive._name(file_name)


@pytest.mark.parametrize("content", [b"", b"x", make_segment(3), make_segment(3) * 3 + b"odd"], ids=len)
def test_a_file_comes_back(archive: WalArchive, content: bytes) -> None:
    assert archive.put(NAME, content, FACTS) is PutOutcome.STORED
    assert archive.get(NAME) == content
    assert archive.exists(NAME)


@pytest.mark.parametrize("frames", [1.5, 2, 3, 4.25])
def test_a_file_that_is_stored_by_two_threads_comes_back(archive: WalArchive, frames: float) -> None:
    content = (make_segment(3) * 20)[: int(frames * FRAME_BYTES)]
    assert len(content) == int(frames * FRAME_BYTES)
    archive.uses_two_cores = True
    assert archive.put(NAME, content, FACTS) is PutOutcome.STORED
    assert archive.get(NAME) == content
    archive.uses_two_cores = False
    assert archive.put(NAME, content, FACTS) is PutOutcome.ALREADY


def test_a_file_that_is_not_there_is_proven_absent(archive: WalArchive) -> None:
    assert not archive.exists(NAME)
    for read in (archive.get, archive.read_facts):
        with pytest.raises(ObjectMissing, match=NAME):
            read(NAME)


def test_the_same_again_is_success_and_changes_nothing(repository: Repository, archive: WalArchive) -> None:
    archive.put(NAME, make_segment(3), FACTS)
    before = repository.store.read(object_of(archive, NAME))
    assert archive.put(NAME, make_segment(3), {"host": "db2"}) is PutOutcome.ALREADY
    assert repository.store.read(object_of(archive, NAME)) == before


@pytest.mark.parametrize("other", [make_segment(4), make_segment(3)[:-1], b""], ids=["same size", "shorter", "empty"])
def test_other_content_is_refused_and_both_sides_are_named(archive: WalArchive, other: bytes) -> None:
    archive.put(NAME, make_segment(3), FACTS)
    with pytest.raises(Refused, match="is in the archive with other contents") as caught:
        archive.put(NAME, other, {"host": "db2", "pushed_at": "later"})
    detail = caught.value.detail or ""
    for text in (hash_file(make_segment(3)), hash_file(other), '"db1"', '"db2"', "later"):
        assert text in detail
    assert archive.get(NAME) == make_segment(3)


def test_a_damaged_object_is_neither_the_same_nor_replaced(repository: Repository, archive: WalArchive) -> None:
    archive.put(NAME, make_segment(3), FACTS)
    name = object_of(archive, NAME)
    broken = bytearray(repository.store.read(name))
    broken[30] ^= 1
    repository.store.delete(name)
    repository.store.create(name, [bytes(broken)])
    with pytest.raises(Damaged, match=NAME):
        archive.put(NAME, make_segment(3), FACTS)
    assert repository.store.read(name) == bytes(broken)


@pytest.mark.parametrize("name", [NAME, PARTIAL, f"{NAME}.00000028.backup", "00000002.history", "other.file"])
def test_every_kind_of_file_has_a_place_of_its_own(archive: WalArchive, name: str) -> None:
    archive.put(name, name.encode(), {})
    assert archive.get(name) == name.encode()


def test_one_file_s_object_under_another_s_name_is_found(repository: Repository, archive: WalArchive) -> None:
    archive.put(NAME, make_segment(3), FACTS)
    for name in (NAME[:-1] + "4", PARTIAL):
        repository.store.create(object_of(archive, name), [repository.store.read(object_of(archive, NAME))])
        for read in (archive.get, archive.read_facts):
            with pytest.raises(Damaged, match=name):
                read(name)


def test_another_system_s_segment_is_another_object(repository: Repository, archive: WalArchive) -> None:
    other = WalArchive(repository, "shop", 42, SEGMENT_SIZE)
    other.put(NAME, b"theirs", {})
    assert not archive.exists(NAME)
    archive.put(NAME, b"ours", {})
    assert (archive.get(NAME), other.get(NAME)) == (b"ours", b"theirs")


@pytest.mark.parametrize("name", ["../x", "a/../b", "", ".", "..", "x\0", "00000002.history\n", "/x", "x" * 300])
def test_what_cannot_be_a_name_is_refused(archive: WalArchive, name: str) -> None:
    with pytest.raises(Refused):
        archive.put(name, b"x", {})


# -- facts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 3000, 100_000])
def test_facts_are_read_from_the_end_alone(repository: Repository, archive: WalArchive, size: int) -> None:
    archive.put(NAME, make_segment(3), {**FACTS, "note": "n" * size})
    facts = archive.read_facts(NAME)
    assert {name: facts[name] for name in FACTS} == FACTS
    assert facts["note"] == "n" * size
    assert facts["size"] == SEGMENT_SIZE


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"name": NAME[:-1] + "4"}, id="another name"),
        pytest.param({"hash": hash_file(b"other")}, id="another hash"),
        pytest.param({"name": None, "hash": None}, id="nothing"),
    ],
)
def test_a_proven_object_that_says_it_is_another_file_is_damage(facts: dict[str, str | None]) -> None:
    archive = open_archive(make_repository(MemoryStore()))
    name = object_of(archive, NAME)
    good = {"name": NAME, "hash": hash_file(b"content"), "size": 7}
    context = archive._repository.context(name).encode()
    content = Forgery(kind=WAL, context=context, frames=[Frame(plain=b"content")], meta={**good, **facts}).render()
    archive._repository.store.create(name, [content])
    with pytest.raises(Damaged, match=NAME):
        archive.get(NAME)


@pytest.mark.parametrize(("lengths", "is_good"), [((FRAME_BYTES, 5), True), ((FRAME_BYTES - 1, 6), False)])
def test_the_hash_of_a_file_is_of_its_mib_and_frames_are_those(lengths: tuple[int, int], is_good: bool) -> None:
    archive = open_archive(make_repository(MemoryStore()))
    name = object_of(archive, NAME)
    content = (make_segment(3) * 20)[: FRAME_BYTES + 5]
    pieces = content[:FRAME_BYTES], content[FRAME_BYTES:]
    expected = blake3(blake3(pieces[0]).digest() + blake3(pieces[1]).digest()).hexdigest()
    frames = [Frame(plain=content[: lengths[0]]), Frame(plain=content[lengths[0] :])]
    facts = {"name": NAME, "hash": expected, "size": len(content)}
    context = archive._repository.context(name).encode()
    archive._repository.store.create(name, [Forgery(kind=WAL, context=context, frames=frames, meta=facts).render()])
    if is_good:
        assert archive.get(NAME) == content
        assert archive.put(NAME, content, FACTS) is PutOutcome.ALREADY
        return
    with pytest.raises(Damaged, match="not of 1 MiB"):
        archive.get(NAME)


def test_facts_cannot_take_the_place_of_what_proves_the_content(archive: WalArchive) -> None:
    archive.put(NAME, b"content", {"hash": "forged", "name": "forged", "size": 0})
    assert archive.get(NAME) == b"content"


@pytest.mark.parametrize("kind", ["memory", "posix"])
def test_an_object_cut_short_has_no_facts(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = MemoryStore() if kind == "memory" else open_store(f"file://{tmp_path_factory.mktemp('store')}")
    archive = open_archive(make_repository(store))
    archive.put(NAME, make_segment(3), FACTS)
    whole = store.read(object_of(archive, NAME))
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        store.delete(object_of(archive, NAME))
        store.create(object_of(archive, NAME), [whole[:length]])
        with pytest.raises(Damaged, match=NAME):
            archive.read_facts(NAME)


@pytest.mark.parametrize("kind", ["memory", "posix"])
def test_a_footer_that_asks_for_more_than_there_is_is_damage(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = MemoryStore() if kind == "memory" else open_store(f"file://{tmp_path_factory.mktemp('store')}")
    archive = open_archive(make_repository(store))
    archive.put(NAME, make_segment(3), FACTS)
    changed = bytearray(store.read(object_of(archive, NAME)))
    changed[-112 + 2] = 0x10  # the index's length, now above 1 MiB
    store.delete(object_of(archive, NAME))
    store.create(object_of(archive, NAME), [bytes(changed)])
    with pytest.raises(Damaged, match=NAME):
        archive.read_facts(NAME)


# -- listing ------------------------------------------------------------------------------------------------------


def test_segments_are_listed_in_order_and_only_whole_ones(archive: WalArchive) -> None:
    for name in ("000000010000000200000001", "000000010000000100000FFF", NAME, "000000020000000000000003"):
        archive.put(name, b"x", {})
    for name in (PARTIAL, f"{NAME}.00000028.backup", "00000001.history", "00000002.history", "other"):
        archive.put(name, b"x", {})
    listed = [str(segment.name) for segment in archive.list_segments(Timeline(1))]
    assert listed == [NAME, "000000010000000100000FFF", "000000010000000200000001"]
    assert [str(segment.name) for segment in archive.list_segments(Timeline(2))] == ["000000020000000000000003"]
    assert list(archive.list_segments(Timeline(3))) == []


def test_timelines_are_listed_by_any_object_of_theirs(archive: WalArchive) -> None:
    for name in (NAME, "0000000A.history", "00000003000000000000000A.partial", "other"):
        archive.put(name, b"x", {})
    assert archive.list_timelines() == (Timeline(1), Timeline(3), Timeline(10))


def test_what_is_no_timeline_is_passed_over(repository: Repository, archive: WalArchive) -> None:
    prefix = f"clusters/shop/wal/{archive.system_identifier}/"
    for name in ("README", "00000000/x", "0000000a/x", "000000010/x", "index/1", "other/x"):
        repository.store.create(prefix + name, [b"x"])
    assert archive.list_timelines() == ()


# -- history ------------------------------------------------------------------------------------------------------


def test_the_first_timeline_needs_no_history(archive: WalArchive) -> None:
    assert archive.read_history(Timeline(1)) == History.root(Timeline(1))


def test_a_history_is_read_from_its_file(archive: WalArchive) -> None:
    with pytest.raises(ObjectMissing):
        archive.read_history(Timeline(2))
    archive.put("00000002.history", b"1\t0/3000028\tno recovery target specified\n", {})
    history = archive.read_history(Timeline(2))
    assert history.fork_of(Timeline(1)) == Lsn(0x3000028)


def test_a_history_is_never_overwritten(archive: WalArchive) -> None:
    archive.put("00000002.history", b"1\t0/3000028\treason\n", {})
    with pytest.raises(Refused):
        archive.put("00000002.history", b"1\t0/4000028\treason\n", {})


# -- quarantine ---------------------------------------------------------------------------------------------------


def test_quarantine_keeps_rivals_apart_and_out_of_the_archive(archive: WalArchive) -> None:
    archive.put(NAME, b"right", {})
    for content in (b"left behind", b"left behind too", b"left behind"):
        assert archive.put_quarantine(NAME, content, FACTS) is PutOutcome.QUARANTINED
    assert len(archive.list_quarantine()) == 2
    assert all(name.startswith(NAME + "-") for name in archive.list_quarantine())
    assert archive.get(NAME) == b"right"
    assert [str(segment.name) for segment in archive.list_segments(Timeline(1))] == [NAME]
