"""Snapshots of a cluster's file systems that are kept on its host, as far as a repository knows them.

The one idea: a snapshot alone cannot be recovered from, since what a backup's stop tells is not in it; that, with the
names of the volumes, is one small document here, beside the WAL that leads on from it. The document is written when
the snapshot is complete and removed after the snapshot, and whoever finds one looks whether the snapshot is there.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pghaven.errors import Damaged, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.entry import BackupEntry, BackupState, summarize
from pghaven.repository.manifest import BackupFacts, ConfigFile, parse_facts, render_facts
from pghaven.repository.repository import Repository
from pghaven.snapshot.driver import Volume


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
        facts = parse_facts(body["facts"])
        return KeptSnapshot(
            facts=facts,
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


def _parse_config_file(row: Any) -> ConfigFile:
    role, path, mode, content = row
    return ConfigFile(
        role=str(role), path=str(path), mode=int(mode) & 0o777, content=base64.b64decode(content, validate=True)
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
