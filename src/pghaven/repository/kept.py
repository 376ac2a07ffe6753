"""Snapshots of a cluster's file systems that are kept on its host, as far as a repository knows them.

The one idea: a snapshot alone cannot be recovered from, since what a backup's stop tells is not in it; that, with the
names of the volumes, is one small document here, beside the WAL that leads on from it. The document is written when
the snapshot is complete and removed after the snapshot, and whoever finds one looks whether the snapshot is there.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pghaven.errors import Damaged, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.entry import BackupEntry, BackupState, summarize
from pghaven.repository.manifest import BackupFacts, ConfigFile, parse_facts, render_facts
from pghaven.repository.repository import Repository
from pghaven.snapshot.driver import KINDS, Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSnapshot:
    """One kept snapshot of all ``volumes``. ``home`` is the data directory, and ``elsewhere`` are directories below it
    that lie on other volumes, by relative path; ``control`` is pg_control of just before the backup's stop."""

    facts: BackupFacts
    name: str
    volumes: tuple[Volume, ...]
    home: str
    elsewhere: Mapping[str, str]
    control: bytes
    config_files: tuple[ConfigFile, ...]
    first_segment: str
    last_segment: str

    @property
    def label(self) -> str:
        return self.facts.label

    @property
    def entry(self) -> BackupEntry:
        """As a backup that a restore can be planned from."""
        return BackupEntry(
            label=self.label,
            state=BackupState.COMMITTED,
            intent=None,
            last_sign=None,
            summary=summarize(self.facts, self.first_segment, self.last_segment),
        )


def name_snapshot(cluster: str, label: str) -> str:
    """The name that snapshots of all volumes get; the label says whose they are."""
    return f"pghaven-{cluster}-{label}"


def record_snapshot(repository: Repository, kept: KeptSnapshot) -> None:
    """Write it down. Raises ObjectExists, StoreUnreachable, NotPermitted."""
    body = {
        "facts": render_facts(kept.facts),
        "name": kept.name,
        "volumes": [[one.kind, one.source, one.root] for one in kept.volumes],
        "home": kept.home,
        "elsewhere": dict(kept.elsewhere),
        "control": _encode(kept.control),
        "config_files": [[one.role, one.path, one.mode, _encode(one.content)] for one in kept.config_files],
        "first_segment": kept.first_segment,
        "last_segment": kept.last_segment,
    }
    repository.create_document(layout.kept_snapshot_name(kept.facts.cluster, kept.label), body)


def list_kept(repository: Repository, cluster: str) -> tuple[KeptSnapshot, ...]:
    """All of them, oldest first. Raises StoreUnreachable, NotPermitted, Damaged naming one that cannot be read."""
    prefix = layout.kept_snapshots_prefix(cluster)
    found = []
    for child in sorted(repository.store.list_children(prefix)):
        try:
            found.append(_read(repository, cluster, child))
        except ObjectMissing:
            continue  # removed meanwhile
    return tuple(sorted(found, key=lambda one: (one.facts.started_at, one.label)))


def forget_snapshot(repository: Repository, cluster: str, label: str) -> None:
    """Remove what is known of it; that it was not there is fine."""
    repository.store.delete(layout.kept_snapshot_name(cluster, label))


def _read(repository: Repository, cluster: str, label: str) -> KeptSnapshot:
    name = layout.kept_snapshot_name(cluster, label)
    body = repository.read_document(name)
    try:
        kept = KeptSnapshot(
            facts=parse_facts(body["facts"]),
            name=str(body["name"]),
            volumes=tuple(Volume(kind=str(a), source=str(b), root=str(c)) for a, b, c in body["volumes"]),
            home=str(body["home"]),
            elsewhere={str(key): str(value) for key, value in body["elsewhere"].items()},
            control=base64.b64decode(body["control"], validate=True),
            config_files=tuple(_parse_config_file(row) for row in body["config_files"]),
            first_segment=str(body["first_segment"]),
            last_segment=str(body["last_segment"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f'"{name}" is no record of a snapshot ({error!r})') from error
    _check(kept, cluster, label, name)
    return kept


def _check(kept: KeptSnapshot, cluster: str, label: str, name: str) -> None:
    """What a record names is removed and written to by root: nothing but this snapshot may be named."""
    is_own = (kept.facts.cluster, kept.facts.label, kept.name) == (cluster, label, name_snapshot(cluster, label))
    places = (kept.home, *kept.elsewhere.values(), *(volume.root for volume in kept.volumes))
    is_plain = all(os.path.isabs(place) and os.path.normpath(place) == place for place in places)
    is_below = all(
        not os.path.isabs(relative) and os.path.normpath(relative) == relative and not relative.startswith("..")
        for relative in kept.elsewhere
    )
    is_named = all(volume.source and volume.kind in KINDS and volume.source[0] != "-" for volume in kept.volumes)
    if not (is_own and is_plain and is_below and is_named and kept.volumes):
        raise Damaged(f'"{name}" is not the record of snapshot "{label}": it names something else')


def _parse_config_file(row: Any) -> ConfigFile:
    role, path, mode, content = row
    return ConfigFile(
        role=str(role), path=str(path), mode=int(mode) & 0o777, content=base64.b64decode(content, validate=True)
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
