"""Plans for restoring what is no backup of a repository: files that lie elsewhere, with the facts of a backup.

The one idea: which WAL leads to the target does not depend on where the files are.
"""

from __future__ import annotations

from collections.abc import Sequence

from pghaven.errors import Refused
from pghaven.postgres.lsn import Lsn
from pghaven.repository.entry import BackupEntry
from pghaven.repository.manifest import Manifest
from pghaven.repository.repository import Lineage, Repository
from pghaven.restore.places import plan_roots
from pghaven.restore.plan import Planner
from pghaven.restore.port import find_port_notice
from pghaven.restore.request import RestorePlan, RestoreRequest


class _GivenPlanner(Planner):
    def __init__(
        self, repository: Repository, request: RestoreRequest, others: Sequence[Repository], given: BackupEntry
    ) -> None:
        self._given = given
        super().__init__(repository, request, others)

    def list_entries(self, lineages: Sequence[Lineage]) -> list[BackupEntry]:  # noqa: ARG002
        return [self._given]


def plan_given(
    repository: Repository, request: RestoreRequest, given: tuple[BackupEntry, Manifest], others: Sequence[Repository]
) -> RestorePlan:
    """As ``plan_restore``, from what is no backup of a repository: files that lie elsewhere, with their facts.

    The manifest names no files, so the room they need is not looked at. Raises the same.
    """
    entry, manifest = given
    planner = _GivenPlanner(repository, request, others, entry)
    wal = planner.plan_wal(planner.choose_way(), manifest)
    roots, _, is_unfinished = plan_roots(request, manifest, entry.original)
    if is_unfinished:
        raise Refused(
            f'"{request.target_dir}" holds what an unfinished restore left, and this one cannot go on with it',
            hint="Remove what is in it, then run the same command again.",
        )
    port = find_port_notice(request, manifest.facts)
    return RestorePlan(
        request=request,
        backup=entry,
        manifest=manifest,
        wal=wal,
        roots=roots,
        fetch_bytes=0,
        existing=None,
        notices=(*planner.notices, *([port] if port else [])),
    )


def survey_given(
    repository: Repository, request: RestoreRequest, entry: BackupEntry, others: Sequence[Repository] = ()
) -> Lsn:
    """How far WAL leads from what is no backup of a repository, as far as names tell. Raises Refused, NotFound."""
    return _GivenPlanner(repository, request, others, entry).choose_way().walk.end_lsn
