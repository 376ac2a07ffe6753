"""Slots: the ways into a repository's keys.

The one idea: every slot is an X25519 key pair of which the repository holds the public part, so new data keys can be
wrapped for a slot whose secret is not at hand. Where the secret is not a file of its own, the slot carries its key text
sealed under a passphrase (Argon2id) or to age recipients; the stock ``age`` program opens the latter too.
"""

from __future__ import annotations

import os
import re
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pghaven.errors import Damaged, NotPermitted, UsageError
from pghaven.repository.keytext import Access, KeyText
from pghaven.repository.seal import SALT_BYTES

SLOT_ID_BYTES = 16
_NONCE = bytes(12)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_PASSPHRASE_ASSOCIATED = b"pghaven passphrase slot 1"
# What a slot may ask for: more would be a way to stop whoever opens it.
_MEMORY_KIB_MAX = 4 << 20
_ITERATIONS_MAX = 64
_LANES_MAX = 64


class SlotKind(StrEnum):
    KEY = "key"
    PASSPHRASE = "passphrase"  # noqa: S105  a word
    AGE = "age"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One way in. ``carried`` is the sealed key text, empty for a key that is kept elsewhere."""

    name: str
    kind: SlotKind
    access: Access
    public: bytes
    added_at: str
    carried: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> bytes:
        return slot_id_of(self.public)


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2Cost:
    """RFC 9106's second recommendation, for hosts where memory is shared."""

    iterations: int = 3
    lanes: int = 4
    memory_kib: int = 64 << 10


USUAL_COST = Argon2Cost()


def make_key(access: Access, anchor: bytes) -> KeyText:
    """A new random key."""
    return KeyText(access=access, private=os.urandom(32), anchor=anchor)


def public_of(key: KeyText) -> bytes:
    """The public part of a key, which its slot has."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(key.private).public_key().public_bytes_raw()


def slot_id_of(public: bytes) -> bytes:
    from blake3 import blake3

    return blake3(b"pghaven slot 1\0" + public).digest()[:SLOT_ID_BYTES]


def check_slot_name(name: str) -> str:
    """The name itself. Raises UsageError for one that cannot name a slot."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f'"{name}" cannot be the name of a slot',
            hint="Use 1 to 60 letters, digits, dots, hyphens and underscores.",
        )
    return name


# -- passphrases --------------------------------------------------------------------------------------------------


def carry_under_passphrase(key: KeyText, passphrase: str, cost: Argon2Cost = USUAL_COST) -> dict[str, Any]:
    """What a passphrase slot carries. Takes the time and memory of ``cost``."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not passphrase:
        raise UsageError("the passphrase is empty")
    salt = os.urandom(SALT_BYTES)
    sealed = AESGCM(_stretch(passphrase, salt, cost)).encrypt(_NONCE, key.render().encode(), _PASSPHRASE_ASSOCIATED)
    return {
        "iterations": cost.iterations,
        "lanes": cost.lanes,
        "memory_kib": cost.memory_kib,
        "salt": salt.hex(),
        "sealed": b64encode(sealed).decode("ascii"),
    }


def open_with_passphrase(slot: Slot, passphrase: str) -> str | None:
    """The key text in a slot, None when the passphrase is not its own. Raises Damaged."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    carried = slot.carried
    try:
        cost = Argon2Cost(
            iterations=int(carried["iterations"]), lanes=int(carried["lanes"]), memory_kib=int(carried["memory_kib"])
        )
        salt, sealed = bytes.fromhex(carried["salt"]), b64decode(carried["sealed"], validate=True)
        if cost.iterations > _ITERATIONS_MAX or cost.lanes > _LANES_MAX or cost.memory_kib > _MEMORY_KIB_MAX:
            raise Damaged(f'key slot "{slot.name}" asks for more than any slot needs')
        aead = AESGCM(_stretch(passphrase, salt, cost))
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f'key slot "{slot.name}" cannot be read ({type(error).__name__})') from error
    try:
        return aead.decrypt(_NONCE, sealed, _PASSPHRASE_ASSOCIATED).decode("ascii", "replace")
    except InvalidTag:
        return None


def _stretch(passphrase: str, salt: bytes, cost: Argon2Cost) -> bytes:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    argon2 = Argon2id(salt=salt, length=32, iterations=cost.iterations, lanes=cost.lanes, memory_cost=cost.memory_kib)
    return argon2.derive(unicodedata.normalize("NFC", passphrase).encode())


# -- age ----------------------------------------------------------------------------------------------------------


def carry_to_age(key: KeyText, recipients: Sequence[str]) -> dict[str, Any]:
    """What an age slot carries: a file of the ``age`` format with the key's text. Raises UsageError."""
    pyrage = _import_pyrage()
    parsed = []
    for recipient in recipients:
        try:
            parsed.append(
                pyrage.ssh.Recipient.from_str(recipient)
                if recipient.startswith("ssh-")
                else pyrage.x25519.Recipient.from_str(recipient)
            )
        except (pyrage.RecipientError, ValueError) as error:
            raise UsageError(
                f'"{recipient}" is no age recipient', hint="One begins with age1, or ssh-ed25519."
            ) from error
    sealed = pyrage.encrypt(key.render().encode() + b"\n", parsed)
    return {"recipients": list(recipients), "age": b64encode(sealed).decode("ascii")}


def open_with_age(slot: Slot, identities: Sequence[str]) -> str | None:
    """The key text in a slot, None when it was not sealed to these identities. Raises Damaged, NotPermitted."""
    pyrage = _import_pyrage()
    try:
        sealed = b64decode(slot.carried["age"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f'key slot "{slot.name}" cannot be read ({type(error).__name__})') from error
    try:
        parsed = [pyrage.x25519.Identity.from_str(identity) for identity in identities]
        return bytes(pyrage.decrypt(sealed, parsed)).decode("ascii", "replace")
    except pyrage.IdentityError:
        raise NotPermitted("the age identity cannot be read") from None
    except pyrage.DecryptError:
        return None


def _import_pyrage() -> Any:
    try:
        import pyrage  # type: ignore[import-untyped]
    except ImportError:
        raise NotPermitted(
            "age recipients need the library pyrage, which is not installed",
            hint="Install it with: pip install 'pghaven[age]'. The program age opens the slot too.",
        ) from None
    return pyrage
