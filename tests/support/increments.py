"""Backups that build on another, of made-up data directories: by the real planner and the real workers.

The one idea: pages say in their LSN and their contents which step they are of, so what a backup must hold, and what it
may keep of its parent, is known page by page.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from pghaven.backup.changes import ChangePlan, Ground, plan_changes
from pghaven.backup.counterparts import match_files
from pghaven.backup.listing import Listing
from pghaven.backup.parentpages import hash_parent_pages
from pghaven.postgres.page import checksums
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.manifest import Manifest
from pghaven.repository.pack import PackPlace
from pghaven.repository.repository import Repository
from pghaven.server.changed import ChangedBlocks
from tests.support.synthetic import (
    PAGE,
    BackupOrder,
    MakePlan,
    SourceTree,
    archive_wal,
    commit,
    make_intent,
    store_files,
)

ALL_VISIBLE = 0x0004
DATABASES = {5: "731"}
"""As ``synthetic.make_facts`` has them."""


def make_page(block: int, lsn: int, body: bytes, *, flags: int = 0, size: int = PAGE) -> bytes:
    """A page with a right checksum; ``body`` is repeated in it. ``block`` counts within the relation."""
    page = bytearray(size)
    page[0:4] = (lsn >> 32).to_bytes(4, "little")
    page[4:8] = (lsn & 0xFFFFFFFF).to_bytes(4, "little")
    for at, number in ((10, flags), (12, 40), (14, 64), (16, size), (18, size | 4)):
        page[at : at + 2] = number.to_bytes(2, "little")
    page[64:] = (body * (size // len(body)))[: size - 64]
    checksum = int(checksums(page, np.array([block], np.uint32), block_size=size)[0])
    page[8:10] = checksum.to_bytes(2, "little")
    return bytes(page)


def write(source: SourceTree, name: str, content: bytes | None) -> SourceTree:
    """The same directory with a file of other contents, or without it; the directories it needs are there already."""
    path = source.data_directory / name
    files = dict(source.files)
    if content is None:
        path.unlink()
        del files[name]
    else:
        path.write_bytes(content)
        files[name] = content
    return replace(source, files=files)


def put_pages(source: SourceTree, name: str, pages: Mapping[int, bytes]) -> SourceTree:
    """The same directory with some pages of a file replaced, or added, by their number within the file."""
    path = Path(source.data_directory, name)
    content = bytearray(path.read_bytes() if path.exists() else b"")
    for block, page in pages.items():
        start = block * len(page)
        content.extend(bytes(max(start + len(page) - len(content), 0)))
        content[start : start + len(page)] = page
    return write(source, name, bytes(content))


def build_on(
    parent: Manifest,
    *,
    changed: ChangedBlocks | None = None,
    untouched: Collection[str] = (),
    databases: Mapping[int, str] | None = None,
    marks_logged: bool = True,
    place: PackPlace | None = None,
) -> MakePlan:
    """Makes the plan of a backup with this parent. ``untouched`` are files known to be so by their time stamps;
    without a ``place`` its packs are not asked what its pages were."""

    def make(listing: Listing) -> ChangePlan:
        names = [listing.relative_path(number) for number in range(len(listing.size))]
        ground = Ground(
            parent=parent,
            since=parent.facts.start_lsn,
            changed=changed,
            counterpart=match_files(listing, parent.files),
            untouched=np.array([name in untouched for name in names], np.bool_),
            databases=DATABASES if databases is None else databases,
            marks_logged=marks_logged,
            hash_pages=(lambda _: {}) if place is None else partial(hash_parent_pages, place, parent),
        )
        return plan_changes(listing, ground)

    return make


def take_increment(
    repository: Repository,
    source: SourceTree,
    order: BackupOrder,
    make_plan: MakePlan,
    before_reading: Callable[[], None] = lambda: None,
) -> Manifest:
    """Like ``synthetic.take_backup``, by a plan that goes on from a parent."""
    catalog = BackupCatalog(repository, order.cluster)
    catalog.announce(order.label, make_intent(order))
    manifest = store_files(catalog, source, order, before_reading, make_plan)
    archive_wal(repository, order)
    return commit(catalog, manifest, order)
