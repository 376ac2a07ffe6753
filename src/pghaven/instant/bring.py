"""Planning a restore from a kept snapshot, with the repository's WAL leading on from it.

The one idea: the plan is the same as of any restore, and so is what becomes of it; only the files come from beside.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pghaven.backup.frozen import relocate
from pghaven.errors import Refused, UsageError
from pghaven.instant.points import Point, PointState
from pghaven.repository.blockmap import BlockMap
from pghaven.repository.kept import KeptSnapshot
from pghaven.repository.manifest import HASH_BYTES, FileColumns, Manifest
from pghaven.repository.repository import Repository
from pghaven.restore.given import plan_given
from pghaven.restore.places import has_control, read_unfinished, refuse_running
from pghaven.restore.request import RestorePlan, RestoreRequest, Root
from pghaven.runtime.names import Names
from pghaven.snapshot.mounts import find_mount
from pghaven.units import render_size


def require_usable(point: Point) -> KeptSnapshot:
    """Raises Refused for one that nothing can be restored from, saying why."""
    if point.kept is None or point.state is not PointState.GOOD:
        raise Refused(
            f'nothing can be restored from snapshot "{point.label}": it is {point.state}: {point.reason}',
            hint="`pghaven snapshot list` shows the others, `pghaven restore` takes a backup of the repository.",
        )
    return point.kept


def plan_from_snapshot(
    repository: Repository, request: RestoreRequest, kept: KeptSnapshot, others: Sequence[Repository]
) -> RestorePlan:
    """Raises what ``plan_restore`` raises, and Refused for a data directory that is in use: also the cluster's own."""
    target = request.target_dir
    if request.delta:
        raise UsageError(
            "--delta compares with a backup of the repository, and --from-snapshot takes none",
            hint=_advise_aside(target),
        )
    refuse_running(target)
    if has_control(target) and read_unfinished(target) is None:
        raise Refused(
            f'"{target}" holds a cluster, and files from a snapshot are not put over it', hint=_advise_aside(target)
        )
    if read_unfinished(target) is not None:
        raise Refused(
            f'"{target}" holds what an interrupted restore left, and files from a snapshot are not put over it',
            hint=f'Remove it ("rm -r {target}", and what lies in the directories of its tablespaces), and run the same '
            "command again.",
        )
    plan = plan_given(repository, request, (kept.entry, make_manifest(kept)), others)
    return replace(plan, repositories=())


def _advise_aside(target: str) -> str:
    return (
        f'Move what is there aside ("mv {target} {target}.old", with the server stopped), and run the same command '
        "again: where the file system can, files share their blocks with the snapshot, so it takes seconds and no room."
    )


def plan_clone(
    repository: Repository, request: RestoreRequest, kept: KeptSnapshot, others: Sequence[Repository]
) -> RestorePlan:
    """As ``plan_from_snapshot``, for ``put_clone_in_place``: tablespaces go where their volumes' clones are."""
    bare = replace(kept, facts=replace(kept.facts, tablespaces=()))
    plan = plan_given(repository, request, (kept.entry, make_manifest(bare)), others)
    roots = tuple(replace(root, needed_bytes=0) for root in plan.roots)
    return replace(plan, manifest=make_manifest(kept), roots=roots, is_cloned=True)


def refuse_little_space(plan: RestorePlan, kept: KeptSnapshot) -> None:
    """Raises Refused where a copy on another file system has no room."""
    for root in plan.roots[:1]:
        above = root.path
        while not os.path.exists(above):
            above = os.path.dirname(above)
        # Directories of two subvolumes differ in st_dev, and share blocks all the same.
        device = find_mount(above).device
        is_shared = any(one.kind != "lvm" and find_mount(one.root).device == device for one in kept.volumes)
        if not is_shared and root.free_bytes is not None and root.free_bytes < kept.facts.total_bytes:
            raise Refused(
                f'"{root.path}" has room for {render_size(root.free_bytes)}, and snapshot "{kept.label}" holds '
                f"{render_size(kept.facts.total_bytes)}",
                hint="Make room, or restore to a directory on the snapshot's own file system.",
            )


def put_clone_in_place(plan: RestorePlan, kept: KeptSnapshot, parts: tuple[tuple[str, str], ...]) -> RestorePlan:
    """The plan for clones at ``parts``: the data directory may lie below the place of its volume's clone."""
    home = relocate(kept.home, parts)
    tablespaces = {f"pg_tblspc/{one.oid}": one for one in kept.facts.tablespaces}
    roots = [Root(prefix="", path=home, needed_bytes=0, free_bytes=None)]
    for relative, place in kept.elsewhere.items():
        if relative in tablespaces:
            path = relocate(place, parts)
            roots.append(Root(prefix=relative, path=path, needed_bytes=0, free_bytes=None))
    return replace(plan, request=replace(plan.request, target_dir=home), roots=tuple(roots))


def make_manifest(kept: KeptSnapshot) -> Manifest:
    """A manifest without files: they are listed where they lie."""
    none = np.zeros(0, np.uint8)
    return Manifest(
        facts=kept.facts,
        files=FileColumns(
            directories=[],
            directory_mode=none.astype(np.uint16),
            names=Names(()),
            directory=none.astype(np.uint32),
            size=none.astype(np.uint64),
            mode=none.astype(np.uint16),
            mtime_ns=none.astype(np.int64),
            owner=none.astype(np.uint16),
            flags=none,
            content_hash=np.zeros((0, HASH_BYTES), np.uint8),
        ),
        block_map=BlockMap(
            runs_of_file=none.astype(np.uint32),
            length=none.astype(np.uint64),
            pack=none.astype(np.uint32),
            offset=none.astype(np.uint64),
        ),
        packs=(),
        relations=b"",
        config_files=kept.config_files,
        control=kept.control,
    )
