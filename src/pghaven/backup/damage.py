"""Pages that failed their checksum: torn while they were read, or damaged for good.

The one idea: a page changed after the backup's start is written whole by WAL replay, so it may be torn here, and its
LSN says whether that is so. An LSN beyond the backup's stop cannot be: then the page's header itself is damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pghaven.backup.listing import Listing
from pghaven.backup.pagecheck import SuspectPage
from pghaven.events import Listener, Notice
from pghaven.postgres.lsn import Lsn
from pghaven.repository.manifest import BadPage

# (tablespace OID, database OID, file node) of a relation's files, as pg_class knows it -> database.schema.name
RelationKey = tuple[int, int, int]
RelationNames = dict[RelationKey, str]
_GLOBAL_TABLESPACE = 1664
_DEFAULT_TABLESPACE = 1663


def find_relations(suspects: Iterable[SuspectPage], listing: Listing) -> set[RelationKey]:
    """The relations that pages in doubt belong to: the only ones whose names are needed."""
    return {relation_key(listing.relative_path(page.file)) for page in suspects}


def judge_suspects(
    suspects: Iterable[SuspectPage],
    listing: Listing,
    span: tuple[Lsn, Lsn],
    names: Mapping[tuple[int, int, int], str],
    listener: Listener,
) -> tuple[BadPage, ...]:
    """The pages that are damaged for good, each also told to the listener. ``span`` is the backup's start and stop."""
    bad = []
    start, stop = span
    for page in suspects:
        if start <= page.lsn <= stop:
            continue
        path = listing.relative_path(page.file)
        relation = names.get(relation_key(path))
        bad.append(BadPage(path=path, block=page.block, lsn=str(Lsn(page.lsn)), relation=relation))
        where = f'relation "{relation}", file "{path}"' if relation else f'file "{path}"'
        text = f"damaged page: {where}, block {page.block} (LSN {Lsn(page.lsn)}): its checksum is wrong"
        hint = "The server's own data is damaged. Keep older backups: they may hold this page whole."
        listener(Notice(level="warning", code="bad_page", text=text, hint=hint))
    return tuple(bad)


def relation_key(path: str) -> tuple[int, int, int]:
    """(tablespace OID, database OID, file node) of a relation file's path, as pg_class and the server know it."""
    parts = path.split("/")
    node = int(parts[-1].partition(".")[0].partition("_")[0])
    if parts[0] == "global":
        return _GLOBAL_TABLESPACE, 0, node
    if parts[0] == "base":
        return _DEFAULT_TABLESPACE, int(parts[1]), node
    return int(parts[1]), int(parts[3]), node
