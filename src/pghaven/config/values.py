"""Every option there is, as the typed values the program works with.

The one idea: a field written with ``option(...)`` is the only declaration of that option; see ``schema``. To add one,
add a field here and run ``make docs``. An option that nothing reads must not be here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pghaven.config.drill_values import NO_DRILLS, DrillConfig
from pghaven.config.ha_values import NO_HA, HaConfig, HaNodeConfig
from pghaven.config.price_values import PriceConfig
from pghaven.config.repository_values import KEY_OPTIONS, RepositoryConfig
from pghaven.config.retention_values import KEEP_ALL, RetentionConfig
from pghaven.config.schema import (
    DIRECTORY,
    DURATION,
    NAMES,
    RATE,
    SIZE,
    SLOT,
    SWITCH,
    TEXT,
    TEXTS,
    Section,
    count,
    one_of,
    option,
)
from pghaven.config.snapshot_values import KEEP_ALL_SNAPSHOTS, SnapshotConfig
from pghaven.errors import NotFound, UsageError
from pghaven.light import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """One PostgreSQL cluster, seen from this host. ``repositories`` is never empty once loaded."""

    name: str
    data_directory: str = option(
        DIRECTORY,
        required=True,
        doc="The server's data directory on this host, as `SHOW data_directory` tells it.",
        example='"/var/lib/postgresql/17/main"',
    )
    conninfo: str = option(
        TEXT,
        default="",
        default_words="libpq's own defaults and PG… variables",
        doc=(
            "How to connect to the server: a libpq connection string or URI. "
            "Keep passwords out of it; libpq reads them from `~/.pgpass`."
        ),
        example='"host=/var/run/postgresql dbname=postgres"',
    )
    repositories: tuple[str, ...] = option(
        NAMES,
        unset=(),
        default_words="the repository, if exactly one is configured",
        doc="Names of the repositories that keep this cluster's backups and WAL.",
        example='["main"]',
    )
    pg_bin: str | None = option(
        DIRECTORY,
        default_words="looked for in PATH and where packages put them",
        doc="The directory of this cluster's PostgreSQL programs (postgres, pg_ctl, …).",
        example='"/usr/lib/postgresql/17/bin"',
    )
    dump_spool: str | None = option(
        DIRECTORY,
        default_words="$TMPDIR, else /var/tmp",
        doc=(
            "Where pg_dump writes to and pg_restore reads from. A dump needs 1 GiB there and little more, whatever its "
            "size; a load needs room for what is loaded."
        ),
        example='"/var/tmp"',
    )
    program: str | None = option(
        TEXT,
        default_words="the program that is running when the command is written",
        doc=(
            "How the server is told to start pghaven in `archive_command` and `restore_command`. The user that runs "
            "the server must be able to run it. Several words are split as a shell would."
        ),
        example='"/opt/pghaven/bin/pghaven"',
    )
    processes: int | None = option(
        count(1, 256),
        default_words="one for each processor core",
        doc="Worker processes for backup and restore.",
        example="4",
    )
    compression_level: int = option(
        count(1, 19),
        default=3,
        doc="Level of zstd compression for backups. Level 1 costs about a third less processor time than 3.",
        example="1",
    )
    backup_archive_timeout_seconds: float = option(
        DURATION,
        default="10min",
        doc="How long a backup waits at its end for the WAL it needs to reach the repository. Then it fails.",
        example='"30min"',
    )
    backup_from: str = option(
        one_of(("any", "standby", "primary")),
        default="any",
        doc="To which server, of this one and those of `wal_nodes` as they are now, `pghaven backup` leaves a backup.",
        example='"standby"',
    )
    wal_nodes: tuple[str, ...] = option(
        TEXTS,
        unset=(),
        default_words="only the server of `data_directory`, or of `conninfo` when that is on another host",
        doc=(
            "Connection strings of the cluster's other servers, standbys too. `pghaven wal refill` asks them for WAL "
            "that is missing from a repository. The role must be a superuser, or a member of `pg_read_server_files` "
            "that may execute `pg_read_binary_file` and `pg_stat_file`. In an environment variable they are separated "
            "by `;`."
        ),
        example='["host=standby1 user=pghaven dbname=postgres"]',
    )
    wal_timeout_seconds: float = option(
        DURATION,
        default="1min",
        doc=(
            "How long one `pghaven wal push` or `wal get` may take. A push that runs out of time fails and the server "
            "tries again; without a limit, a store that hangs would also hang a shutdown of the server. A segment over "
            "16 MB has twice as long at each new try, up to this for each 16 MB of it."
        ),
        example='"2min"',
    )
    wal_required: int | None = option(
        count(1, 16),
        default_words="all of them",
        doc=(
            "How many of the cluster's repositories must hold a WAL file before the server is told that it is "
            "archived. With all of them, a repository that is down keeps WAL in `pg_wal` until it is back. With "
            "fewer, it is noted as behind and filled in later; until then what it missed is in the others only."
        ),
        example="1",
    )
    wal_patience_seconds: float = option(
        DURATION,
        default="5s",
        doc=(
            "How long a push waits for a repository when `wal_required` others hold the file; one that took longer, or "
            "failed, is left out for 30 s. `wal get` asks the next one too after so long for each 16 MB of a segment."
        ),
        example='"2s"',
    )
    wal_look_ahead: int = option(
        count(0, 255),
        default=64,
        doc=(
            "How many WAL files that wait behind the one that is pushed are pushed beside it, by as many processes as "
            "`processes` says for each repository, but no more than 8. The server is then told of each at the price of "
            "one shell. 0 pushes one at a time; segments over 256 MB always go one at a time."
        ),
        example="16",
    )
    wal_refill_every_seconds: float = option(
        DURATION,
        default="1h",
        doc=(
            "How often `pghaven agent` looks for WAL that is missing from a repository, as `pghaven wal refill` does. "
            "What a repository is known to have missed is tried every minute."
        ),
        example='"15min"',
    )
    wal_prefetch: int = option(
        SIZE,
        default="256MiB",
        doc=(
            "How much WAL may lie in `pg_wal/pghaven/spool` of a server in recovery, fetched before it asks for it, by "
            "as many processes as `processes` says, but no more than 4. It is removed when recovery ends. `0B`, or "
            "less than one segment, fetches each when it is asked for."
        ),
        example='"1GiB"',
    )
    receive: bool = option(
        SWITCH,
        default=False,
        doc=(
            "Whether WAL is received as it is written, beside `archive_command`: `pghaven agent` runs the receiver "
            "then, and `status` misses it when it does not run. `pghaven wal receive` receives in any case."
        ),
        example="true",
    )
    receive_conninfo: str | None = option(
        TEXT,
        default_words="`conninfo`",
        doc=(
            "How the receiver connects. With several hosts and `target_session_attrs=primary` it follows a failover. "
            "The role must have REPLICATION."
        ),
        example='"host=db1,db2 user=pghaven target_session_attrs=primary"',
    )
    receive_slot: str = option(
        SLOT,
        default="pghaven",
        doc=(
            "The physical replication slot of the receiver, made when it is not there, and its `application_name`, "
            "which `synchronous_standby_names` may name."
        ),
        example='"pghaven_2"',
    )
    receive_synchronous: bool = option(
        SWITCH,
        default=False,
        doc=(
            "Whether the server is told that WAL is flushed as soon as it is durable on the receiver's host, as a "
            "synchronous standby does, and not only when it is in the repositories."
        ),
        example="true",
    )
    receive_interval_seconds: float = option(
        DURATION,
        default="1s",
        doc=(
            "How often the unfinished segment is stored in the repositories, if there is anything new in it. Each time "
            "is a request or two of an object store."
        ),
        example='"5s"',
    )
    receive_spool: str | None = option(
        DIRECTORY,
        default_words="`receive/` and the cluster's name below `state_directory`",
        doc=(
            "Where received WAL lies until the repositories have it. With `receive_synchronous` commits rely on it: it "
            "must survive a restart of the host, and should not be on the server's disk."
        ),
        example='"/var/lib/pghaven-spool"',
    )
    receive_spool_limit: int = option(
        SIZE,
        default="4GiB",
        doc=(
            "When so much waits there because a repository does not take it, no more is received until it does; the "
            "server keeps the rest. It should be several segments."
        ),
        example='"20GiB"',
    )
    io_limit: int | None = option(
        RATE,
        default_words="no limit",
        doc=(
            "How much a backup may read of the data directory, and a restore write to it, in a second; the option "
            "`--io-limit` of a command goes before it. A change in the file holds for running commands within seconds."
        ),
        example='"200MiB/s"',
    )
    slow_at_standby_lag: int = option(
        SIZE,
        default="1GiB",
        doc=(
            "A backup reads more slowly while a standby's replay is at least this much WAL behind, or the server's own "
            "if it is a standby. It never falls below a sixteenth of its speed. `0B`: never."
        ),
        example='"256MiB"',
    )
    slow_at_archive_backlog: int = option(
        count(0, 1_000_000),
        default=64,
        doc="A backup reads more slowly while at least so many WAL files wait to be archived. 0: never.",
        example="20",
    )
    nice: int = option(
        count(0, 19),
        default=0,
        doc=(
            "How nice backup, restore and verification are to other processes of the host, as `nice` says; 19 is the "
            "most, at which a backup reads a snapshot unless this says less. Linux gives them less of the disk too."
        ),
        example="10",
    )
    state_directory: str | None = option(
        DIRECTORY,
        default_words="`.local/state/pghaven` in the home directory of the user that runs the server",
        doc=(
            "Where this host keeps what it could do without: what it has seen of each repository, so that an older "
            "state of one does not pass for the present one; and the map of its last backup, where its key only "
            "writes: without it the next backup reads and stores everything."
        ),
        example='"/var/lib/pghaven-state"',
    )
    retention: RetentionConfig = KEEP_ALL
    drill: DrillConfig = NO_DRILLS
    ha: HaConfig = NO_HA
    snapshot: SnapshotConfig = KEEP_ALL_SNAPSHOTS


SECTIONS = (
    Section(
        name="repository",
        type=RepositoryConfig,
        doc="A place where backups and WAL are kept.",
        parts=(
            Section(
                name="prices",
                type=PriceConfig,
                doc=(
                    "What the store charges, for the estimate of `pghaven repo info`. Prices differ by provider, "
                    "region and contract: look them up. What is left out is not counted."
                ),
            ),
        ),
        one_of=KEY_OPTIONS,
    ),
    Section(
        name="cluster",
        type=ClusterConfig,
        doc="A PostgreSQL cluster. Its name is also its name in the repository.",
        parts=(
            Section(
                name="retention",
                type=RetentionConfig,
                doc=(
                    "Which backups are kept by `pghaven expire`, and how far back WAL. What one rule keeps, no other "
                    "takes away; without any rule nothing expires. A backup that is held stays whatever the rules say, "
                    "and so does the last one."
                ),
            ),
            Section(
                name="snapshot",
                type=SnapshotConfig,
                doc=(
                    "Which snapshots stay that `pghaven snapshot create` has kept: what one rule keeps, the other does "
                    "not take away. It is followed after each new one, and by `pghaven expire`."
                ),
            ),
            Section(name="drill", type=DrillConfig, doc="How `pghaven drill` proves that the cluster comes back."),
            Section(
                name="ha",
                type=HaConfig,
                doc=(
                    "A cluster that fails over by itself, run by Patroni; see [failover](../guide/failover.md). The "
                    "section is the same on every node; without nodes none of it counts."
                ),
                repeated=(Section(name="node", type=HaNodeConfig, doc="A node of the cluster; one section each."),),
            ),
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. ``source`` is the absolute path of the file it was read from."""

    repositories: Mapping[str, RepositoryConfig]
    clusters: Mapping[str, ClusterConfig]
    source: str

    def get_cluster(self, name: str | None = None) -> ClusterConfig:
        """The cluster of this name; without a name the only one.

        Raises NotFound for a name that is not configured, UsageError when a name is needed to choose.
        """
        if name is not None:
            if name not in self.clusters:
                raise NotFound(
                    f'cluster "{name}" is not in the configuration {self.source}',
                    hint=_suggestion(name, self.clusters),
                )
            return self.clusters[name]
        if len(self.clusters) == 1:
            return next(iter(self.clusters.values()))
        if self.clusters:
            raise UsageError(
                "the configuration has several clusters; name one of them",
                hint=f"There are: {_listing(self.clusters)}.",
            )
        raise UsageError(
            f"no cluster is configured in {self.source}", hint="Add a [cluster.NAME] section, or run: pghaven init NAME"
        )

    def get_repositories(self, cluster: ClusterConfig) -> tuple[RepositoryConfig, ...]:
        """The repositories that keep this cluster, in the order of its option."""
        return tuple(self.repositories[name] for name in cluster.repositories)


def find_nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def _suggestion(name: str, known: Iterable[str]) -> str:
    names = list(known)
    if not names:
        return "Add a [cluster.NAME] section, or run: pghaven init NAME"
    nearest = find_nearest(name, names)
    return f'Did you mean "{nearest}"?' if nearest else f"There are: {_listing(names)}."


def _listing(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
