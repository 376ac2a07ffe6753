"""A verification names every object that is changed, cut off, missing or another one, and says the truth about backups.

Every byte of every object is changed once, and read by what ``verify`` reads that kind of object with; some of them by
a whole verification. The intact repository passes first, and what it left as evidence stays for the others.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pghaven.errors import Damaged, NotFound, PghavenError
from pghaven.events import ignore
from pghaven.proof.findings import Finding, Gravity
from pghaven.proof.verify import VerifySettings, run_verify
from pghaven.proof.verify_records import read_records
from pghaven.proof.verify_rest import find_flaw
from pghaven.proof.verify_result import VerifyResult
from pghaven.proof.verify_worker import WalObject, check_wal_object
from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.evidence import Scope
from pghaven.repository.horizon import read_horizon
from pghaven.repository.pack import load_pack_index
from pghaven.repository.packcheck import check_pack, try_read
from pghaven.repository.partials import parse_piece
from pghaven.repository.rescuekit import find_kit_flaws
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.store.memory import MemoryStore
from tests.support.keys import make_sealed
from tests.support.places import scratch
from tests.support.reference import FIRST, FORMER, SECOND, ObjectKind, Reference, kind_of, make_reference
from tests.support.synthetic import (
    CLUSTER,
    SEALED,
    SYSTEM_IDENTIFIER,
    make_lineage,
    make_segment,
    make_source,
    open_archive,
    take_backup,
)

LABELS = [FIRST.label, SECOND.label]
RECORDS = (
    *(ObjectKind.LINEAGE, ObjectKind.INTENT, ObjectKind.DECISION, ObjectKind.SIGN, ObjectKind.MANIFEST),
    ObjectKind.HOLD,
)
REST = (
    *(ObjectKind.TURN, ObjectKind.INCIDENT, ObjectKind.AUDIT, ObjectKind.MARKER, ObjectKind.OUTLINE),
    *(ObjectKind.EVIDENCE, ObjectKind.SNAPSHOT),
)
# Nothing says that there was one: what it told of is as if it had not come to pass.
UNMISSED = (
    *(ObjectKind.SIGN, ObjectKind.QUARANTINE, ObjectKind.PIECE, ObjectKind.HOLD, ObjectKind.HORIZON),
    *(ObjectKind.INCIDENT, ObjectKind.AUDIT, ObjectKind.MARKER, ObjectKind.OUTLINE, ObjectKind.EVIDENCE),
    ObjectKind.SNAPSHOT,
)
KINDS = [pytest.param(kind, id=kind) for kind in ObjectKind]
WAL_KINDS = (ObjectKind.WAL, ObjectKind.QUARANTINE)


@pytest.fixture(scope="module", params=[pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")])
def reference(request: pytest.FixtureRequest) -> Iterator[Reference]:
    root = Path(tempfile.mkdtemp(prefix="verify-", dir=scratch()))
    made = make_reference(root, request.param)
    result = run_verify(made.open(), VerifySettings(cluster=CLUSTER, processes=0), ignore)
    assert [one.gravity for one in result.findings] == [Gravity.INFO]  # what is in quarantine
    yield made
    shutil.rmtree(root)


def verify(reference: Reference, scope: Scope = Scope.FULL) -> VerifyResult:
    """A whole verification, which leaves nothing behind."""
    result = run_verify(reference.open(), VerifySettings(cluster=CLUSTER, processes=0, scope=scope), ignore)
    assert result.evidence is not None
    reference.store.delete(result.evidence)
    return result


def ours(reference: Reference, *kinds: ObjectKind) -> list[str]:
    return [name for name in reference.names(*kinds) if name.startswith(f"clusters/{CLUSTER}/") or "/" not in name]


def names_in(findings: Sequence[Finding]) -> set[str]:
    return {one.object for one in findings if one.gravity is not Gravity.INFO}


def find_in_object(reference: Reference, name: str) -> set[str]:
    """The objects in which what ``verify`` reads of this kind finds anything wrong."""
    kind = kind_of(name)
    try:
        repository = reference.open()
    except Damaged as error:
        assert name in error.message
        return {name}
    if kind in RECORDS:
        records = read_records(repository, CLUSTER, None, {})
        lineages = {layout.lineage_name(CLUSTER, identifier) for identifier in records.damaged_lineages}
        return names_in(records.findings) | lineages
    if kind is ObjectKind.PACK:
        ref = reference.jobs[name].pack
        assert ref is not None
        check = check_pack(BackupCatalog(repository, CLUSTER).pack_place, ref, contents=True)
        return {name} if check.flaws else set()
    if kind in WAL_KINDS:
        file = WalObject(name.rpartition("/")[2], 0, is_quarantined=kind is ObjectKind.QUARANTINE)
        found = check_wal_object(open_archive(repository), make_lineage(), file, contents=True)
        return {name} if isinstance(found, str) else set()
    if kind is ObjectKind.PIECE:
        archive = open_archive(repository)
        file = WalObject("", 0, piece=parse_piece(archive, name))
        return {name} if isinstance(check_wal_object(archive, make_lineage(), file, contents=True), str) else set()
    if kind is ObjectKind.KIT:
        return set(find_kit_flaws(repository))
    if kind is ObjectKind.HORIZON:
        found = try_read(repository.store, lambda: read_horizon(repository, CLUSTER, SYSTEM_IDENTIFIER))
        return {name} if isinstance(found, str) else set()
    if kind in REST:
        return set() if find_flaw(repository, name) is None else {name}
    return set()


# -- one byte --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_byte_is_found_in_its_object(reference: Reference, kind: ObjectKind) -> None:
    """Every single one of the repository in the open; every seventh of the sealed one."""
    generator = random.Random(kind)
    step = 1 if reference.keyring is OPEN_KEYRING else 7
    for name in ours(reference, kind):
        assert not find_in_object(reference, name)
        good = reference.content[name]
        for place in range(generator.randrange(step), len(good), step):
            changed = bytearray(good)
            changed[place] ^= generator.randrange(1, 256)
            with reference.holding(name, bytes(changed)):
                assert find_in_object(reference, name) == {name}, place


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_verification_finds_what_its_parts_find(reference: Reference, kind: ObjectKind) -> None:
    generator = random.Random(kind)
    for name in ours(reference, kind):
        good = reference.content[name]
        for place in {0, len(good) - 1, *generator.sample(range(len(good)), min(4, len(good)))}:
            changed = good[:place] + bytes([good[place] ^ generator.randrange(1, 256)]) + good[place + 1 :]
            assert_named(reference, name, changed)


def assert_named(reference: Reference, name: str, content: bytes | None) -> None:
    """A verification of the repository with this in its place names it and no other object."""
    with reference.holding(name, content):
        if kind_of(name) is ObjectKind.DESCRIPTOR:
            with pytest.raises((Damaged, NotFound), match=r"pghaven\.json|no repository"):
                verify(reference)
            return
        assert names_in(verify(reference).findings) == {name}


def test_a_quick_verification_finds_what_is_wrong_with_documents_and_ends(reference: Reference) -> None:
    for name in ours(reference, *RECORDS, ObjectKind.PACK, ObjectKind.WAL, ObjectKind.PIECE):
        good = reference.content[name]
        changed = good[:-50] + bytes([good[-50] ^ 1]) + good[-49:]
        with reference.holding(name, changed):
            assert names_in(verify(reference, Scope.QUICK).findings) == {name}


def test_a_quick_verification_does_not_read_contents(reference: Reference) -> None:
    """What it does not look at it must not vouch for: its result counts for no backup."""
    (name, *_) = ours(reference, ObjectKind.PACK)
    good = reference.content[name]
    with reference.holding(name, good[:20] + bytes([good[20] ^ 1]) + good[21:]):
        result = verify(reference, Scope.QUICK)
        assert not result.is_damaged
        assert result.counts.proven_bytes == result.counts.frames == 0
        assert verify(reference).is_damaged


# -- length ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_cut_off_is_named(reference: Reference, kind: ObjectKind) -> None:
    for name in ours(reference, kind):
        good = reference.content[name]
        for content in (b"", good[: len(good) // 2], good[:-1], good[1:], bytes(len(good))):
            assert_named(reference, name, content)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_behind_an_object_are_named(reference: Reference, kind: ObjectKind) -> None:
    for name in ours(reference, kind):
        assert_named(reference, name, reference.content[name] + bytes(200))


def test_bytes_behind_a_pack_do_no_harm_to_a_backup(reference: Reference) -> None:
    (name, *_) = ours(reference, ObjectKind.PACK)
    for scope in Scope:
        with reference.holding(name, reference.content[name] + b"x"):
            result = verify(reference, scope)
        assert not result.is_damaged
        assert result.has_warnings


# -- absence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in ObjectKind if kind not in UNMISSED])
def test_a_missing_object_is_named(reference: Reference, kind: ObjectKind) -> None:
    """As after a replay of an older state too: contents never change, so in any other state it was not there."""
    for name in ours(reference, kind):
        if kind_of(name) is ObjectKind.TURN and name.endswith("decision"):
            continue  # a collection that was not ended
        assert_named(reference, name, None)


def test_a_piece_that_leads_nowhere_is_named_for_what_is_missing_before_it(reference: Reference) -> None:
    first, second = sorted(ours(reference, ObjectKind.PIECE))
    with reference.holding(first, None):
        result = verify(reference)
    (finding,) = [one for one in result.findings if one.gravity is Gravity.DAMAGE]
    assert finding.object == second
    assert finding.reason == "what came before offset 3000 of its segment is missing"


def test_a_damaged_piece_is_damage_only_while_its_segment_is_not_archived(reference: Reference) -> None:
    name = min(ours(reference, ObjectKind.PIECE))
    archive = open_archive(reference.open())
    with reference.holding(name, reference.content[name][:-1] + b"x"):
        assert [one.object for one in verify(reference).findings if one.gravity is Gravity.DAMAGE] == [name]
        archive.put("000000020000000000000007", make_segment(7), {})
        result = verify(reference)
    assert not result.is_damaged
    assert names_in(result.findings) == {name}
    reference.store.delete(layout.wal_object_name(CLUSTER, SYSTEM_IDENTIFIER, "000000020000000000000007"))


def test_both_copies_of_the_keys_are_read(tmp_path: Path) -> None:
    store = MemoryStore()
    site = make_sealed(store)
    take_backup(site.open(), make_source(tmp_path), FIRST)

    def verify_sealed() -> set[str]:
        return names_in(run_verify(site.open(), VerifySettings(cluster=CLUSTER, processes=0), ignore).findings)

    assert verify_sealed() == set()
    for name in (layout.key_set_name(1), layout.key_set_copy_name(1)):
        whole = store.read(name)
        for content in (whole[:-1] + b"x", whole[:50], None):
            store.delete(name)
            if content is not None:
                store.create(name, [content])
            assert verify_sealed() == {name}
            if content is not None:
                store.delete(name)
            store.create(name, [whole])


def test_a_collection_that_was_not_ended_is_told(reference: Reference) -> None:
    (name,) = [one for one in ours(reference, ObjectKind.TURN) if one.endswith("decision")]
    with reference.holding(name, None):
        result = verify(reference)
    assert result.is_damaged is result.has_warnings is False
    # Our own process took that turn, and it lives: nobody is gone.
    assert name not in {one.object for one in result.findings}


# -- an older state --------------------------------------------------------------------------------------------------


def test_every_state_there_was_is_whole(reference: Reference) -> None:
    for state in reference.states[1:]:
        result = run_verify(reference.at(state).open(), VerifySettings(cluster=CLUSTER, processes=0), ignore)
        assert not result.is_damaged
        assert all(one.is_whole for one in result.backups)


def test_objects_that_were_removed_and_come_back_are_named(reference: Reference) -> None:
    """By the backup they are of, and no other is hit; more WAL than is needed, or an earlier turn, is no flaw."""
    for name, content in reference.former.items():
        with reference.with_more({name: content}):
            result = verify(reference)
        assert {one.label for one in result.backups if one.is_whole} >= set(LABELS)
        if FORMER.label in name:
            assert any(FORMER.label in one.object for one in result.findings), name


def test_a_missing_object_is_damage_unless_it_was_never_known(reference: Reference) -> None:
    (name,) = [one for one in ours(reference, ObjectKind.DECISION) if FIRST.label in one]
    with reference.holding(name, None):
        assert verify(reference).is_damaged
    (evidence,) = [
        one.name for one in reference.store.list(layout.evidence_prefix(CLUSTER)) if one.name not in reference.content
    ]
    with reference.without(evidence), reference.holding(name, None):
        result = verify(reference)
    assert not result.is_damaged
    assert names_in(result.findings) == {name}


# -- another object --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_in_place_of_another_is_named(reference: Reference, kind: ObjectKind) -> None:
    for name in ours(reference, kind):
        others = [one for one in reference.names(kind) if one != name][:3]
        strangers = [reference.names(other)[0] for other in ObjectKind if other is not kind][:3]
        for other in (*others, *strangers):
            assert_named(reference, name, reference.content[other])


def test_two_objects_that_changed_places_are_both_named(reference: Reference) -> None:
    for kind in (ObjectKind.PACK, ObjectKind.MANIFEST, ObjectKind.DECISION, ObjectKind.INTENT, ObjectKind.WAL):
        one, other, *_ = ours(reference, kind)
        with reference.holding(one, reference.content[other]), reference.holding(other, reference.content[one]):
            assert names_in(verify(reference).findings) == {one, other}


def test_all_of_several_damaged_objects_are_named(reference: Reference) -> None:
    """It goes on behind the first."""
    packs, wal = ours(reference, ObjectKind.PACK), ours(reference, ObjectKind.WAL)
    documents = ours(reference, ObjectKind.INTENT)[:1] + ours(reference, ObjectKind.MANIFEST)[1:]
    chosen = [*packs, *documents, wal[0]]
    broken = [reference.holding(name, reference.content[name][:-1] + b"x") for name in chosen]
    for each in broken:
        each.__enter__()
    try:
        found = names_in(verify(reference).findings)
    finally:
        for each in reversed(broken):
            each.__exit__(None, None, None)
    # The pack of the backup whose manifest is gone cannot be known.
    assert found >= {*documents, wal[0]}
    assert found & set(packs) == {name for name in packs if FIRST.label in name}


# -- what it means ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in ObjectKind if kind not in (ObjectKind.DESCRIPTOR, *REST)])
def test_a_backup_is_whole_exactly_if_it_can_be_restored(reference: Reference, kind: ObjectKind) -> None:
    generator = random.Random(kind)
    for name in ours(reference, kind):
        good = reference.content[name]
        for place in generator.sample(range(len(good)), min(3, len(good))):
            changed = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
            if kind is ObjectKind.PACK and is_in_cells(reference, name, place):
                continue  # only a restore over an existing directory reads the cells' hashes
            for content in (changed, None):
                if content is not None and name.endswith(".history"):
                    continue  # whoever names another timeline can restore
                with reference.holding(name, content):
                    whole = {one.label for one in verify(reference).backups if one.is_whole}
                    can = {label for label in LABELS if can_restore(reference, label)}
                assert whole == can, f"{name}, byte {place}, {'gone' if content is None else 'changed'}"


def is_in_cells(reference: Reference, name: str, place: int) -> bool:
    ref = reference.jobs[name].pack
    assert ref is not None
    index = load_pack_index(BackupCatalog(reference.open(), CLUSTER).pack_place, ref)
    return 0 <= place - index.stored_offsets[-1] < index.cells_length


def can_restore(reference: Reference, label: str) -> bool:
    """Files and all WAL up to the backup's stop."""
    archive = open_archive(reference.open())
    order = FIRST if label == FIRST.label else SECOND
    try:
        reference.restore(label)
        for number in range(order.start_lsn >> 20, (order.stop_lsn >> 20) + 1):
            archive.get(f"0000000100000000{number:08X}")
    except PghavenError:
        return False
    return True


def test_the_files_and_relations_that_are_hit_are_named(reference: Reference) -> None:
    source = reference.sources[FIRST.label].files
    found: set[str] = set()
    for name in ours(reference, ObjectKind.PACK):
        if FIRST.label not in name:
            continue
        with reference.holding(name, None):
            (finding,) = [one for one in verify(reference).findings if one.object == name]
        assert finding.backups == (FIRST.label,)
        assert finding.file_count == len(reference.jobs[name].files)
        assert len(finding.files) == min(finding.file_count, 10)
        found.update(finding.files)
    assert "base/5/16384 (shop.public.orders)" in found
    assert {file.partition(" (")[0] for file in found if not file.startswith("odd")} <= set(source)


def test_damage_to_one_frame_hits_only_its_files(reference: Reference) -> None:
    name = next(one for one in ours(reference, ObjectKind.PACK) if FIRST.label in one)
    ref = reference.jobs[name].pack
    assert ref is not None
    index = load_pack_index(BackupCatalog(reference.open(), CLUSTER).pack_place, ref)
    good = reference.content[name]
    for number, start in enumerate(index.stored_offsets[:-1]):
        with reference.holding(name, good[:start] + bytes([good[start] ^ 1]) + good[start + 1 :]):
            (finding,) = [one for one in verify(reference).findings if one.object == name]
        assert f"frame {number} " in finding.reason
        assert finding.file_count == 1  # each file is a frame of its own here


def test_damaged_cell_hashes_leave_backups_restorable(reference: Reference) -> None:
    name = next(one for one in ours(reference, ObjectKind.PACK) if FIRST.label in one)
    ref = reference.jobs[name].pack
    assert ref is not None
    index = load_pack_index(BackupCatalog(reference.open(), CLUSTER).pack_place, ref)
    good, at = reference.content[name], index.stored_offsets[-1]
    with reference.holding(name, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]):
        result = verify(reference)
    assert result.is_damaged
    assert all(one.is_whole for one in result.backups)
    (finding,) = [one for one in result.findings if one.object == name]
    assert "not over an existing directory" in str(finding.meaning)


def test_nothing_but_our_own_errors_is_raised(reference: Reference) -> None:
    """Several changes at once, anywhere."""
    generator = random.Random(2)
    names = ours(reference)
    for _ in range(100):
        name = generator.choice(names)
        changed = bytearray(reference.content[name])
        for _ in range(generator.randrange(1, 6)):
            start = generator.randrange(len(changed) + 1)
            changed[start : start + generator.randrange(20)] = generator.randbytes(generator.randrange(20))
        with reference.holding(name, bytes(changed)):
            try:
                found = names_in(verify(reference).findings)
            except PghavenError:
                assert kind_of(name) is ObjectKind.DESCRIPTOR
                continue
        assert found == ({name} if bytes(changed) != reference.content[name] else set())
