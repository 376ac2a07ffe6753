"""Every byte of every object: changed, cut off, missing, or another object's. Found by name, or without any effect.

The intact repository passes first. A single change anywhere must never give other data (INV-6).
"""

from __future__ import annotations

import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pghaven.errors import Damaged, NotFound, PghavenError
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.pack import load_pack_index
from pghaven.repository.seal import OPEN_KEYRING
from tests.support.places import scratch
from tests.support.reference import (
    FIRST,
    FORMER,
    SECOND,
    ObjectKind,
    Reference,
    kind_of,
    make_reference,
    run_collector,
)
from tests.support.synthetic import CLUSTER, SEALED

DOCUMENTS = (ObjectKind.DESCRIPTOR, ObjectKind.LINEAGE, ObjectKind.INTENT, ObjectKind.DECISION)
CONTAINERS = (ObjectKind.MANIFEST, ObjectKind.PACK, ObjectKind.WAL, ObjectKind.QUARANTINE, ObjectKind.PIECE)
# What a restore goes by, and what it does not ask for.
UNREAD = (
    *(ObjectKind.TURN, ObjectKind.KIT, ObjectKind.HORIZON, ObjectKind.INCIDENT, ObjectKind.AUDIT, ObjectKind.MARKER),
    *(ObjectKind.OUTLINE, ObjectKind.EVIDENCE, ObjectKind.SNAPSHOT),
)
KINDS = [pytest.param(kind, id=kind) for kind in (*DOCUMENTS, *CONTAINERS)]


@pytest.fixture(scope="module", params=[pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")])
def reference(request: pytest.FixtureRequest) -> Iterator[Reference]:
    root = Path(tempfile.mkdtemp(prefix="damage-", dir=scratch()))
    yield make_reference(root, request.param)
    shutil.rmtree(root)


def ours(reference: Reference, *kinds: ObjectKind) -> list[str]:
    """Objects that a reader of the first cluster comes by."""
    return [name for name in reference.names(*kinds) if name.startswith(f"clusters/{CLUSTER}/") or "/" not in name]


def assert_found(reference: Reference, name: str, content: bytes | None, called: str | None = None) -> None:
    """Reading fails, as damage or absence, and says of what. The store is whole again afterwards."""
    with reference.holding(name, content):
        try:
            reference.read(name)
        except (Damaged, NotFound) as error:
            assert (called or name) in error.message, f"{name}: {error.message}"
            return
    pytest.fail(f"not found: {name}")


def assert_without_effect(reference: Reference, name: str, content: bytes | None) -> None:
    good = reference.read(name)
    with reference.holding(name, content):
        assert reference.read(name) == good


# -- the intact repository ----------------------------------------------------------------------------------------


def test_the_intact_repository_holds_every_kind_of_object(reference: Reference) -> None:
    assert {kind_of(name) for name in reference.content} == set(ObjectKind)
    assert min(len(reference.names(kind)) for kind in ObjectKind if kind not in ("descriptor", "alive", "horizon")) > 1


def test_the_intact_repository_gives_back_every_file(reference: Reference) -> None:
    expected = {
        f"{label}/{path}": content
        for label, source in reference.sources.items()
        if label != FORMER.label
        for path, content in source.files.items()
    }
    assert reference.restore(None) == expected
    for name in reference.names(ObjectKind.WAL, ObjectKind.QUARANTINE):
        assert reference.read(name)


# -- one byte -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_byte_is_found_and_the_object_named(reference: Reference, kind: ObjectKind) -> None:
    generator = random.Random(kind)
    for name in ours(reference, kind):
        good = reference.content[name]
        for place in range(len(good)):
            changed = bytearray(good)
            changed[place] ^= generator.randrange(1, 256)
            assert_found(reference, name, bytes(changed))


def test_a_restore_finds_what_a_worker_finds(reference: Reference) -> None:
    """The whole way of a restore, for some bytes of every pack; what it leaves cannot be started."""
    for name in ours(reference, ObjectKind.PACK):
        good = reference.content[name]
        ref = reference.jobs[name].pack
        assert ref is not None
        index = load_pack_index(BackupCatalog(reference.open(), CLUSTER).pack_place, ref)
        for place in range(0, len(good), 61):
            if 0 <= place - index.stored_offsets[-1] < index.cells_length:
                continue  # only a restore over an existing directory reads the cells' hashes
            changed = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
            with reference.holding(name, changed), pytest.raises(Damaged, match=name):
                reference.restore(None)


def test_a_sign_of_life_counts_by_being_there(reference: Reference) -> None:
    (name,) = reference.names(ObjectKind.SIGN)
    for content in (b"", b"x", None):
        assert_without_effect(reference, name, content)


def test_the_intact_repository_has_something_in_every_folder_there_can_be(reference: Reference) -> None:
    """Whoever adds a folder to the layout adds damage to it here."""
    source = Path(layout.__file__).read_text(encoding="utf-8")
    there = {name.split("/")[2] for name in reference.content if name.startswith(f"clusters/{CLUSTER}/")}
    known = set(re.findall(r"clusters/\{cluster\}/([a-z]+)/", source)) | {"snapshots"}
    assert known == there


@pytest.mark.parametrize("kind", UNREAD)
def test_no_restore_hangs_on_what_it_does_not_need(reference: Reference, kind: ObjectKind) -> None:
    for name in ours(reference, kind):
        for content in (b"", b"x", None):
            assert_without_effect(reference, name, content)


def test_a_collector_goes_on_whatever_became_of_earlier_turns(reference: Reference) -> None:
    good = reference.restore(None)
    for name in ours(reference, ObjectKind.TURN):
        for content in (b"", b"x", None):
            copy = reference.at(reference.content)
            copy.store.delete(name)
            if content is not None:
                copy.store.create(name, [content])
            run_collector(copy.open())
            assert copy.restore(None) == good


# -- an older state -----------------------------------------------------------------------------------------------


def test_every_state_there_was_gives_back_what_it_held(reference: Reference) -> None:
    """A copy of the whole store that is put back is what it was; it is not told apart from one that has not gone on."""
    for state in reference.states[1:]:
        copy = reference.at(state)
        committed = [one.label for one in BackupCatalog(copy.open(), CLUSTER).list_committed()]
        assert committed
        for label in committed:
            assert_right(copy, label)


def test_objects_that_were_removed_and_come_back_do_no_harm(reference: Reference) -> None:
    """Each alone, as a synchronising mirror might bring it, each folder of them, and all at once."""
    whole = reference.restore(FIRST.label) | reference.restore(SECOND.label)
    former = reference.former
    folders = {name.split("/")[2] for name in former}
    assert folders >= {"backups", "packs", "wal", "collections"}
    chosen = [{name: content} for name, content in former.items()]
    chosen += [{name: former[name] for name in former if name.split("/")[2] == folder} for folder in folders]
    for objects in [*chosen, former]:
        with reference.with_more(objects):
            assert reference.restore(FIRST.label) | reference.restore(SECOND.label) == whole
            try:
                assert_right(reference, FORMER.label)
            except (Damaged, NotFound) as error:
                assert FORMER.label in error.message


def assert_right(reference: Reference, label: str) -> None:
    files = {f"{label}/{path}": content for path, content in reference.sources[label].files.items()}
    assert reference.restore(label) == files


# -- length -------------------------------------------------------------------------------------------------------


def lengths(size: int) -> list[int]:
    """Where something ends or begins, and evenly between."""
    ends = {
        0,
        1,
        15,
        16,
        17,
        119,
        120,
        121,
        size - 121,
        size - 120,
        size - 119,
        size - 40,
        size - 8,
        size - 2,
        size - 1,
    }
    return sorted(length for length in ends | set(range(0, size, max(size // 13, 1))) if 0 <= length < size)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_found_and_the_object_named(reference: Reference, kind: ObjectKind) -> None:
    for name in ours(reference, kind):
        good = reference.content[name]
        for length in lengths(len(good)):
            assert_found(reference, name, good[:length])
            if length:
                assert_found(reference, name, good[length:])


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_behind_an_object_are_found_or_never_read(reference: Reference, kind: ObjectKind) -> None:
    for name in ours(reference, kind):
        good = reference.content[name]
        for behind in (b"\0", b"\n", good, bytes(5000)):
            if kind is ObjectKind.PACK:  # its manifest says how long it is
                assert_without_effect(reference, name, good + behind)
            else:
                assert_found(reference, name, good + behind)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_in_place_of_a_block_are_found(reference: Reference, kind: ObjectKind) -> None:
    """What a file system gives after a crash where it had allocated and not yet written."""
    for name in ours(reference, kind):
        good = reference.content[name]
        for start in range(0, len(good), 512):
            changed = good[:start] + bytes(len(good[start : start + 512])) + good[start + 512 :]
            assert_found(reference, name, changed)
        assert_found(reference, name, bytes(len(good)))


# -- absence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_missing_object_is_missed_by_name(reference: Reference, kind: ObjectKind) -> None:
    for name in ours(reference, kind):
        assert_found(reference, name, None)


def test_without_its_descriptor_it_is_no_repository(reference: Reference) -> None:
    assert_found(reference, "pghaven.json", None, called="no repository")


def test_without_its_lineage_a_cluster_is_not_known(reference: Reference) -> None:
    (name,) = ours(reference, ObjectKind.LINEAGE)
    assert_found(reference, name, None, called=f'"{CLUSTER}"')


def test_without_its_decision_a_backup_is_not_there(reference: Reference) -> None:
    for order in (FIRST, SECOND):
        name = f"clusters/{CLUSTER}/backups/{order.label}/decision"
        assert_found(reference, name, None, called=f'no backup "{order.label}"')


def test_without_its_intent_a_backup_is_not_there(reference: Reference) -> None:
    for order in (FIRST, SECOND):
        name = f"clusters/{CLUSTER}/backups/{order.label}/intent"
        assert_found(reference, name, None, called=f'no backup "{order.label}"')


# -- another object -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_in_place_of_another_of_its_kind_is_found(reference: Reference, kind: ObjectKind) -> None:
    """Of another backup, segment, pack or cluster; the twin in the other cluster says the same in other words."""
    for name in ours(reference, kind):
        for other in reference.names(kind):
            if other != name:
                assert_found(reference, name, reference.content[other])


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_in_place_of_one_of_another_kind_is_found(reference: Reference, kind: ObjectKind) -> None:
    for name in ours(reference, kind):
        for other_kind in ObjectKind:
            if other_kind is not kind:
                assert_found(reference, name, reference.content[reference.names(other_kind)[0]])


@pytest.mark.parametrize("kind", [*DOCUMENTS[1:], *CONTAINERS])
def test_an_object_of_another_repository_is_found(reference: Reference, kind: ObjectKind, tmp_path: Path) -> None:
    """One with the same clusters, backups and contents under the same names, as a mirror or an older copy has."""
    twin = make_reference(tmp_path, reference.keyring)
    theirs = twin.names(kind)
    for number, name in enumerate(ours(reference, kind)):
        assert_found(reference, name, twin.content[name if name in twin.content else theirs[number]])


def test_half_of_one_object_and_half_of_another_is_found(reference: Reference) -> None:
    """Two writes of one size that met in the middle."""
    for kind in CONTAINERS:
        for name in ours(reference, kind):
            for other in reference.names(kind):
                good, rival = reference.content[name], reference.content[other]
                for place in (16, len(good) // 2, len(good) - 120, len(good) - 40):
                    mixed = good[:place] + rival[place:]
                    if mixed != good:
                        assert_found(reference, name, mixed)


def test_nothing_but_our_own_errors_is_raised(reference: Reference) -> None:
    """Several changes at once, anywhere; other data may never come of it either."""
    generator = random.Random(1)
    good = {name: reference.read(name) for name in ours(reference)}
    for _ in range(300):
        name = generator.choice(list(good))
        changed = bytearray(reference.content[name])
        for _ in range(generator.randrange(1, 6)):
            start = generator.randrange(len(changed) + 1)
            end = start + generator.randrange(20)
            changed[start:end] = generator.randbytes(generator.randrange(20))
        with reference.holding(name, bytes(changed)):
            try:
                assert reference.read(name) == good[name]
            except PghavenError:
                continue
