"""Why each pack is kept: which backups read it, how much of it, and what else holds it.

The one idea: the same facts that decide what a collector removes, told pack by pack.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pghaven.repository import layout
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.collectplan import LIVE, find_sources, why_all_packs_stay
from pghaven.repository.entry import BackupEntry
from pghaven.repository.relocate import LiveBytes, PackLine
from pghaven.units import render_time

_NAMED = 3
_Key = tuple[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackUse:
    """One stored pack. ``live_bytes`` of its ``plain_bytes`` are in use by ``backups``; both None if no manifest names
    it. ``reason`` says in words why it stays, or that nothing keeps it."""

    label: str
    id: str
    size_bytes: int
    plain_bytes: int | None
    live_bytes: int | None
    backups: tuple[str, ...]
    reason: str


def explain_packs(catalog: BackupCatalog) -> tuple[PackUse, ...]:
    """Every pack of a cluster, by who wrote it. Reads all manifests, one at a time. Raises Damaged."""
    prefix = layout.packs_prefix(catalog.cluster)
    stored: dict[_Key, int] = {}
    for info in catalog.repository.store.list(prefix):
        if (key := layout.parse_pack_name(info.name.removeprefix(prefix))) is not None:
            stored[key] = info.size_bytes
    entries = {entry.label: entry for entry in catalog.list_labels()}
    line = PackLine()
    live = LiveBytes(line)
    users: defaultdict[_Key, list[str]] = defaultdict(list)
    earlier: defaultdict[_Key, list[str]] = defaultdict(list)
    for entry in entries.values():
        if entry.state not in LIVE or not entry.has_files:
            continue
        newest, *superseded = catalog.iter_manifests(entry)
        manifest = catalog.load_manifest(entry, newest)
        line.add(manifest.packs)
        live.add(manifest.block_map, manifest.packs)
        for pack in manifest.packs:
            users[pack.label, pack.id].append(entry.label)
        for place in superseded:
            for pack in catalog.load_pack_table(entry, place):
                earlier[pack.label, pack.id].append(entry.label)
    in_use = live.bytes_of_sparse()
    plain = line.packs.plain_length
    sources = find_sources(entries.values())
    found = []
    for key, size_bytes in sorted(stored.items()):
        number = line.find(*key)
        found.append(
            PackUse(
                label=key[0],
                id=key[1].hex(),
                size_bytes=size_bytes,
                plain_bytes=None if number is None else int(plain[number]),
                live_bytes=None if number is None else in_use.get(number, 0),
                backups=tuple(users[key]),
                reason=_explain(entries, sources, key[0], (users[key], earlier[key])),
            )
        )
    return tuple(found)


def _explain(
    entries: Mapping[str, BackupEntry],
    sources: Mapping[str, str],
    label: str,
    needed_by: tuple[Sequence[str], Sequence[str]],
) -> str:
    users, earlier = needed_by
    if users:
        return _name(users, entries) + _describe_holds([entries[one] for one in users])
    if stays := why_all_packs_stay(label, entries.get(label), sources):
        return stays
    if earlier:
        return f"was written anew, and stays for a while for who reads {_name(earlier, entries)} from it"
    return "nothing needs it: pghaven expire removes it"


def _name(labels: Sequence[str], entries: Mapping[str, BackupEntry]) -> str:
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f"{entries[labels[-1]].purpose} {', '.join(labels[-_NAMED:])}{more}"


def _describe_holds(entries: Sequence[BackupEntry]) -> str:
    held = [entry for entry in entries if entry.hold is not None]
    if held and held[0].hold is not None:
        return f"; {held[0].label} is held: {held[0].hold.reason}"
    until = [entry.retirement.not_before for entry in entries if entry.retirement is not None]
    if len(until) == len(entries):
        return f", expired, which can be brought back until {render_time(max(until))}"
    return ""
