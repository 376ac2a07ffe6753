"""``wal refill``: every repository of a cluster gets the WAL that the others hold and it does not, and what none
holds from the servers that still have it.

The one idea: notes may be lost, so here the archives themselves are compared, each with all others. Of a timeline that
two of them hold different branches of, each keeps its own, and that is told. What is missing then is a gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pghaven.errors import EXIT_DONE, NotFound, PghavenError, Refused
from pghaven.events import Listener, Notice, Step
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.repository import Repository
from pghaven.repository.walstore import WalArchive
from pghaven.wal.behind import BehindNotes
from pghaven.wal.gapfill import GapFilling, fill_gaps
from pghaven.wal.nodes import LocalNode, QuarantineNode, SqlNode
from pghaven.wal.refill import Filled, Refill, list_missing, refuse_apart


@dataclass(frozen=True, slots=True, kw_only=True)
class RefilledRepository:
    """What a repository was given. ``error`` says why it does not have all that the others have, ``hint`` what to do,
    ``exit_status`` what kind of error that is; ``filled`` counts files by where they came from, ``gaps`` is what became
    of those that no repository had."""

    repository: str
    filled: Mapping[Filled, int]
    error: str | None
    hint: str | None = None
    exit_status: int = EXIT_DONE
    gaps: GapFilling = field(default_factory=GapFilling)

    @property
    def count(self) -> int:
        return sum(number for how, number in self.filled.items() if how is not Filled.GONE)


def refill_cluster(
    cluster: str,
    places: Sequence[RepositoryPlace],
    wal_directory: str | None,
    listener: Listener,
    conninfos: Sequence[str] = (),
) -> tuple[RefilledRepository, ...]:
    """Compare all repositories of a cluster, and fill in what each lacks. One that fails keeps no other from its share.

    ``wal_directory`` is the server's ``pg_wal`` if it is on this host, ``conninfos`` lead to other servers that may
    have what no repository holds. Raises nothing of ours.
    """
    opened: dict[str, Repository] = {}
    errors: dict[str, PghavenError] = {}
    for place in places:
        listener(Step(text=f"opening {place.store.url}"))
        try:
            opened[place.name] = open_place(place)
        except PghavenError as error:
            errors[place.name] = error
    notes = None if wal_directory is None else BehindNotes(wal_directory)
    results = []
    for place in places:
        filled: Counter[Filled] = Counter()
        gaps = GapFilling()
        if place.name in opened:
            listener(Step(text=f'comparing repository "{place.name}" with the others'))
            others = [repository for name, repository in opened.items() if name != place.name]
            behind = None if notes is None else notes.read(place.name)
            noted = () if behind is None else behind.names
            try:
                _refill(cluster, opened[place.name], others, wal_directory, noted=noted, filled=filled)
                _fill_gaps(cluster, opened[place.name], wal_directory, conninfos, listener, into=gaps)
                if notes is not None and noted and len(opened) == len(places):
                    _settle(notes, place.name, noted, listener)
            except PghavenError as error:
                errors[place.name] = error
        failure = errors.get(place.name)
        results.append(
            RefilledRepository(
                repository=place.name,
                filled=dict(filled),
                error=None if failure is None else failure.message,
                hint=None if failure is None else failure.hint,
                exit_status=EXIT_DONE if failure is None else failure.exit_status,
                gaps=gaps,
            )
        )
    return tuple(results)


def _refill(
    cluster: str,
    target: Repository,
    others: Sequence[Repository],
    wal_directory: str | None,
    *,
    noted: Sequence[str],
    filled: Counter[Filled],
) -> None:
    """What is noted is filled in even where the comparison would not ask for it: in a repository without any WAL.

    Raises Refused, with all else done, where another one has another branch of a timeline; NotFound when the target
    does not know the cluster as the others do.
    """
    refused: Refused | None = None
    lineages = target.list_lineages(cluster)
    known = {lineage.system_identifier for lineage in lineages}
    newest = [found[-1].system_identifier for one in others if (found := one.list_lineages(cluster))]
    if not lineages or not known.issuperset(newest):
        unknown = "" if not lineages else f" with system identifier {next(one for one in newest if one not in known)}"
        raise NotFound(
            f'cluster "{cluster}"{unknown} is not registered in repository {target.store.url}',
            hint=f"Register it with: pghaven init {cluster}",
        )
    for lineage in lineages:
        archive = WalArchive(target, cluster, lineage.system_identifier, lineage.wal_segment_size)
        sources = [WalArchive(one, cluster, lineage.system_identifier, lineage.wal_segment_size) for one in others]
        refill = Refill(target=archive, sources=sources, wal_directory=wal_directory)
        # The notes are of the cluster as it is now.
        for name in noted if lineage is lineages[-1] else ():
            try:
                filled[refill.fill(name)] += 1
            except Refused as error:
                refused = refused or error
        for number, source in enumerate(sources):
            apart = refill.find_apart(number)
            if apart:
                refused = refused or refuse_apart(apart, source, archive)
            for name in list_missing(source, archive, apart):
                filled[refill.fill(name)] += 1
    if refused is not None:
        raise refused


def _fill_gaps(
    cluster: str,
    target: Repository,
    wal_directory: str | None,
    conninfos: Sequence[str],
    listener: Listener,
    *,
    into: GapFilling,
) -> None:
    """Fill what is missing of every lineage from its quarantine and from the servers."""
    for lineage in target.list_lineages(cluster):
        archive = WalArchive(target, cluster, lineage.system_identifier, lineage.wal_segment_size)
        local = [] if wal_directory is None else [LocalNode(wal_directory=wal_directory)]
        others = [SqlNode(conninfo=one, system_identifier=lineage.system_identifier) for one in conninfos]
        own = QuarantineNode(archive=archive)
        found = fill_gaps(archive, [own, *local, *others], lambda text: listener(Step(text=text)))
        into.filled.update(found.filled)
        into.lost += found.lost
        into.open += found.open


def _settle(notes: BehindNotes, repository: str, noted: Sequence[str], listener: Listener) -> None:
    """What was noted of a repository that was compared with all others is done with."""
    try:
        notes.settle(repository, noted)
    except OSError as error:
        text = f'could not take out the note that repository "{repository}" is behind: {error}'
        listener(Notice(level="warning", code="note_failed", text=text))
