"""Whether a store keeps its promises: tried, because an object store's depend on who runs it and how.

The one idea: one small object that is never removed. It is created, and then created again with other content, which
must be refused and change nothing; so a probe leaves nothing behind, and may be repeated under keys that cannot delete.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from pghaven.errors import ObjectExists, ObjectMissing, Refused
from pghaven.store.api import Store
from pghaven.store.metered import find_server_store

KEPT = "a taken name is not given again, what was written is read and listed at once"
_CONTENT = b"pghaven tries with this object whether a name can be taken twice.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """``refuses_second``: a taken name is not given again. ``reads_written`` and ``lists_written``: at once."""

    refuses_second: bool
    reads_written: bool
    lists_written: bool

    @property
    def keeps_promises(self) -> bool:
        return self.refuses_second and self.reads_written and self.lists_written

    def list_failures(self) -> Iterator[str]:
        """What is not kept, in words."""
        if not self.refuses_second:
            yield "it lets a second writer replace an object (If-None-Match is not honoured)"
        if not self.reads_written:
            yield "what was written is not read back at once"
        if not self.lists_written:
            yield "what was written is not listed at once"


def probe_store(store: Store, name: str) -> Probe | None:
    """Try a store, by an object of this name; None for one that needs no trying, such as a directory.

    Raises StoreUnreachable, NotPermitted.
    """
    server = find_server_store(store)
    if server is None or server.has_single_writer:
        return None
    second = _CONTENT + os.urandom(8).hex().encode()
    refuses = _is_refused(store, name, _CONTENT, may_be_new=True) and _is_refused(store, name, second)
    try:
        content = store.read(name)
    except ObjectMissing:
        content = b""
    parent, _, child = name.rpartition("/")
    return Probe(
        refuses_second=refuses and content != second,
        reads_written=content.startswith(_CONTENT),
        lists_written=child in store.list_children(f"{parent}/" if parent else ""),
    )


def _is_refused(store: Store, name: str, content: bytes, *, may_be_new: bool = False) -> bool:
    try:
        store.create(name, [content])
    except ObjectExists:
        return True
    except Refused:  # it does not even know the condition
        return False
    return may_be_new


def require_promises(store: Store, name: str) -> Probe | None:
    """As ``probe_store``. Raises Refused for a store that fails the probe, with what can be done."""
    probe = probe_store(store, name)
    if probe is not None and not probe.keeps_promises:
        raise Refused(
            f"{store.url} cannot be shared: {'; '.join(probe.list_failures())}",
            detail="Two hosts, or two commands on one, could replace each other's objects without noticing.",
            hint="If no two of them ever write at once, say so: set single_writer = true for this repository.",
        )
    return probe
