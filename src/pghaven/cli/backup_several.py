"""A backup or dump into several repositories: taken once, into the first that can be reached, and copied to the others.

The one idea: the server is read once, and its backup is over before anything goes to the next repository, however slow
that is. A copy is proven byte by byte and complete in itself, so it is as good as the first; and what a repository
missed while it was down is copied with the next backup, whichever of them it was. Only a host that
cannot read what it stores reads the server once for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from pghaven.cli.limiting import Limits
from pghaven.cli.opening import refresh_listing
from pghaven.cli.stored_in import StoredIn
from pghaven.errors import Cancelled, PghavenError, StoreUnreachable
from pghaven.events import Notice
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry, BackupState, Purpose
from pghaven.repository.repository import Repository
from pghaven.repository.rescuekit import write_kit
from pghaven.transfer.request import BackupFate, CopyRequest
from pghaven.transfer.session import run_copy

_THERE = (BackupFate.COPIED, BackupFate.PRESENT)
# What was once complete in a repository: one that its policy has expired is not brought back.
_SHARED = (BackupState.COMMITTED, BackupState.RETIRED)


class Made(Protocol):
    """What was made: its label, and the bytes it took in the repository that it was made in."""

    @property
    def label(self) -> str: ...

    @property
    def stored_bytes(self) -> int: ...


Result = TypeVar("Result", bound=Made)


def back_up(
    limits: Limits,
    request: CopyRequest,
    names: Sequence[str],
    take: Callable[[Repository], Result],
    purpose: Purpose = Purpose.BACKUP,
) -> tuple[Result, tuple[StoredIn, ...]]:
    """Have a backup, or a dump, in all of these repositories; raises what ``take`` raises if none has it.

    ``request`` says whose it is and with how many processes it is copied.
    """
    cluster = request.cluster
    left = list(names)
    missing: list[StoredIn] = []
    while True:
        name = left.pop(0)
        try:
            first, result = _take_into(limits, name, take)
            break
        except (_Unusable, StoreUnreachable) as error:
            reason = error.reason if isinstance(error, _Unusable) else error
            if not left or (isinstance(error, StoreUnreachable) and _can_open(limits, name)):
                raise reason from None
            missing.append(StoredIn(repository=name, label=None, reason=reason.message))
    for one in missing:
        _warn(limits, cluster, one, name, purpose)
    refresh_listing(first, cluster, limits)
    taken = _Taken(label=result.label, purpose=purpose, take=take)
    here = StoredIn(repository=name, label=result.label, copied_bytes=result.stored_bytes)
    found: list[StoredIn] = []
    for other in left:
        stored, opened = _have_too(limits, other, first, request, taken)
        found.append(stored if stored.label is not None else _warn(limits, cluster, stored, name, purpose))
        if opened is not None:
            here = _make_up(limits, (here, first), opened, request, taken)
    found.append(here)
    order = list(names)
    return result, tuple(sorted([*found, *missing], key=lambda one: order.index(one.repository)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """What the first repository has: ``take`` would do it once more."""

    label: str
    purpose: Purpose
    take: Callable[[Repository], Made]


class _Unusable(Exception):
    """A repository cannot even be opened, so nothing was begun."""

    def __init__(self, reason: PghavenError) -> None:
        super().__init__(reason.message)
        self.reason = reason


def _take_into(limits: Limits, name: str, take: Callable[[Repository], Result]) -> tuple[Repository, Result]:
    try:
        opened = limits.open(name)
        limits.watch(opened, name)
        write_kit(opened)
    except PghavenError as error:
        raise _Unusable(error) from error
    limits.watch(opened, name, keep=False)
    result = take(opened)
    limits.watch(opened, name)
    return opened, result


def _can_open(limits: Limits, name: str) -> bool:
    """Whether it is not the repository that has failed."""
    try:
        limits.open(name)
    except PghavenError:
        return False
    return True


def _have_too(
    limits: Limits, name: str, first: Repository, request: CopyRequest, taken: _Taken
) -> tuple[StoredIn, Repository | None]:
    """Copy it, or take it anew where this host cannot read what it has stored and so cannot copy it. The repository is
    given if it can be copied from."""
    is_readable = False
    try:
        opened = limits.open(name)
        limits.watch(opened, name)
        write_kit(opened)
        is_readable = first.keyring.can_read and opened.keyring.can_read
        if is_readable:
            stored = _copy_into(limits, (name, opened), first, request, taken)
        else:
            again = taken.take(opened)
            limits.watch(opened, name)
            stored = StoredIn(repository=name, label=again.label, copied_bytes=again.stored_bytes)
        refresh_listing(opened, request.cluster, limits)
    except Cancelled:
        raise
    except PghavenError as error:
        return StoredIn(repository=name, label=None, reason=error.message), None
    return stored, opened if is_readable else None


def _make_up(
    limits: Limits, to: tuple[StoredIn, Repository], other: Repository, request: CopyRequest, taken: _Taken
) -> StoredIn:
    """Copy to the first repository what it missed while it was down and another one was the first."""
    stored, first = to
    theirs, ours = (BackupCatalog(one, request.cluster) for one in (other, first))
    try:
        there = [one for one in theirs.list_committed(taken.purpose) if one.original != taken.label]
        labels = find_since_shared(there, ours.list_entries(taken.purpose))
        if not labels:
            return stored
        wanted = CopyRequest(cluster=request.cluster, labels=labels, processes=request.processes)
        copied = run_copy(other, first, wanted, limits)
        refresh_listing(first, request.cluster, limits)
    except Cancelled:
        raise
    except PghavenError as error:
        text = f'repository "{stored.repository}" still lacks what it has missed: {error.message}'
        hint = f"The next {taken.purpose} copies it there again."
        limits(Notice(level="warning", code="repository_failed", text=text, hint=hint))
        return stored
    made_up = tuple(one.label for one in copied.backups if one.fate is BackupFate.COPIED)
    size = sum(one.copied_bytes for one in copied.backups)
    return replace(stored, made_up=(*stored.made_up, *made_up), copied_bytes=stored.copied_bytes + size)


def _copy_into(
    limits: Limits, to: tuple[str, Repository], first: Repository, request: CopyRequest, taken: _Taken
) -> StoredIn:
    (name, opened), label, purpose = to, taken.label, taken.purpose
    catalogs = [BackupCatalog(one, request.cluster) for one in (first, opened)]
    labels = find_missed(catalogs[0].list_committed(purpose), catalogs[1].list_entries(purpose), label)
    wanted = CopyRequest(cluster=request.cluster, labels=labels, processes=request.processes)
    copied = run_copy(first, opened, wanted, limits)
    for file_name, reason in copied.wal.failed[:1]:
        text = f'WAL is not copied to repository "{name}": "{file_name}": {reason}'
        limits(Notice(level="warning", code="wal_not_copied", text=text))
    outcome = next(one for one in copied.backups if one.label == label)
    is_there = outcome.fate in _THERE
    return StoredIn(
        repository=name,
        label=outcome.copy if is_there else None,
        copied_bytes=sum(one.copied_bytes for one in copied.backups),
        made_up=tuple(one.label for one in copied.backups if one.label != label and one.fate is BackupFate.COPIED),
        reason=None if is_there else f"{outcome.fate}: {outcome.reason}",
    )


def find_missed(ours: Sequence[BackupEntry], theirs: Sequence[BackupEntry], newest: str) -> tuple[str, ...]:
    """The new backup, and those before it that the other repository has missed: since the last one they share.

    Where they share none, somebody has just added it; what is older is for ``pghaven repo copy``. What was begun there
    and not completed is not shared.
    """
    missed = find_since_shared([entry for entry in ours if entry.label != newest], theirs)
    return (*missed, newest)


def find_since_shared(ours: Sequence[BackupEntry], theirs: Sequence[BackupEntry]) -> tuple[str, ...]:
    """What of ours, oldest first, came after the last one that they have too; empty where they have none of them."""
    known = {entry.original for entry in theirs if entry.state in _SHARED}
    missed: list[str] = []
    for entry in reversed(ours):
        if entry.original in known:
            return tuple(reversed(missed))
        missed.append(entry.label)
    return ()


def _warn(limits: Limits, cluster: str, stored: StoredIn, source: str, purpose: Purpose) -> StoredIn:
    what = "dump" if purpose is Purpose.DUMP else "backup"
    text = f'repository "{stored.repository}" has not got the {what}: {stored.reason}'
    copy = f"pghaven repo copy {cluster} --from {source} --to {stored.repository}"
    hint = f"The next {what} goes there again. To have this one there too, run: {copy}"
    limits(Notice(level="warning", code="repository_failed", text=text, hint=hint))
    return stored
