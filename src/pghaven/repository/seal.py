"""How the bytes of one object are sealed: in the open, for every host, or for the holders of a reading key.

The one idea: a sealed object has keys of its own, derived from a data key and 32 random bytes in its footer, so nonces
are simply positions in the object. What a host must be able to read to go on writing is sealed under the *shared* key;
what was copied out of the database needs the *private* part of the content key too, so a host without that part writes
what it cannot read. What the object is (repository, cluster, kind, name) is associated data, so that an object served
under another name does not open. Where data keys come from is ``keyset``'s business, not this module's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import IntEnum
from typing import Protocol

from pghaven.errors import Damaged, NotPermitted
from pghaven.light import dataclass, field
from pghaven.repository.codec import Buffer

KEY_ID_BYTES = 16
SALT_BYTES = 32
TAG_BYTES = 16
_OPEN_KEY_ID = bytes(KEY_ID_BYTES)
_OPEN_SALT = bytes(SALT_BYTES)


class SealKind(IntEnum):
    """The numbers are part of the format."""

    OPEN = 0
    SHARED = 1  # for every host that writes to the repository
    CONTENT = 2  # for who holds the private part of the content key


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKey:
    """One generation's keys, 32 bytes each. A host that only writes has no ``private``."""

    shared: bytes = field(repr=False)
    public: bytes = field(repr=False)
    private: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_root(cls, root: bytes) -> DataKey:
        """All that follows from a generation's root secret of 32 bytes."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        private = derive_key(root, b"", b"pghaven content key 1")
        public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        return cls(shared=derive_key(root, b"", b"pghaven shared key 1"), public=public, private=private)

    def without_private(self) -> DataKey:
        """What a host gets that writes only."""
        return DataKey(shared=self.shared, public=self.public)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """The repository's Ed25519 key (RFC 8032). ``seed`` is None on a host that only writes: it can check, and not
    sign."""

    public: bytes
    seed: bytes | None = field(default=None, repr=False)


def derive_key(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256, 32 bytes."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, salt, info).derive(secret)


class PartSealer(Protocol):
    """Seals and opens the parts of one object; each position is used once."""

    def seal(self, position: int, plain: bytes, associated: bytes) -> bytes:
        """The stored form of the part at ``position``."""

    def unseal(self, position: int, stored: Buffer, associated: bytes) -> Buffer:
        """The inverse. Raises Damaged when the part is not what was sealed here, NotPermitted without the key."""


class Sealer(PartSealer, Protocol):
    """The sealer of one object. ``outline`` is for what every host may read of it."""

    kind: SealKind
    key_id: bytes
    salt: bytes

    @property
    def outline(self) -> PartSealer: ...


class _OpenSealer:
    kind = SealKind.OPEN
    key_id = _OPEN_KEY_ID
    salt = _OPEN_SALT

    @property
    def outline(self) -> PartSealer:
        return self

    def seal(self, _position: int, plain: bytes, _associated: bytes) -> bytes:
        return plain

    def unseal(self, _position: int, stored: Buffer, _associated: bytes) -> Buffer:
        return stored


class _Aead:
    """AES-256-GCM under one key; the position is the nonce."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aead = AESGCM(key)

    def seal(self, position: int, plain: bytes, associated: bytes) -> bytes:
        # Some 35 microseconds for a frame that took ten thousand to compress: ``encrypt_into`` gains nothing here.
        return self._aead.encrypt(position.to_bytes(12, "little"), plain, associated)

    def unseal(self, position: int, stored: Buffer, associated: bytes) -> Buffer:
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(position.to_bytes(12, "little"), stored, associated)
        except InvalidTag as error:
            raise Damaged("its seal is broken: it was changed, or is not the object it is named as") from error


class _Unreadable:
    """In place of a key that is not at hand."""

    def seal(self, _position: int, _plain: bytes, _associated: bytes) -> bytes:
        raise AssertionError("only what is there already is opened without its key")

    def unseal(self, _position: int, _stored: Buffer, _associated: bytes) -> Buffer:
        raise refuse_reading()


class _SharedSealer(_Aead):
    kind = SealKind.SHARED

    def __init__(self, key_id: bytes, key: DataKey, salt: bytes) -> None:
        super().__init__(derive_key(key.shared, salt, b"pghaven object key 1"))
        self.key_id = key_id
        self.salt = salt

    @property
    def outline(self) -> PartSealer:
        return self


class _ContentSealer:
    """``salt`` is an X25519 public key made for this object alone; ``secret`` is what it and the content key agree on,
    None without the content key's private part."""

    kind = SealKind.CONTENT

    def __init__(self, key_id: bytes, key: DataKey, salt: bytes, secret: bytes | None) -> None:
        self.key_id = key_id
        self.salt = salt
        self.outline: PartSealer = _Aead(derive_key(key.shared, salt, b"pghaven outline key 2"))
        # The shared key is part of it, so that who knows the public part alone can make nothing that opens.
        self._content: PartSealer = _Unreadable()
        if secret is not None:
            self._content = _Aead(derive_key(secret + key.shared, salt, b"pghaven object key 2" + key.public))

    def seal(self, position: int, plain: bytes, associated: bytes) -> bytes:
        return self._content.seal(position, plain, associated)

    def unseal(self, position: int, stored: Buffer, associated: bytes) -> Buffer:
        return self._content.unseal(position, stored, associated)


def _make_content_sealer(key_id: bytes, key: DataKey) -> Sealer:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    mine = X25519PrivateKey.generate()
    secret = mine.exchange(X25519PublicKey.from_public_bytes(key.public))
    return _ContentSealer(key_id, key, mine.public_key().public_bytes_raw(), secret)


def _find_content_sealer(key_id: bytes, key: DataKey, salt: bytes) -> Sealer:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    if key.private is None:
        return _ContentSealer(key_id, key, salt, None)
    try:
        secret = X25519PrivateKey.from_private_bytes(key.private).exchange(X25519PublicKey.from_public_bytes(salt))
    except ValueError as error:
        raise Damaged("its footer holds no public key") from error
    return _ContentSealer(key_id, key, salt, secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The data keys this process holds. Without a current key new objects are written in the open.

    ``keys`` maps a key id (16 bytes) to its data key; neither is ever shown or logged. ``signer`` signs what is found
    by reading. Pickled it holds the keys: it goes to this process's own workers, through a socket pair, and nowhere
    else.
    """

    keys: Mapping[bytes, DataKey] = field(default_factory=dict, repr=False)
    current_key_id: bytes | None = None
    signer: Signer | None = None

    @property
    def is_sealing(self) -> bool:
        return self.current_key_id is not None

    @property
    def can_read(self) -> bool:
        """Whether what is stored can be read here too, and not only be written."""
        return self.current_key_id is None or self.keys[self.current_key_id].private is not None

    @property
    def can_sign(self) -> bool:
        return self.signer is not None and self.signer.seed is not None

    def new_sealer(self, *, for_hosts: bool = False) -> Sealer:
        """A sealer for one new object. ``for_hosts``: every host that may write is to read it."""
        if self.current_key_id is None:
            return _OpenSealer()
        key = self.keys[self.current_key_id]
        if for_hosts:
            return _SharedSealer(self.current_key_id, key, os.urandom(SALT_BYTES))
        return _make_content_sealer(self.current_key_id, key)

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
        if kind not in (SealKind.SHARED, SealKind.CONTENT):
            raise Damaged(f"its seal {kind} is not known")
        if key_id not in self.keys:
            raise NotPermitted(f"the data key {key_id.hex()} that sealed it is not at hand")
        if kind == SealKind.SHARED:
            return _SharedSealer(key_id, self.keys[key_id], salt)
        return _find_content_sealer(key_id, self.keys[key_id], salt)


OPEN_KEYRING = Keyring()


def refuse_reading() -> NotPermitted:
    """What is said where only writing is possible."""
    return NotPermitted(
        "the key of this host only writes: what is stored cannot be read with it",
        hint="Run this where a key that reads is configured; docs/guide/keys.md tells who needs which.",
    )
