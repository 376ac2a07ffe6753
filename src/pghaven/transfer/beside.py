"""What goes with a lineage beside its backups and its archive: WAL in quarantine, and what happened to its WAL.

The one idea: these are few, never change, and have names that follow from their contents, so what the target has of
them by name it need not be given again. Results of verifications and audits do not go along: they speak of the objects
of one repository, and what is said of these is not true of copies.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pghaven.errors import Damaged, ObjectExists, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.container import Kind
from pghaven.repository.recast import Binding, recast_file
from pghaven.repository.repository import Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideOutcome:
    """``quarantined`` files and ``incidents`` that were copied, or would be; ``failed`` are (name, reason)."""

    quarantined: int = 0
    incidents: int = 0
    failed: tuple[tuple[str, str], ...] = ()


def carry_beside(
    source: Repository, target: Repository, cluster: str, systems: Collection[int], *, dry_run: bool = False
) -> BesideOutcome:
    """Copy what the target lacks; each file in quarantine is proven on the way.

    Raises StoreUnreachable, NotPermitted. What is damaged in the source is told and passed over.
    """
    copied = {"quarantine": 0, "incidents": 0}
    failed: list[tuple[str, str]] = []
    for kind, prefix in _list_prefixes(cluster, systems):
        there = {info.name for info in target.store.list(prefix)}
        for info in tuple(source.store.list(prefix)):
            if info.name in there:
                continue
            try:
                if not dry_run:
                    (_carry_file if kind == "quarantine" else _carry_document)(source, target, info.name)
            except ObjectMissing:
                continue  # removed meanwhile
            except Damaged as error:
                failed.append((info.name, error.message))
            else:
                copied[kind] += 1
    return BesideOutcome(quarantined=copied["quarantine"], incidents=copied["incidents"], failed=tuple(failed))


def _list_prefixes(cluster: str, systems: Collection[int]) -> list[tuple[str, str]]:
    found = []
    for system in sorted(systems):
        found.append(("quarantine", f"{layout.quarantine_prefix(cluster)}{system}/"))
        found.append(("incidents", layout.incidents_prefix(cluster, system)))
    return found


def _carry_file(source: Repository, target: Repository, name: str) -> None:
    file_name = name.rpartition("/")[2].rpartition("-")[0]
    container = source.read_container(name, Kind.WAL)
    try:
        finished = recast_file(
            container, file_name, Binding(context=target.context(name).encode(), keyring=target.keyring)
        )
    except Damaged as error:
        raise Damaged(f'"{name}" is damaged: {error.message}') from error
    try:
        target.create_container(name, finished)
    except ObjectExists:
        target.store.confirm(name)  # a rival was faster; the hash of the contents is in the name


def _carry_document(source: Repository, target: Repository, name: str) -> None:
    body = source.read_document(name)
    try:
        target.create_document(name, body)
    except ObjectExists:
        target.store.confirm(name)  # it tells of the same, as it was seen there
