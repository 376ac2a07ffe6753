"""From a cluster's name in the configuration to what operations take: its repository, its program, its processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from pghaven.errors import Ambiguous, Cancelled, NotFound, ObjectMissing, PghavenError, StoreUnreachable
from pghaven.events import Listener, Notice, ignore

if TYPE_CHECKING:
    from pghaven.config.values import ClusterConfig, Config
    from pghaven.repository.memory import HostMemory
    from pghaven.repository.place import RepositoryPlace
    from pghaven.repository.repository import Repository

Found = TypeVar("Found")


def open_chosen_repository(
    config: Config, cluster: ClusterConfig, name: str | None, listener: Listener = ignore
) -> Repository:
    """The repository of this name, which may be one that the cluster does not name but was copied to.

    Without a name it is the cluster's first; then a note says so.

    Raises NotFound, StoreUnreachable, NotPermitted, Damaged, Refused.
    """
    from pghaven.cli.asking import ask_passphrase
    from pghaven.repository.place import open_place

    if name is not None:
        find_place(config, name)
    if name is None and len(cluster.repositories) > 1:
        text = f'repository "{cluster.repositories[0]}" is taken, the first of {len(cluster.repositories)}'
        listener(Notice(level="info", code="repository", text=text, hint="--repository NAME chooses another."))
    chosen = config.repositories[name or cluster.repositories[0]]
    try:
        return open_place(place_of(config, chosen.name), ask=ask_passphrase)
    except StoreUnreachable as error:
        mounted = "Is its file system mounted? " if chosen.url.startswith("file:") else ""
        hint = f"{mounted}If there is no repository yet: pghaven init {cluster.name}"
        raise StoreUnreachable(error.message, detail=error.detail, hint=error.hint or hint) from error


def each_repository(
    config: Config,
    cluster: ClusterConfig,
    name: str | None,
    listener: Listener,
    work: Callable[[str, Repository], Found],
) -> list[tuple[str, Found]]:
    """What ``work`` gives for each of a cluster's repositories, or for the named one alone, by their names.

    Of several, one that cannot be reached or used is warned of and passed over. Raises the first one's error when that
    is all there is.
    """
    names = cluster.repositories if name is None else (name,)
    return _try_each(names, listener, lambda one: work(one, open_chosen_repository(config, cluster, one)))


def find_in_repositories(
    config: Config, cluster: ClusterConfig, name: str | None, listener: Listener, work: Callable[[Repository], Found]
) -> Found:
    """What ``work`` gives for the first of a cluster's repositories, or for the named one alone, that has what is
    looked for; it raises NotFound where that is not.

    Of several, one that cannot be opened is warned of and passed over. Raises NotFound of the first when none has it,
    with what there is in each, and whatever else ``work`` raises.
    """
    names = cluster.repositories if name is None else (name,)
    missing: list[tuple[str, NotFound]] = []
    passed_over: list[tuple[str, PghavenError]] = []
    try:
        for one in names:
            try:
                opened = open_chosen_repository(config, cluster, one)
            except Cancelled:
                raise
            except PghavenError as error:
                passed_over.append((one, error))
                continue
            try:
                found = work(opened)
            except (Ambiguous, ObjectMissing):
                raise
            except NotFound as error:
                missing.append((one, error))
                continue
            if one != names[0]:
                listener(Notice(level="info", code="repository", text=f'it is in repository "{one}"'))
            return found
        if not missing:
            raise passed_over.pop(0)[1]
    finally:
        _warn_of_left_out(passed_over, listener)
    first = missing[0][1]
    if len(missing) > 1:
        first.hint = " ".join(f'In "{one}": {error.hint or error.message}' for one, error in missing)
    raise first


def each_place(
    config: Config, names: Sequence[str], listener: Listener, work: Callable[[str, Repository], Found]
) -> list[tuple[str, Found]]:
    """As ``each_repository``, for configured repositories by their names, whichever cluster is kept there.

    Raises NotFound for a name that is not configured.
    """
    from pghaven.cli.asking import ask_passphrase
    from pghaven.repository.place import open_place

    places = {name: find_place(config, name) for name in names}
    return _try_each(names, listener, lambda one: work(one, open_place(places[one], ask=ask_passphrase)))


def _try_each(names: Sequence[str], listener: Listener, work: Callable[[str], Found]) -> list[tuple[str, Found]]:
    found: list[tuple[str, Found]] = []
    failures: list[tuple[str, PghavenError]] = []
    for one in names:
        try:
            found.append((one, work(one)))
        except Cancelled:
            raise
        except PghavenError as error:
            failures.append((one, error))
    if failures and not found:
        raise failures[0][1]
    _warn_of_left_out(failures, listener)
    return found


def _warn_of_left_out(failures: Sequence[tuple[str, PghavenError]], listener: Listener) -> None:
    for one, reason in failures:
        text = f'repository "{one}" is left out: {reason.message}'
        listener(Notice(level="warning", code="repository_failed", text=text, hint=reason.hint))


def list_places(config: Config, cluster: ClusterConfig) -> tuple[RepositoryPlace, ...]:
    """All repositories of a cluster, in the order of its option."""
    return tuple(place_of(config, name) for name in cluster.repositories)


def place_of(config: Config, name: str) -> RepositoryPlace:
    """Where a configured repository is, what it takes to open it, and where this host remembers it."""
    from pghaven.repository.place import RepositoryPlace

    repository = config.repositories[name]
    return RepositoryPlace(name=name, store=repository.store, key=repository.key, memory=find_memory(config, name))


def find_memory(config: Config, name: str) -> HostMemory:
    """What this host remembers of the repository of this name: with the first cluster that is kept there."""
    from pghaven.repository.memory import HostMemory, find_state_directory

    for cluster in config.clusters.values():
        if name in cluster.repositories:
            directory = cluster.state_directory or find_state_directory(cluster.data_directory)
            return HostMemory(directory=directory, like=cluster.data_directory)
    return HostMemory(directory=find_state_directory(""))


def find_spool(cluster: ClusterConfig) -> str:
    """Where received WAL waits."""
    from pghaven.repository.memory import find_state_directory

    if cluster.receive_spool is not None:
        return cluster.receive_spool
    return os.path.join(
        cluster.state_directory or find_state_directory(cluster.data_directory), "receive", cluster.name
    )


def find_place(config: Config, name: str) -> RepositoryPlace:
    """Where the repository of this name is, whether a cluster names it or not. Raises NotFound."""
    if name not in config.repositories:
        known = ", ".join(f'"{one}"' for one in config.repositories) or "none"
        raise NotFound(f'repository "{name}" is not in the configuration {config.source}', hint=f"There are: {known}.")
    return place_of(config, name)


def choose_clusters(config: Config, name: str | None) -> tuple[ClusterConfig, ...]:
    """The named cluster; without a name all of them. Raises NotFound, UsageError when there is none."""
    if name is None and len(config.clusters) > 1:
        return tuple(config.clusters.values())
    return (config.get_cluster(name),)


def count_processes(cluster: ClusterConfig) -> int:
    """Worker processes as configured, else one for each core this process may use."""
    return cluster.processes or len(os.sched_getaffinity(0))


def refresh_listing(repository: Repository, cluster: str, listener: Listener) -> None:
    """Keep listing the backups cheap. What the command did is done, so a failure is told and no more."""
    from pghaven.repository.outline import refresh_outlines

    try:
        refresh_outlines(repository, cluster)
    except PghavenError as error:
        listener(Notice(level="info", code="outline", text=f"listing stays slower than it could be: {error.message}"))
