"""Where the key of a repository comes from on this host: a file, a command, a passphrase.

The one idea: whatever it is, it ends as one key text that opens one slot. Nothing of it ever stands in a command line,
a message or the configuration itself, only where it is to be had.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from pghaven.errors import NotFound, NotPermitted
from pghaven.light import dataclass, field

if TYPE_CHECKING:
    from pghaven.repository.keyset import KeySet
    from pghaven.repository.keytext import KeyText

PASSPHRASE_VARIABLE = "PGHAVEN_PASSPHRASE"  # noqa: S105  its name
_FILE_BYTES_MAX = 1 << 16
_COMMAND_SECONDS = 60.0

Ask = Callable[[], str | None]
"""Asks a person for the passphrase; None when there is nobody to ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """As configured; at most one is given. Commands are split as a shell would, and started without one.

    ``encryption`` is what the configuration says of the repository beside where its key is, None if nothing.
    """

    key_file: str | None = None
    key_command: str | None = None
    passphrase_file: str | None = None
    passphrase_command: str | None = None
    encryption: bool | None = None

    @property
    def is_given(self) -> bool:
        return any((self.key_file, self.key_command, self.passphrase_file, self.passphrase_command))

    @property
    def is_known(self) -> bool:
        """Whether this host has a key for the repository: as configured, or a passphrase in the environment that is not
        said to be for others."""
        return self.is_given or (self.encryption is not False and PASSPHRASE_VARIABLE in os.environ)

    @property
    def is_expected(self) -> bool:
        """Whether the repository must be sealed."""
        return self.is_known or self.encryption is True


NO_KEY = KeySource()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMaterial:
    """What was found there: a key, the identities of age, or a passphrase. ``place`` says where, for people."""

    place: str
    key: KeyText | None = None
    identities: tuple[str, ...] = field(default=(), repr=False)
    passphrase: str | None = field(default=None, repr=False)


def read_material(source: KeySource, ask: Ask | None = None) -> KeyMaterial:
    """What the source gives. Raises NotPermitted, saying what to do, where it gives nothing.

    Without one the passphrase is looked for in the environment, and then ``ask`` is called.
    """
    if source.key_file is not None:
        place = f'key file "{source.key_file}"'
        return _find_key(_read_secret_file(source.key_file, "key file"), place)
    if source.key_command is not None:
        return _find_key(_run(source.key_command, "key_command"), "the output of key_command")
    if source.passphrase_file is not None:
        text = _read_secret_file(source.passphrase_file, "passphrase file")
        return _passphrase(text, f'passphrase file "{source.passphrase_file}"')
    if source.passphrase_command is not None:
        return _passphrase(_run(source.passphrase_command, "passphrase_command"), "the output of passphrase_command")
    if PASSPHRASE_VARIABLE in os.environ:
        return _passphrase(os.environ[PASSPHRASE_VARIABLE], f"${PASSPHRASE_VARIABLE}")
    asked = ask() if ask is not None else None
    if asked is None:
        raise refuse_without_key()
    return _passphrase(asked, "what was typed")


def refuse_without_key() -> NotPermitted:
    return NotPermitted(
        "the repository is sealed, and no key for it is configured on this host",
        hint='Name one in its section of the configuration, such as key_file = "/etc/pghaven/main.key"; '
        "docs/guide/keys.md tells which ways there are.",
    )


def find_key(key_set: KeySet, material: KeyMaterial) -> KeyText:
    """The key text that this material is, or that a slot carries for it. Raises NotPermitted, Damaged."""
    from pghaven.repository.keyslot import SlotKind, open_with_age, open_with_passphrase
    from pghaven.repository.keytext import find_key_text

    if material.key is not None:
        return material.key
    text: str | None = None
    for slot in key_set.slots:
        if material.passphrase is not None and slot.kind is SlotKind.PASSPHRASE:
            text = open_with_passphrase(slot, material.passphrase)
        elif material.identities and slot.kind is SlotKind.AGE:
            text = open_with_age(slot, material.identities)
        found = find_key_text(text) if text is not None else None
        if found is not None:
            return found
    what = "passphrase" if material.passphrase is not None else "age identity"
    raise NotPermitted(
        f"the {what} from {material.place} opens none of the repository's slots",
        hint="Which slots there are: pghaven repo key list",
    )


def _find_key(text: str, place: str) -> KeyMaterial:
    from pghaven.repository.keytext import find_age_identities, find_key_text

    try:
        key = find_key_text(text)
    except NotPermitted as error:
        raise NotPermitted(f"{place} cannot be used: {error.message}", hint=error.hint) from None
    identities = find_age_identities(text)
    if key is None and not identities:
        raise NotPermitted(f"there is no key in {place}", hint='A key begins with "pghaven-" or "AGE-SECRET-KEY-".')
    return KeyMaterial(place=place, key=key, identities=identities)


def _passphrase(text: str, place: str) -> KeyMaterial:
    passphrase = text.rstrip("\r\n")
    if not passphrase:
        raise NotPermitted(f"there is no passphrase in {place}")
    return KeyMaterial(place=place, passphrase=passphrase)


def _read_secret_file(path: str, what: str) -> str:
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise NotPermitted(
            f'could not read {what} "{path}": {(error.strerror or str(error)).lower()}',
            hint="Put it back from the copy that was kept apart, or run this as a user who may read it."
            if isinstance(error, FileNotFoundError)
            else "Run this as a user who may read it, usually the one that runs PostgreSQL.",
        ) from None
    if mode & 0o007:
        raise NotPermitted(
            f'{what} "{path}" can be read or changed by everybody (mode {mode:04o})', hint=f"Close it: chmod o= {path}"
        )
    if len(data) > _FILE_BYTES_MAX:
        raise NotPermitted(f'{what} "{path}" is too large to be one')
    return data.decode("utf-8", "replace")


def _run(command: str, option: str) -> str:
    import shlex

    from pghaven.runtime.processes import run_program

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise NotPermitted(f"{option} cannot be split into words: {error}") from None
    try:
        result = run_program(words, timeout_seconds=_COMMAND_SECONDS)
    except NotFound as error:
        raise NotPermitted(f"{option} could not be run: {error.message}") from error
    if result.status != 0:
        # Only what it says of failing is passed on, never what it prints.
        raise NotPermitted(f"{option} failed: {result.complaint}", hint="Run it by hand to see what is wrong.")
    return result.stdout.decode("utf-8", "replace")
