"""Key sets: what opens them, how they change, and that nothing else is taken for one."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path

import pytest

from pghaven.clock import ManualClock
from pghaven.errors import Damaged, Locked, NotFound, NotPermitted, PghavenError, Refused
from pghaven.repository import layout
from pghaven.repository.document import render_document
from pghaven.repository.keys import NewSlot
from pghaven.repository.keyset import found_secrets, make_first_key, render_key_set
from pghaven.repository.keyslot import SlotKind, carry_to_age, make_key
from pghaven.repository.keysource import KeyMaterial, KeySource, find_key, read_material
from pghaven.repository.keytext import Access, find_key_text
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.repository import create_repository, open_keys, open_repository
from pghaven.store.memory import MemoryStore
from pghaven.store.open import create_root
from pghaven.store.recording import RecordingStore
from pghaven.store.settings import StoreSettings
from tests.support.keys import SealedSite, make_sealed, material_of, open_with, sealing_with
from tests.support.synthetic import CLUSTER, START

DOCUMENT = f"clusters/{CLUSTER}/evidence/x"


@pytest.fixture
def site() -> SealedSite:
    return make_sealed(MemoryStore())


def numbers(site: SealedSite) -> tuple[int, ...]:
    return site.keys().list_numbers()


# -- opening ------------------------------------------------------------------------------------------------------


def test_the_key_it_was_founded_with_opens_it(site: SealedSite) -> None:
    repository = site.open()
    assert repository.keyring.is_sealing
    assert repository.keyring.can_read
    repository.create_document(DOCUMENT, {"a": "what nobody may see"})
    assert site.open().read_document(DOCUMENT) == {"a": "what nobody may see"}
    assert b"nobody" not in site.store.read(DOCUMENT)


def test_another_key_does_not(site: SealedSite) -> None:
    with pytest.raises(NotPermitted, match="opens none"):
        site.open(make_first_key())


def test_without_a_key_it_says_what_to_do(site: SealedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotPermitted, match="no key for it is configured") as caught:
        open_repository(site.store)
    assert "key_file" in str(caught.value.hint)
    monkeypatch.delenv("PGHAVEN_PASSPHRASE", raising=False)
    with pytest.raises(NotPermitted, match="no key for it is configured"):
        site.keys().open(read_material(KeySource()))


def test_a_key_for_what_is_in_the_open_is_refused() -> None:
    store = MemoryStore()
    create_repository(store)
    with pytest.raises(Refused, match="nothing in it is sealed"):
        open_repository(store, must_be_sealed=True)


def test_a_founding_that_was_interrupted_is_completed_with_the_same_key() -> None:
    store = RecordingStore(MemoryStore())
    key = make_first_key()
    create_repository(store, clock=ManualClock(START), sealing=sealing_with(key))
    for length in range(len(store.mutations) + 1):
        rest = store.replay(length)
        if length == 1:
            with pytest.raises(NotFound, match="making it was interrupted"):
                open_with(rest, key)
        create_repository(rest, clock=ManualClock(START), sealing=sealing_with(key))
        assert open_with(rest, key).keyring.can_read


def test_where_all_keys_are_lost_no_new_ones_are_founded_over_what_the_old_ones_sealed(site: SealedSite) -> None:
    kept = {info.name: site.store.read(info.name) for info in site.store.list(layout.KEYS_PREFIX)}
    for name in kept:
        site.store.delete(name)
    with pytest.raises(Damaged, match=r"all of its .* is lost") as caught:
        create_repository(site.store, clock=ManualClock(START), sealing=sealing_with(site.key))
    assert "from a copy of the repository" in str(caught.value.hint)
    with pytest.raises(Damaged, match=r"all of its .* is lost"):
        site.open()
    assert numbers(site) == ()
    for name, data in kept.items():
        site.store.create(name, [data])
    assert site.open().keyring.can_read


def test_a_key_of_another_repository_founds_nothing(site: SealedSite) -> None:
    with pytest.raises(NotPermitted, match="made for another repository"):
        create_repository(MemoryStore(), sealing=sealing_with(site.add("second")))


def test_a_passphrase_opens_its_slot(site: SealedSite) -> None:
    site.add_passphrase("paper", "correct horse")
    site.add_passphrase("other", "battery staple")
    for passphrase in ("correct horse", "battery staple"):
        assert site.keys().open(KeyMaterial(place="a test", passphrase=passphrase)).keyring.can_read
    with pytest.raises(NotPermitted, match="opens none"):
        site.keys().open(KeyMaterial(place="a test", passphrase="correct horses"))


def test_a_passphrase_is_the_same_however_it_was_typed(site: SealedSite) -> None:
    site.add_passphrase("paper", "caf\u00e9")
    assert site.keys().open(KeyMaterial(place="a test", passphrase="cafe\u0301")).slot.name == "paper"


def test_an_age_identity_opens_its_slot_and_age_itself_finds_the_key_in_it(site: SealedSite) -> None:
    pyrage = pytest.importorskip("pyrage")
    identity, stranger = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    key = make_key(Access.READER, site.key.anchor)
    carried = carry_to_age(key, [str(identity.to_public())])
    slot = NewSlot(name="age", kind=SlotKind.AGE, access=Access.READER, key=key, carried=carried)
    key_set = site.keys().add(site.open_keys(), site.key, slot)
    site.rotate()
    material = KeyMaterial(place="a test", identities=(str(identity),))
    assert site.keys().open(material).slot.name == "age"
    with pytest.raises(NotPermitted, match="opens none"):
        find_key(key_set, KeyMaterial(place="a test", identities=(str(stranger),)))
    # What lies in the slot is a file of the age format, which any program of it opens.
    stored = b64decode(key_set.slots[-1].carried["age"])
    assert stored.startswith(b"age-encryption.org/v1\n")
    assert find_key_text(pyrage.decrypt(stored, [identity]).decode()) == key


# -- changing -----------------------------------------------------------------------------------------------------


def test_what_was_sealed_before_a_rotation_is_read_after_it_by_every_slot(site: SealedSite) -> None:
    second, writer = site.add("second"), site.add("host", Access.WRITER)
    site.add_passphrase("paper", "secret")
    site.open().create_document(DOCUMENT, {"a": 1})
    before = site.store.read(DOCUMENT)
    site.rotate()
    for key in (site.key, second, writer):
        repository = site.open(key)
        assert repository.read_document(DOCUMENT) == {"a": 1}
        assert len(repository.keyring.keys) == 2
        assert repository.keyring.current_key_id != next(iter(repository.keyring.keys))
    assert site.store.read(DOCUMENT) == before
    assert site.keys().open(KeyMaterial(place="a test", passphrase="secret")).keyring == site.open().keyring


def test_a_host_that_held_its_keys_before_a_rotation_goes_on(site: SealedSite) -> None:
    old = site.open()
    site.rotate()
    old.create_document(DOCUMENT, {"a": 1})
    assert site.open().read_document(DOCUMENT) == {"a": 1}
    site.open().create_document(DOCUMENT + "y", {"a": 1})
    with pytest.raises(NotPermitted, match="is not at hand"):
        old.read_document(DOCUMENT + "y")


def test_a_slot_that_was_removed_opens_nothing_any_more(site: SealedSite) -> None:
    second = site.add("second")
    assert site.remove("second")
    with pytest.raises(NotPermitted, match="opens none"):
        site.open(second)
    assert numbers(site) == (3,)  # the sets that still had it are gone


def test_a_removal_that_was_interrupted_is_completed_by_the_same_command() -> None:
    """The set that counts is written first; the older ones, which the slot still opens, go then."""
    store = RecordingStore(MemoryStore())
    site = make_sealed(store)
    site.add("second")
    site.remove("second")
    written = next(i for i, one in enumerate(store.mutations) if one.name == layout.key_set_copy_name(3))
    left = SealedSite(store=store.replay(written + 1), key=site.key)
    assert numbers(left) == (1, 2, 3)
    writer = left.open_keys(left.add("writer", Access.WRITER))
    with pytest.raises(NotFound, match="no slot"):
        left.keys().remove(writer, left.key, "second")
    assert left.remove("second")
    assert numbers(left) == (4,)
    with pytest.raises(NotFound, match="no slot"):
        left.remove("second")


def test_a_key_that_was_removed_before_a_rotation_never_gets_the_new_data_key(site: SealedSite) -> None:
    second = site.add("second")
    held = site.open(second).keyring
    site.remove("second")
    site.rotate()
    current = site.open().keyring.current_key_id
    assert current is not None
    assert current not in held.keys


def test_the_last_slot_that_reads_stays(site: SealedSite) -> None:
    site.add("host", Access.WRITER)
    with pytest.raises(Refused, match="last slot that reads"):
        site.remove("first")
    assert numbers(site) == (1, 2)


def test_a_host_does_not_lock_itself_out(site: SealedSite) -> None:
    site.add("second")
    with pytest.raises(Refused, match="configured here"):
        site.remove("first")


def test_a_slot_that_is_not_there_and_a_name_that_is_taken(site: SealedSite) -> None:
    with pytest.raises(NotFound, match='no slot "nobody"'):
        site.remove("nobody")
    with pytest.raises(Refused, match='a slot "first" already'):
        site.add("first")


def test_a_key_that_only_writes_changes_nothing(site: SealedSite) -> None:
    writer = site.add("host", Access.WRITER)
    opened = site.open_keys(writer)
    assert opened.secrets is None
    with pytest.raises(NotPermitted, match="only writes"):
        site.keys().rotate(opened, writer)
    assert numbers(site) == (1, 2)


def test_of_two_changes_at_once_one_is_told_to_try_again(site: SealedSite) -> None:
    early = site.open_keys()
    site.add("second")
    with pytest.raises(Locked, match="at the same time"):
        site.keys().rotate(early, site.key)
    assert [slot.name for slot in site.keys().load().slots] == ["first", "second"]


def test_every_prefix_of_the_writes_of_every_change_opens_everything_there_is() -> None:
    store = RecordingStore(MemoryStore())
    site = make_sealed(store)
    contents = {}
    changes = (site.rotate, lambda: site.add("second"), lambda: site.remove("second"), site.rotate)
    for number, change in enumerate(changes):
        change()
        name = f"{DOCUMENT}{number}"
        site.open().create_document(name, {"number": number})
        contents[name] = {"number": number}
    founded = next(i for i, one in enumerate(store.mutations) if one.name == layout.key_set_copy_name(1))
    for length in range(founded, len(store.mutations) + 1):
        left = SealedSite(store=store.replay(length), key=site.key)
        repository = left.open()
        there = [info.name for info in left.store.list(f"clusters/{CLUSTER}/evidence/")]
        assert {name: repository.read_document(name) for name in there} == {name: contents[name] for name in there}
        left.rotate()
        assert left.open().keyring.can_read


# -- what is not believed -----------------------------------------------------------------------------------------


def replace(store: MemoryStore, name: str, data: bytes) -> None:
    store.delete(name)
    store.create(name, [data])


def test_a_damaged_set_is_replaced_by_its_copy_and_told() -> None:
    store = MemoryStore()
    site = make_sealed(store)
    for name in (layout.key_set_name(1), layout.key_set_copy_name(1)):
        data = bytearray(store.read(name))
        data[len(data) // 2] ^= 1
        whole = store.read(name)
        replace(store, name, bytes(data))
        assert site.open().keyring.can_read
        assert set(site.keys().find_flaws(1)) == {name}
        replace(store, name, whole)
    assert site.keys().find_flaws(1) == {}


def test_every_flipped_byte_of_a_set_without_a_copy_is_found() -> None:
    store = MemoryStore()
    site = make_sealed(store)
    store.delete(layout.key_set_copy_name(1))
    data = store.read(layout.key_set_name(1))
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 1
        replace(store, layout.key_set_name(1), bytes(changed))
        with pytest.raises(Damaged):
            site.open()


FORGERIES = ("signer", "signature", "reader", "writer", "written_at", "number", "slots")


@pytest.mark.parametrize("field", FORGERIES)
def test_nothing_of_a_set_can_be_taken_from_another_repository(field: str) -> None:
    """Each field of the set of a repository that an attacker made, with its hashes set right."""
    store, foreign = MemoryStore(), make_sealed(MemoryStore())
    site = make_sealed(store)
    foreign.rotate()
    name = layout.key_set_name(1)
    body = json.loads(store.read(name).partition(b"\n")[0])
    theirs = json.loads(foreign.store.read(layout.key_set_name(2)).partition(b"\n")[0])
    theirs["written_at"] = "2027-01-01T00:00:00.000000Z"
    body[field] = theirs[field]
    context = f"{site.open().id}/{name}"
    for one in (name, layout.key_set_copy_name(1)):
        replace(store, one, render_document(context, body))
    with pytest.raises((Damaged, NotPermitted)):
        site.open()


def test_a_whole_set_with_another_key_in_it_is_not_taken() -> None:
    """Whoever may write to the store makes a set of his own for the public parts of our slots."""
    store = MemoryStore()
    site = make_sealed(store)
    attacker = make_first_key()
    ours = site.keys().load().slots
    keys = site.keys()
    name = layout.key_set_name(2)
    body = render_key_set(keys._context(2), 2, found_secrets(attacker, "now"), ours, "now")
    store.create(name, [render_document(f"{site.open().id}/{name}", body)])
    with pytest.raises(Damaged, match="not signed by whom the key names"):
        site.open()


def test_a_descriptor_that_was_changed_opens_nothing() -> None:
    store = MemoryStore()
    site = make_sealed(store)
    body = json.loads(store.read("pghaven.json").partition(b"\n")[0])
    body["created_by"] = "somebody else"
    replace(store, "pghaven.json", render_document("pghaven.json", body))
    with pytest.raises(Damaged, match="descriptor"):
        site.open()


def test_a_descriptor_that_says_open_is_refused_where_a_key_is_configured() -> None:
    store = MemoryStore()
    site = make_sealed(store)
    body = json.loads(store.read("pghaven.json").partition(b"\n")[0])
    body["required_features"] = []
    replace(store, "pghaven.json", render_document("pghaven.json", body))
    with pytest.raises(Refused, match="nothing in it is sealed"):
        open_repository(store, unlock=lambda keys: keys.open(material_of(site.key)).keyring, must_be_sealed=True)
    with pytest.raises(Refused, match="is not sealed"):
        open_keys(store)


def test_a_descriptor_that_says_open_is_refused_where_the_environment_has_a_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = RepositoryPlace(name="main", store=StoreSettings(url=(tmp_path / "r").as_uri()))
    create_repository(create_root(place.store))
    monkeypatch.delenv("PGHAVEN_PASSPHRASE", raising=False)
    assert not open_place(place).keyring.is_sealing
    monkeypatch.setenv("PGHAVEN_PASSPHRASE", "correct horse")
    with pytest.raises(Refused, match="nothing in it is sealed"):
        open_place(place)


def test_no_key_is_in_what_an_error_or_a_value_shows(site: SealedSite) -> None:
    opened = site.open_keys()
    assert opened.secrets is not None
    secrets = [site.key.private, opened.secrets.seed, opened.secrets.generations[0].root]
    shown = [repr(opened), repr(opened.secrets), repr(site.open().keyring), repr(material_of(site.key))]
    for wrong in (make_first_key(), site.add("host", Access.WRITER)):
        try:
            site.keys().rotate(site.keys().open(material_of(wrong)), wrong)
        except PghavenError as error:
            shown += [repr(error), str(error.detail), str(error.hint)]
    assert len(shown) == 10
    for text in shown:
        assert site.key.render() not in text
        for secret in secrets:
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text
