"""A repository's key set: all its data keys, and all slots that open them, in one object.

The one idea: the whole set is one write-once object with a number, and the highest number counts. Adding or removing a
slot, or a new data key, is one put-if-absent of the next set, so there is no state between before and after. A set is
signed: who may write to the store but holds no reading key cannot slip in keys of his own.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pghaven.errors import Damaged, NotPermitted
from pghaven.repository.keyslot import Slot, SlotKind, public_of, slot_id_of
from pghaven.repository.keytext import ANCHOR_BYTES, Access, KeyText
from pghaven.repository.seal import DataKey, Keyring, Signer, derive_key

_NONCE = bytes(12)
_DOMAIN = b"pghaven key set 1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One data key: what it is called in footers, and the secret all else is derived from."""

    id: bytes
    root: bytes = field(repr=False)
    made_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What a key set keeps. The last generation seals what is written; ``seed`` is that of the Ed25519 signing key."""

    seed: bytes = field(repr=False)
    generations: tuple[Generation, ...]

    @property
    def anchor(self) -> bytes:
        """What a key text names the signer by."""
        return anchor_of(_signer(self.seed))

    def to_keyring(self) -> Keyring:
        keys = {one.id: DataKey.from_root(one.root) for one in self.generations}
        signer = Signer(public=_signer(self.seed), seed=self.seed)
        return Keyring(keys=keys, current_key_id=self.generations[-1].id, signer=signer)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """A set as it is stored; nothing of it is believed before it is opened. ``body`` is all of it."""

    number: int
    written_at: str
    slots: tuple[Slot, ...]
    body: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedKeys:
    """What a key opened: the slot it belongs to, and for a reading key all secrets."""

    key_set: KeySet
    slot: Slot
    keyring: Keyring = field(repr=False)
    secrets: Secrets | None = field(repr=False)


def make_first_key() -> KeyText:
    """The key that a repository is founded with. What signs the key sets follows from it, so that a founding that was
    interrupted goes on with the key file that is there."""
    private = os.urandom(32)
    return KeyText(access=Access.READER, private=private, anchor=anchor_of(_signer(_first_seed(private))))


def found_secrets(key: KeyText, made_at: str) -> Secrets:
    """The secrets of a new repository. Raises NotPermitted for a key that was made for another one."""
    seed = _first_seed(key.private)
    if key.access is not Access.READER or anchor_of(_signer(seed)) != key.anchor:
        raise NotPermitted(
            "the key that is configured was made for another repository, and cannot found this one",
            hint="Name a key file that does not exist yet: it will be made.",
        )
    return Secrets(seed=seed, generations=(new_generation(made_at),))


def _first_seed(private: bytes) -> bytes:
    return derive_key(private, b"", b"pghaven first signer 1")


def new_generation(made_at: str) -> Generation:
    return Generation(id=os.urandom(16), root=os.urandom(32), made_at=made_at)


def anchor_of(signer: bytes) -> bytes:
    from blake3 import blake3

    return blake3(b"pghaven signer 1\0" + signer).digest()[:ANCHOR_BYTES]


def _signer(seed: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


# -- writing ------------------------------------------------------------------------------------------------------


def render_key_set(
    context: str, number: int, secrets: Secrets, slots: Sequence[Slot], written_at: str
) -> dict[str, Any]:
    """The body of a new set. ``context`` is what it is bound to: the descriptor as it is, and its own name."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    set_keys = {access: os.urandom(32) for access in Access}
    body: dict[str, Any] = {
        "number": number,
        "written_at": written_at,
        "signer": _signer(secrets.seed).hex(),
        "reader": _seal(set_keys[Access.READER], context, Access.READER, _render_secrets(secrets)),
        "writer": _seal(set_keys[Access.WRITER], context, Access.WRITER, _render_writing(secrets)),
        "slots": [_render_slot(context, slot, set_keys[slot.access]) for slot in slots],
    }
    signing = Ed25519PrivateKey.from_private_bytes(secrets.seed)
    return {**body, "signature": signing.sign(_message(context, body)).hex()}


def _render_slot(context: str, slot: Slot, set_key: bytes) -> dict[str, Any]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    mine = X25519PrivateKey.generate()
    salt = mine.public_key().public_bytes_raw()
    key = _wrapping_key(mine.exchange(X25519PublicKey.from_public_bytes(slot.public)), salt, slot.public)
    wrapped = AESGCM(key).encrypt(_NONCE, set_key, _associated(context, slot.access))
    return {
        "id": slot.id.hex(),
        "name": slot.name,
        "kind": str(slot.kind),
        "access": str(slot.access),
        "public": slot.public.hex(),
        "added_at": slot.added_at,
        "carried": dict(slot.carried),
        "wrapped": b64encode(salt + wrapped).decode("ascii"),
    }


def _render_secrets(secrets: Secrets) -> dict[str, Any]:
    rows = [{"id": one.id.hex(), "root": one.root.hex(), "made_at": one.made_at} for one in secrets.generations]
    return {"seed": secrets.seed.hex(), "generations": rows}


def _render_writing(secrets: Secrets) -> dict[str, Any]:
    rows = []
    for one in secrets.generations:
        key = DataKey.from_root(one.root)
        rows.append({"id": one.id.hex(), "shared": key.shared.hex(), "public": key.public.hex()})
    return {"generations": rows}


def _seal(key: bytes, context: str, access: Access, body: Mapping[str, Any]) -> str:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    sealed = AESGCM(key).encrypt(_NONCE, json.dumps(body).encode(), _associated(context, access))
    return b64encode(sealed).decode("ascii")


def _wrapping_key(secret: bytes, salt: bytes, public: bytes) -> bytes:
    return derive_key(secret, salt, b"pghaven slot key 1" + public)


def _associated(context: str, access: Access) -> bytes:
    return _DOMAIN + f"{access}\0{context}".encode()


def _message(context: str, body: Mapping[str, Any]) -> bytes:
    """What is signed: everything but the signature."""
    signed = {name: value for name, value in body.items() if name != "signature"}
    return _DOMAIN + f"signed\0{context}\0".encode() + json.dumps(signed, sort_keys=True).encode()


# -- reading ------------------------------------------------------------------------------------------------------


def parse_key_set(body: Mapping[str, Any]) -> KeySet:
    """What is stored, not proven yet. Raises Damaged."""
    try:
        slots = tuple(
            Slot(
                name=str(row["name"]),
                kind=SlotKind(row["kind"]),
                access=Access(row["access"]),
                public=bytes.fromhex(row["public"]),
                added_at=str(row["added_at"]),
                carried=dict(row["carried"]),
            )
            for row in body["slots"]
        )
        return KeySet(number=int(body["number"]), written_at=str(body["written_at"]), slots=slots, body=body)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"it is no key set ({type(error).__name__})") from error


def open_key_set(context: str, key_set: KeySet, key: KeyText) -> OpenedKeys:
    """Raises NotPermitted when the key opens no slot of this set, Damaged for a set that its signer never wrote."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    body, wanted = key_set.body, slot_id_of(public_of(key))
    rows = [(slot, row) for slot, row in zip(key_set.slots, body["slots"], strict=True) if slot.id == wanted]
    if not rows:
        raise NotPermitted(
            "the key that is configured opens none of the repository's slots",
            hint="It is another repository's, or its slot was removed. Which there are: pghaven repo key list",
        )
    slot, row = rows[0]
    try:
        signer = bytes.fromhex(body["signer"])
        if anchor_of(signer) != key.anchor or slot.access is not key.access:
            raise Damaged("it is not signed by whom the key names")
        Ed25519PublicKey.from_public_bytes(signer).verify(bytes.fromhex(body["signature"]), _message(context, body))
        set_key = _unwrap(context, slot, b64decode(row["wrapped"], validate=True), key)
        opened = json.loads(_unseal(set_key, context, slot.access, body[str(slot.access)]))
        secrets = _parse_secrets(opened) if slot.access is Access.READER else None
        keyring = secrets.to_keyring() if secrets is not None else _parse_writing(opened, signer)
    except InvalidSignature:
        raise Damaged("its signature is wrong: it, or the descriptor, is not what was written") from None
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"its keys cannot be read ({type(error).__name__})") from error
    return OpenedKeys(key_set=key_set, slot=slot, keyring=keyring, secrets=secrets)


def _unwrap(context: str, slot: Slot, wrapped: bytes, key: KeyText) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    salt = wrapped[:32]
    secret = X25519PrivateKey.from_private_bytes(key.private).exchange(X25519PublicKey.from_public_bytes(salt))
    return _decrypt(_wrapping_key(secret, salt, slot.public), wrapped[32:], _associated(context, slot.access))


def _unseal(key: bytes, context: str, access: Access, sealed: str) -> bytes:
    return _decrypt(key, b64decode(sealed, validate=True), _associated(context, access))


def _decrypt(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(_NONCE, sealed, associated)
    except InvalidTag:
        raise Damaged("its keys do not open: they are not what was written") from None


def _parse_secrets(body: Mapping[str, Any]) -> Secrets:
    generations = tuple(
        Generation(id=bytes.fromhex(row["id"]), root=bytes.fromhex(row["root"]), made_at=str(row["made_at"]))
        for row in body["generations"]
    )
    if not generations:
        raise ValueError("no data key")
    return Secrets(seed=bytes.fromhex(body["seed"]), generations=generations)


def _parse_writing(body: Mapping[str, Any], signer: bytes) -> Keyring:
    keys = {
        bytes.fromhex(row["id"]): DataKey(shared=bytes.fromhex(row["shared"]), public=bytes.fromhex(row["public"]))
        for row in body["generations"]
    }
    if not keys:
        raise ValueError("no data key")
    return Keyring(keys=keys, current_key_id=list(keys)[-1], signer=Signer(public=signer))
