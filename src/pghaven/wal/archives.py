"""The archive of one cluster in one repository, found and proven to be this cluster's.

The one idea: nothing is stored in, and nothing proven absent from, an archive before its repository has been opened and
the cluster's lineage been found there.
"""

from __future__ import annotations

from collections.abc import Sequence

from pghaven.errors import NotFound, PghavenError, UsageError
from pghaven.light import dataclass
from pghaven.postgres.version import MajorVersion, find_by_major
from pghaven.repository.place import RepositoryPlace
from pghaven.repository.repository import Lineage, Repository
from pghaven.repository.walstore import WalArchive


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenArchive:
    """A cluster's archive and what is known of the cluster it belongs to."""

    archive: WalArchive
    lineage: Lineage

    @property
    def version(self) -> MajorVersion | None:
        return find_by_major(self.lineage.major)


def open_archive(repository: Repository, cluster: str, system_identifier: int | None) -> OpenArchive:
    """The archive of the cluster with this identifier; without one that of the only cluster the name ever had.

    Raises NotFound when the name is not registered, Conflict for another identifier (naming both sides), UsageError
    when an identifier is needed to choose.
    """
    if system_identifier is None:
        lineage = _get_only_lineage(repository, cluster)
    else:
        lineage = repository.require_lineage(cluster, system_identifier)
    archive = WalArchive(repository, cluster, lineage.system_identifier, lineage.wal_segment_size)
    return OpenArchive(archive=archive, lineage=lineage)


def _get_only_lineage(repository: Repository, cluster: str) -> Lineage:
    lineages = repository.list_lineages(cluster)
    if not lineages:
        raise NotFound(
            f'cluster "{cluster}" is not registered in repository {repository.store.url}',
            hint=f"Register it with: pghaven init {cluster}",
        )
    if len(lineages) > 1:
        known = ", ".join(f"{one.system_identifier} (PostgreSQL {one.major})" for one in lineages)
        raise UsageError(
            f'"{cluster}" has been the name of several clusters: {known}',
            hint="Run this in the data directory of the one that is meant.",
        )
    return lineages[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceFailure:
    """What went wrong with one of several repositories."""

    place: RepositoryPlace
    error: PghavenError


def join_failures(what: str, failures: Sequence[PlaceFailure], tried: int) -> PghavenError:
    """One error for ``failures`` (not empty) of ``tried`` repositories: each named, the first one's class and hint.

    A cluster with a single repository gets that error as it is.
    """
    first = failures[0].error
    if tried == 1:
        return first
    told = "; ".join(f'repository "{failure.place.name}": {failure.error.message}' for failure in failures)
    details = [failure.error.detail for failure in failures if failure.error.detail]
    return type(first)(
        f"{what} ({len(failures)} of {tried} repositories failed): {told}",
        detail="\n".join(details) or None,
        hint=first.hint,
    )
