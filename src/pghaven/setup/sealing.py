"""The keys of a new repository: the one that this host goes on with, and the one that is kept apart.

The one idea: everything that must not be lost is on the disk before the repository depends on it, and a founding that
was interrupted goes on with the files that it left. No sealed repository is made without a second way in.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass

from pghaven.errors import NotPermitted, StoreUnreachable, UsageError
from pghaven.events import Listener, Notice
from pghaven.repository.keys import NewSlot, RepositoryKeys
from pghaven.repository.keyset import found_secrets, make_first_key
from pghaven.repository.keyslot import SlotKind, carry_to_age, carry_under_passphrase, make_key
from pghaven.repository.keysource import KeySource, read_material
from pghaven.repository.keytext import Access, KeyText, render_key_file
from pghaven.repository.place import RepositoryPlace, unlock
from pghaven.repository.repository import Sealing
from pghaven.runtime.durable import OwnerOf, make_directories_durably, write_durably
from pghaven.units import render_time_utc

KEY_FILE_MODE = 0o600
_RECOVERY = "recovery"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryOrder:
    """How the second way in is kept apart: in a file, by who holds age identities, or by a person who is shown the key.

    ``show`` is called with the key's text and returns whether it was kept; None where there is nobody.
    """

    copy_path: str | None = None
    recipients: tuple[str, ...] = ()
    show: Callable[[str], bool] | None = None


NO_RECOVERY = RecoveryOrder()


def make_sealing(place: RepositoryPlace, order: RecoveryOrder, owner: OwnerOf | None, listener: Listener) -> Sealing:
    """How the repository at this place gets its keys if it is new. ``owner`` is given the key file (as root)."""
    founding = _Founding(place, order, owner, listener)
    return Sealing(
        prepare=founding.prepare, found=founding.found, unlock=lambda keys: unlock(keys, place.key, founding.ask)
    )


def write_key_file(path: str, key: KeyText, url: str, slot: str, owner: OwnerOf | None = None) -> None:
    """Write a key to a new file that only its owner can read. Raises UsageError when there is one, NotPermitted."""
    if os.path.lexists(path):
        raise UsageError(f'"{path}" exists already', hint="Name a file that does not exist yet.")
    try:
        make_directories_durably(os.path.dirname(os.path.abspath(path)), 0o755)
        write_durably(path, render_key_file(key, url, slot), KEY_FILE_MODE, owner)
    except PermissionError as error:
        raise NotPermitted(f'could not write "{path}": permission denied') from error
    except OSError as error:
        raise StoreUnreachable(f'could not write "{path}": {error.strerror}') from error


def name_slot() -> str:
    """What this host's own slot is called."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:60] or "host"


class _Founding:
    def __init__(self, place: RepositoryPlace, order: RecoveryOrder, owner: OwnerOf | None, listener: Listener) -> None:
        self._place = place
        self._order = order
        self._owner = owner
        self._tell = listener
        self._passphrase: str | None = None
        self._slots: list[NewSlot] = []

    def ask(self) -> str | None:
        return self._passphrase

    def prepare(self) -> None:
        """Everything that is kept outside of the repository. Raises UsageError, NotPermitted."""
        order = self._order
        if order.copy_path is None and not order.recipients and order.show is None:
            raise UsageError(
                "the repository would be sealed, and losing its one key would lose every backup",
                detail="A second key is made that opens it too. It must be kept apart from this host.",
                hint="Say where it goes: --recovery-copy FILE (a medium you take away), or --recovery-recipient AGE1…; "
                "or run this at a terminal. A repository in the open is made with --no-encryption.",
            )
        first = self._make_own()
        self._slots = [first, self._make_recovery(first.key)]

    def found(self, keys: RepositoryKeys) -> None:
        """Write the first key set. Raises Locked when somebody else did."""
        first = self._slots[0]
        keys.found(found_secrets(first.key, render_time_utc(keys.clock.now())), self._slots)

    def _make_own(self) -> NewSlot:
        source = self._place.key
        name = name_slot()
        if source.key_file is not None and not os.path.lexists(source.key_file):
            key = make_first_key()
            write_key_file(source.key_file, key, self._place.url, name, self._owner)
            return NewSlot(name=name, kind=SlotKind.KEY, access=Access.READER, key=key)
        material = read_material(source)
        if material.key is not None:
            # Of a founding that was interrupted, or made for it elsewhere; another repository's is refused by this.
            found_secrets(material.key, "")
            return NewSlot(name=name, kind=SlotKind.KEY, access=Access.READER, key=material.key)
        if material.passphrase is None:
            raise UsageError(
                "an age identity cannot found a repository",
                hint="Name a key file that does not exist yet, and give the recipient with --recovery-recipient.",
            )
        self._passphrase = material.passphrase
        key = make_first_key()
        carried = carry_under_passphrase(key, material.passphrase)
        return NewSlot(name="passphrase", kind=SlotKind.PASSPHRASE, access=Access.READER, key=key, carried=carried)

    def _make_recovery(self, first: KeyText) -> NewSlot:
        order = self._order
        key = make_key(Access.READER, first.anchor)
        if order.recipients:
            carried = carry_to_age(key, order.recipients)
            return NewSlot(name=_RECOVERY, kind=SlotKind.AGE, access=Access.READER, key=key, carried=carried)
        if order.copy_path is not None:
            key = self._write_copy(order.copy_path, key)
        elif order.show is None or not order.show(key.render()):
            raise UsageError("the recovery key was not confirmed: nothing was made", hint="Run the command again.")
        return NewSlot(name=_RECOVERY, kind=SlotKind.KEY, access=Access.READER, key=key)

    def _write_copy(self, path: str, key: KeyText) -> KeyText:
        """Write the recovery key, or take the one that an interrupted founding wrote."""
        own = self._place.key.key_file
        if own is not None and _directory_of(own) == _directory_of(path):
            raise UsageError(
                f'"{path}" lies beside the key file "{own}": what loses one loses the other',
                hint="Name a file on a medium that is kept apart from this host.",
            )
        if os.path.lexists(path):
            found = read_material(KeySource(key_file=path)).key
            if found is None or (found.access, found.anchor) != (Access.READER, key.anchor):
                raise UsageError(f'"{path}" exists already', hint="Name a file that does not exist yet.")
            return found
        write_key_file(path, key, self._place.url, _RECOVERY)
        if own is not None and os.stat(path).st_dev == os.stat(own).st_dev:
            text = f'the recovery copy "{path}" is on the same file system as the key file'
            hint = "Take it away from this host: it is of use only where the host is lost."
            self._tell(Notice(level="warning", code="recovery_copy_near", text=text, hint=hint))
        return key


def _directory_of(path: str) -> str:
    return os.path.realpath(os.path.dirname(os.path.abspath(path)))
