"""``pghaven repo accept``: go on from a repository that is in an older state than this host has seen.

The one idea: what is lost by that is told first, and nothing in the repository is changed: a host forgets what it saw.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pghaven.cli.asking import ask_passphrase
from pghaven.cli.invocation import Invocation
from pghaven.cli.opening import find_memory, find_place
from pghaven.errors import Refused, StoreUnreachable

if TYPE_CHECKING:
    from pghaven.repository.keyset import KeySet
    from pghaven.repository.memory import HostMemory
    from pghaven.repository.place import RepositoryPlace
    from pghaven.repository.repository import Repository


@click.command("accept")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Accept the older state; without this it is only shown.")
@click.pass_obj
def command(invocation: Invocation, name: str, yes: bool) -> int:
    """Have this host go on from repository NAME as it is, although it has seen a later state of it.

    That is right after the repository was brought back from a snapshot or a copy, and wrong where somebody else may
    have replaced it: what was removed may then be there again, and keys that were taken away open it. Without --yes
    shows what is older, and ends with 12. Changes nothing but what this host remembers.
    """
    from pghaven.repository.older import accept, find_older
    from pghaven.repository.place import open_place

    memory = find_memory(invocation.config, name)
    place = find_place(invocation.config, name)
    with invocation.reporter:
        repository = open_place(replace(place, memory=None), ask=ask_passphrase)
        key_set = _load_key_set(place) if repository.descriptor.is_sealed else None
        older = _find_older_keys(memory, repository, key_set)
        for cluster in sorted(memory.load(repository.id).clusters):
            older += [f'of cluster "{cluster}": {one}' for one in find_older(memory, repository, cluster)]
        if older and not yes:
            raise Refused(
                f'repository "{name}" is in an older state than this host has seen: {"; ".join(older)}',
                hint=f"To go on from it all the same: pghaven repo accept {name} --yes",
            )
        if reason := accept(memory, repository, key_set):
            raise StoreUnreachable(reason)
    text = f"repository {name} is accepted as it is"
    lines = [f"  no longer expected: {one}" for one in older] or ["  nothing in it is older than this host has seen"]
    return invocation.show("repo-accept", {"repository": name, "older": older}, "\n".join([text, *lines]) + "\n")


def _load_key_set(place: RepositoryPlace) -> KeySet:
    from pghaven.repository.repository import open_keys
    from pghaven.store.open import open_store

    return open_keys(open_store(place.store)).load()


def _find_older_keys(memory: HostMemory, repository: Repository, key_set: KeySet | None) -> list[str]:
    from pghaven.repository.memory import compare_key_set

    if key_set is None:
        return []
    older = compare_key_set(memory.load(repository.id), key_set)
    return [] if older is None else [f"its keys {older}"]
