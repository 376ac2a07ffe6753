"""``pghaven repo key``: the keys of a sealed repository and the slots that open them.

The one idea: every change needs a key that reads, is one write, and ends by listing what there is then. Keys and
passphrases come from files, commands and the terminal, and go to files; never from or to a command line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pghaven.cli.invocation import Invocation
from pghaven.errors import PghavenError, UsageError

if TYPE_CHECKING:
    from pghaven.repository.keys import NewSlot, RepositoryKeys
    from pghaven.repository.keyset import KeySet, OpenedKeys
    from pghaven.repository.keytext import KeyText
    from pghaven.repository.place import RepositoryPlace

_WAYS = ("key_file", "passphrase", "passphrase_file", "passphrase_command", "recipients")
_REPOSITORY = click.option("--repository", metavar="NAME", help="Which one; needed if several are configured.")


@click.group("key", no_args_is_help=True)
def key_group() -> None:
    """The keys of a sealed repository, and who can open them."""


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """A repository, its keys, and when they were opened what with."""

    place: RepositoryPlace
    keys: RepositoryKeys

    def open(self) -> tuple[OpenedKeys, KeyText]:
        from pghaven.cli.asking import ask_passphrase
        from pghaven.repository.keysource import find_key, read_material
        from pghaven.repository.place import prepare_for_keys

        prepare_for_keys()
        key_set = self.keys.load()
        material = read_material(self.place.key, ask_passphrase)
        key = find_key(key_set, material)
        opened = self.keys.open_with(key_set, key)
        self.pin(key_set)
        return opened, key

    def pin(self, key_set: KeySet) -> None:
        """Compare a set with what this host has seen, and remember it. Raises Refused for an older one."""
        from pghaven.repository.memory import check_key_set

        if self.place.memory is not None:
            check_key_set(self.place.memory, self.keys.repository_id, key_set, self.keys.url)


def _choose(invocation: Invocation, name: str | None) -> _Chosen:
    from pghaven.cli.opening import find_place
    from pghaven.repository.repository import open_keys
    from pghaven.store.open import open_store

    config = invocation.config
    if name is None and len(config.repositories) != 1:
        raise UsageError("several repositories are configured; name one of them with --repository")
    place = find_place(config, name or next(iter(config.repositories)))
    return _Chosen(place=place, keys=open_keys(open_store(place.store)))


@key_group.command("list")
@_REPOSITORY
@click.pass_obj
def list_command(invocation: Invocation, repository: str | None) -> int:
    """List the slots. Needs no key, and so proves nothing: "check" does."""
    chosen = _choose(invocation, repository)
    return _show(invocation, chosen, chosen.keys.load())


@key_group.command("check")
@_REPOSITORY
@click.pass_obj
def check_command(invocation: Invocation, repository: str | None) -> int:
    """Prove that the key that is configured here opens the repository, and that its keys are stored whole.

    Ends with 13 when the key opens nothing, with 16 when what is stored is not what was written, with 3 when one of the
    two copies of the keys is damaged.
    """
    from pghaven.cli.render import render_block
    from pghaven.events import Notice
    from pghaven.units import render_time

    chosen = _choose(invocation, repository)
    with invocation.reporter as listener:
        opened, _ = chosen.open()
        for name, flaw in chosen.keys.find_flaws(opened.key_set.number).items():
            hint = "The next change of the keys writes them anew: pghaven repo key rotate"
            text = flaw if name in flaw else f'"{name}": {flaw}'
            listener(Notice(level="warning", code="key_copy", text=text, hint=hint))
    body = {
        "repository": chosen.place.name,
        "url": chosen.place.url,
        "slot": opened.slot.name,
        "access": opened.slot.access,
        "key_set": opened.key_set.number,
        "data_keys": [key_id.hex() for key_id in opened.keyring.keys],
    }
    reads = "everything can be read and written" if opened.keyring.can_read else "backups and WAL can only be written"
    pairs: list[tuple[str, object]] = [
        ("slot", f"{opened.slot.name} ({opened.slot.kind}): {reads}"),
        ("data keys", f"{len(opened.keyring.keys)}"),
        ("keys written", f"{render_time(_moment(opened.key_set))}, set {opened.key_set.number}"),
    ]
    text = f"the key of repository {chosen.place.name} is right\n" + render_block(pairs, indent="  ")
    return invocation.show("repo-key-check", body, text)


@key_group.command("add")
@click.argument("slot")
@click.option("--key-file", metavar="FILE", help="Make a key and write it to this file, which must not exist yet.")
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase at the terminal.")
@click.option("--passphrase-file", metavar="FILE", help="The first line of this file is the passphrase.")
@click.option("--passphrase-command", metavar="COMMAND", help="What this command prints is the passphrase.")
@click.option("--recipient", "recipients", metavar="AGE", multiple=True, help="An age recipient; several are fine.")
@click.option("--writer", is_flag=True, help="A key for a host that writes, and can read nothing of what is stored.")
@_REPOSITORY
@click.pass_obj
def add_command(invocation: Invocation, /, *, slot: str, repository: str | None, **ways: Any) -> int:
    """Add SLOT: one more way to open the repository, by a key file, a passphrase, or age."""
    from pghaven.repository.keytext import Access

    if len([name for name in _WAYS if ways[name]]) != 1:
        raise UsageError(
            "one way to open the slot must be given",
            hint="One of --key-file, --passphrase, --passphrase-file, --passphrase-command, --recipient.",
        )
    chosen = _choose(invocation, repository)
    opened, key = chosen.open()
    new = _make_slot(slot, Access.WRITER if ways["writer"] else Access.READER, key.anchor, ways)
    path = ways["key_file"]
    if path is not None:
        from pghaven.setup.sealing import write_key_file

        # Before the slot is there, so that no slot is without its key.
        write_key_file(path, new.key, chosen.place.url, slot)
    try:
        key_set = chosen.keys.add(opened, key, new)
        chosen.pin(key_set)
    except PghavenError:
        if path is not None:
            with suppress(OSError):
                os.unlink(path)
        raise
    return _show(invocation, chosen, key_set, f"slot {slot} was added" + (f", its key is in {path}" if path else ""))


def _make_slot(name: str, access: Any, anchor: bytes, ways: dict[str, Any]) -> NewSlot:
    from pghaven.repository.keys import NewSlot
    from pghaven.repository.keyslot import SlotKind, carry_to_age, carry_under_passphrase, check_slot_name, make_key
    from pghaven.repository.keysource import KeySource, read_material

    check_slot_name(name)
    key = make_key(access, anchor)
    if ways["key_file"] is not None:
        return NewSlot(name=name, kind=SlotKind.KEY, access=access, key=key)
    if ways["recipients"]:
        carried = carry_to_age(key, ways["recipients"])
        return NewSlot(name=name, kind=SlotKind.AGE, access=access, key=key, carried=carried)
    if ways["passphrase"]:
        from pghaven.cli.asking import ask_new_passphrase

        passphrase = ask_new_passphrase()
    else:
        source = KeySource(passphrase_file=ways["passphrase_file"], passphrase_command=ways["passphrase_command"])
        passphrase = read_material(source).passphrase
    if passphrase is None:
        raise UsageError("there is no terminal to ask for a passphrase", hint="Use --passphrase-file FILE.")
    carried = carry_under_passphrase(key, passphrase)
    return NewSlot(name=name, kind=SlotKind.PASSPHRASE, access=access, key=key, carried=carried)


@key_group.command("remove")
@click.argument("slot")
@_REPOSITORY
@click.pass_obj
def remove_command(invocation: Invocation, slot: str, repository: str | None) -> int:
    """Remove SLOT.

    Who had its key may have copied the data keys; from what is written later "rotate" keeps him.
    """
    from pghaven.events import Notice

    chosen = _choose(invocation, repository)
    with invocation.reporter as listener:
        opened, key = chosen.open()
        key_set, is_gone = chosen.keys.remove(opened, key, slot)
        chosen.pin(key_set)
        if not is_gone:
            text = "the store does not let older key sets be removed, in which the slot still is"
            listener(Notice(level="warning", code="old_key_sets", text=text, hint="Rotate: pghaven repo key rotate"))
        readers = [one.name for one in key_set.slots if one.access == "reader"]
        if len(readers) == 1:
            text = f"{readers[0]} is the only slot that reads now: whoever loses its key loses everything"
            hint = "Have another key, and keep it apart from this host: pghaven repo key add recovery --key-file FILE"
            listener(Notice(level="info", code="one_slot", text=text, hint=hint))
    return _show(invocation, chosen, key_set, f"slot {slot} was removed")


@key_group.command("rotate")
@_REPOSITORY
@click.pass_obj
def rotate_command(invocation: Invocation, repository: str | None) -> int:
    """Make a new data key for what is written from now on. What is stored stays as it is, and readable."""
    chosen = _choose(invocation, repository)
    opened, key = chosen.open()
    key_set = chosen.keys.rotate(opened, key)
    chosen.pin(key_set)
    return _show(invocation, chosen, key_set, "there is a new data key")


def _show(invocation: Invocation, chosen: _Chosen, key_set: KeySet, done: str | None = None) -> int:
    from pghaven.cli.render import render_table
    from pghaven.units import parse_time_utc, render_time

    slots = [
        {"name": one.name, "kind": one.kind, "access": one.access, "added_at": parse_time_utc(one.added_at)}
        for one in key_set.slots
    ]
    body = {
        "repository": chosen.place.name,
        "url": chosen.place.url,
        "key_set": key_set.number,
        "written_at": _moment(key_set),
        "slots": slots,
    }
    rows: list[Sequence[object]] = [
        (one.name, one.kind, "reads and writes" if one.access == "reader" else "only writes", render_time(moment))
        for one, moment in ((one, parse_time_utc(one.added_at)) for one in key_set.slots)
    ]
    table = render_table(["slot", "kind", "access", "added"], rows)
    return invocation.show("repo-key-list", body, (f"{done}\n" if done else "") + table)


def _moment(key_set: KeySet) -> Any:
    from pghaven.units import parse_time_utc

    return parse_time_utc(key_set.written_at)
