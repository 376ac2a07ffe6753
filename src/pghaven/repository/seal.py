"""How the bytes of one object are sealed: in the open, or with AES-256-GCM under a data key.

The one idea: a sealed object has a key of its own, derived from a data key and the object's random salt, so nonces are
simply positions in the object. What the object is (repository, cluster, kind, name) is associated data, so that an
object served under another name does not open. Where data keys come from is ``keys``'s business, not this module's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from pghaven.errors import Damaged, NotPermitted
from pghaven.repository.codec import Buffer

KEY_ID_BYTES = 16
SALT_BYTES = 32
_OPEN_KEY_ID = bytes(KEY_ID_BYTES)
_OPEN_SALT = bytes(SALT_BYTES)


class SealKind(IntEnum):
    """The numbers are part of the format."""

    OPEN = 0
    AES_256_GCM = 1


class Sealer(Protocol):
    """Seals and opens the parts of one object."""

    kind: SealKind
    key_id: bytes
    salt: bytes

    def seal(self, position: int, plain: bytes, associated: bytes) -> bytes:
        """The stored form of the part at ``position``; each position is used once."""

    def unseal(self, position: int, stored: Buffer, associated: bytes) -> Buffer:
        """The inverse. Raises Damaged when the part is not what was sealed here."""


class _OpenSealer:
    kind = SealKind.OPEN
    key_id = _OPEN_KEY_ID
    salt = _OPEN_SALT

    def seal(self, _position: int, plain: bytes, _associated: bytes) -> bytes:
        return plain

    def unseal(self, _position: int, stored: Buffer, _associated: bytes) -> Buffer:
        return stored


class _AesSealer:
    kind = SealKind.AES_256_GCM

    def __init__(self, key_id: bytes, data_key: bytes, salt: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        self.key_id = key_id
        self.salt = salt
        self._aead = AESGCM(HKDF(SHA256(), 32, salt, b"pghaven object key 1").derive(data_key))

    def seal(self, position: int, plain: bytes, associated: bytes) -> bytes:
        return self._aead.encrypt(position.to_bytes(12, "little"), plain, associated)

    def unseal(self, position: int, stored: Buffer, associated: bytes) -> Buffer:
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(position.to_bytes(12, "little"), stored, associated)
        except InvalidTag as error:
            raise Damaged("its seal is broken: it was changed, or is not the object it is named as") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The data keys this process holds. Without a current key new objects are written in the open.

    ``keys`` maps a key id (16 bytes) to its data key (32 bytes); neither is ever shown or logged.
    """

    keys: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    current_key_id: bytes | None = None

    def new_sealer(self) -> Sealer:
        """A sealer for one new object."""
        if self.current_key_id is None:
            return _OpenSealer()
        return _AesSealer(self.current_key_id, self.keys[self.current_key_id], os.urandom(SALT_BYTES))

    def sealer_for(self, kind: int, key_id: bytes, salt: bytes) -> Sealer:
        """The sealer that opens an object with this footer. Raises NotPermitted without its key.

        Once a repository has a key, an object in the open is refused: somebody may have put it there.
        """
        if kind == SealKind.OPEN:
            if self.current_key_id is not None:
                raise Damaged("it is not sealed although this repository is")
            if key_id != _OPEN_KEY_ID or salt != _OPEN_SALT:
                raise Damaged("it is marked as open but names a key")
            return _OpenSealer()
        if kind != SealKind.AES_256_GCM:
            raise Damaged(f"its seal {kind} is not known")
        if key_id not in self.keys:
            raise NotPermitted(f"the data key {key_id.hex()} that sealed it is not at hand")
        return _AesSealer(key_id, self.keys[key_id], salt)


OPEN_KEYRING = Keyring()
