"""Sealing: what was sealed opens in its own place with its own key, and nowhere else."""

from __future__ import annotations

import pytest

from pghaven.errors import Damaged, NotPermitted
from pghaven.repository.seal import OPEN_KEYRING, DataKey, Keyring, SealKind

KEY_ID = bytes(range(16))
OTHER_ID = bytes(range(1, 17))
RING = Keyring(
    keys={KEY_ID: DataKey.from_root(b"k" * 32), OTHER_ID: DataKey.from_root(b"o" * 32)}, current_key_id=KEY_ID
)
WRITER = Keyring(keys={KEY_ID: RING.keys[KEY_ID].without_private()}, current_key_id=KEY_ID)
PLAIN = b"some page of somebody's table"
NAME = b"repository/clusters/shop/packs/"


def test_a_part_opens_in_its_place() -> None:
    sealer = RING.new_sealer()
    stored = sealer.seal(7, PLAIN, NAME)
    again = RING.sealer_for(sealer.kind, sealer.key_id, sealer.salt)
    assert again.unseal(7, stored, NAME) == PLAIN
    assert PLAIN not in stored


@pytest.mark.parametrize("position", [0, 6, 8, (1 << 96) - 1])
def test_a_part_does_not_open_in_another_place(position: int) -> None:
    sealer = RING.new_sealer()
    stored = sealer.seal(7, PLAIN, NAME)
    with pytest.raises(Damaged, match="seal is broken"):
        sealer.unseal(position, stored, NAME)


def test_a_part_does_not_open_under_another_name() -> None:
    sealer = RING.new_sealer()
    with pytest.raises(Damaged, match="seal is broken"):
        sealer.unseal(0, sealer.seal(0, PLAIN, NAME), NAME + b"x")


def test_a_part_does_not_open_in_another_object() -> None:
    one, other = RING.new_sealer(), RING.new_sealer()
    assert one.salt != other.salt
    with pytest.raises(Damaged, match="seal is broken"):
        other.unseal(0, one.seal(0, PLAIN, NAME), NAME)


def test_any_changed_bit_breaks_the_seal() -> None:
    sealer = RING.new_sealer()
    stored = sealer.seal(0, PLAIN, NAME)
    for bit in range(8 * len(stored)):
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged, match="seal is broken"):
            sealer.unseal(0, changed, NAME)


def test_a_part_cut_short_anywhere_does_not_open() -> None:
    sealer = RING.new_sealer()
    stored = sealer.seal(0, PLAIN, NAME)
    for length in range(len(stored)):
        with pytest.raises(Damaged, match="seal is broken"):
            sealer.unseal(0, stored[:length], NAME)


def test_the_right_key_is_found_by_its_id_and_a_missing_one_is_named() -> None:
    old = Keyring(keys=RING.keys, current_key_id=OTHER_ID).new_sealer()
    stored = old.seal(0, PLAIN, NAME)
    assert RING.sealer_for(old.kind, old.key_id, old.salt).unseal(0, stored, NAME) == PLAIN
    only_new = Keyring(keys={KEY_ID: RING.keys[KEY_ID]}, current_key_id=KEY_ID)
    with pytest.raises(NotPermitted, match=OTHER_ID.hex()):
        only_new.sealer_for(old.kind, old.key_id, old.salt)


def test_a_wrong_key_under_the_right_id_opens_nothing() -> None:
    sealer = RING.new_sealer()
    stored = sealer.seal(0, PLAIN, NAME)
    wrong = Keyring(keys={KEY_ID: DataKey.from_root(b"w" * 32)}, current_key_id=KEY_ID)
    with pytest.raises(Damaged, match="seal is broken"):
        wrong.sealer_for(sealer.kind, sealer.key_id, sealer.salt).unseal(0, stored, NAME)


def test_an_object_in_the_open_is_refused_where_objects_are_sealed() -> None:
    with pytest.raises(Damaged, match="not sealed although"):
        RING.sealer_for(SealKind.OPEN, bytes(16), bytes(32))


def test_an_object_in_the_open_names_no_key() -> None:
    for key_id, salt in ((KEY_ID, bytes(32)), (bytes(16), b"s" * 32)):
        with pytest.raises(Damaged, match="names a key"):
            OPEN_KEYRING.sealer_for(SealKind.OPEN, key_id, salt)


@pytest.mark.parametrize("kind", [3, 255])
def test_an_unknown_seal_is_damage(kind: int) -> None:
    with pytest.raises(Damaged, match=f"seal {kind} is not known"):
        RING.sealer_for(kind, KEY_ID, bytes(32))


def test_a_sealed_object_needs_a_key_to_be_read() -> None:
    with pytest.raises(NotPermitted):
        OPEN_KEYRING.sealer_for(SealKind.SHARED, KEY_ID, bytes(32))


def test_a_host_that_only_writes_seals_what_it_cannot_open() -> None:
    assert RING.can_read
    assert not WRITER.can_read
    sealer = WRITER.new_sealer()
    stored = sealer.seal(0, PLAIN, NAME)
    assert RING.sealer_for(sealer.kind, sealer.key_id, sealer.salt).unseal(0, stored, NAME) == PLAIN
    with pytest.raises(NotPermitted, match="only writes"):
        WRITER.sealer_for(sealer.kind, sealer.key_id, sealer.salt).unseal(0, stored, NAME)


def test_the_outline_of_what_is_sealed_is_for_every_host_and_opens_no_content() -> None:
    sealer = RING.new_sealer()
    outline, content = sealer.outline.seal(0, PLAIN, NAME), sealer.seal(0, PLAIN, NAME)
    there = WRITER.sealer_for(sealer.kind, sealer.key_id, sealer.salt)
    assert there.outline.unseal(0, outline, NAME) == PLAIN
    with pytest.raises(Damaged, match="seal is broken"):
        there.outline.unseal(0, content, NAME)


def test_what_is_for_every_host_is_read_by_one_that_only_writes() -> None:
    sealer = RING.new_sealer(for_hosts=True)
    stored = sealer.seal(0, PLAIN, NAME)
    assert WRITER.sealer_for(sealer.kind, sealer.key_id, sealer.salt).unseal(0, stored, NAME) == PLAIN


def test_knowing_the_public_part_is_not_enough_to_seal() -> None:
    key = RING.keys[KEY_ID]
    stranger = Keyring(keys={KEY_ID: DataKey(shared=bytes(32), public=key.public)}, current_key_id=KEY_ID)
    sealer = stranger.new_sealer()
    stored = sealer.seal(0, PLAIN, NAME)
    with pytest.raises(Damaged, match="seal is broken"):
        RING.sealer_for(sealer.kind, sealer.key_id, sealer.salt).unseal(0, stored, NAME)


def test_a_footer_without_a_usable_public_key_is_damage() -> None:
    with pytest.raises(Damaged, match="no public key"):
        RING.sealer_for(SealKind.CONTENT, KEY_ID, bytes(32))


def test_keys_are_never_shown() -> None:
    secrets = [secret for key in RING.keys.values() for secret in (key.shared, key.public, key.private) if secret]
    for shown in (repr(RING), repr(RING.keys[KEY_ID]), str(RING), repr(RING.new_sealer())):
        for secret in secrets:
            assert secret.hex() not in shown
            assert repr(secret)[2:-1] not in shown
