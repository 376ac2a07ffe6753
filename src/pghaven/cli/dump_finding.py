"""Which of a cluster's repositories has the dump that somebody means.

The one idea: a label means the same dump wherever it is kept, so the first repository that has it is read; without a
label it is the newest of all, which a repository may have missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pghaven.cli.opening import each_repository, find_in_repositories
from pghaven.errors import NotFound

if TYPE_CHECKING:
    from pghaven.cli.invocation import Invocation
    from pghaven.config.values import ClusterConfig
    from pghaven.dump.load import OpenDump
    from pghaven.repository.backups import BackupCatalog
    from pghaven.repository.entry import BackupEntry
    from pghaven.repository.repository import Repository


def open_meant_dump(
    invocation: Invocation,
    cluster: ClusterConfig,
    repository: str | None,
    label: str | None,
    *,
    with_databases: bool = True,
) -> OpenDump:
    """The dump of this label or beginning of one, else the newest, ``with_databases`` one that has any; of the named
    repository or of any. Raises as ``open_dump`` and ``find_in_repositories``."""
    from pghaven.dump.load import find_dump, open_entry
    from pghaven.repository.backups import BackupCatalog

    def find(opened: Repository) -> tuple[BackupCatalog, BackupEntry]:
        catalog = BackupCatalog(opened, cluster.name)
        return catalog, find_dump(catalog, label, with_databases=with_databases)

    def find_newest(_: str, opened: Repository) -> tuple[BackupCatalog, BackupEntry] | NotFound:
        try:
            return find(opened)
        except NotFound as error:
            return error

    config, listener = invocation.config, invocation.reporter
    if label is not None or repository is not None or len(cluster.repositories) == 1:
        return open_entry(*find_in_repositories(config, cluster, repository, listener, find))
    answers = [found for _, found in each_repository(config, cluster, None, listener, find_newest)]
    found = [one for one in answers if not isinstance(one, NotFound)]
    if not found:
        raise next(one for one in answers if isinstance(one, NotFound))
    return open_entry(*max(found, key=lambda one: one[1].original))  # of copies of one dump the first is taken
