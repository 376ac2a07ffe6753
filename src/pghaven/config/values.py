"""Every option there is, as the typed values the program works with.

The one idea: a field written with ``option(...)`` is the only declaration of that option; see ``schema``. To add one,
add a field here and run ``make docs``. An option that nothing reads must not be here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pghaven.config.price_values import NO_PRICES, PriceConfig
from pghaven.config.retention_values import KEEP_ALL, RetentionConfig
from pghaven.config.schema import (
    DIRECTORY,
    DURATION,
    ENDPOINT,
    FILE,
    NAMES,
    RATE,
    SIZE,
    SWITCH,
    TEXT,
    URL,
    Section,
    count,
    option,
)
from pghaven.errors import NotFound, UsageError
from pghaven.store.settings import SETTINGS, StoreSettings

_OBJECT_STORES = ("s3", "gs", "az")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryConfig:
    """One place where backups and WAL are kept."""

    name: str
    url: str = option(
        URL,
        required=True,
        doc=(
            "Where the repository is. A directory is written as file:// and its absolute path, one behind an SFTP "
            "server as sftp://user@host:port/path (ssh's configuration may know user and port; /~/path is below the "
            "user's home)."
        ),
        example='"file:///var/lib/pghaven"',
    )
    endpoint: str | None = option(
        ENDPOINT,
        default_words="the cloud's own; for S3 what $AWS_ENDPOINT_URL_S3, $AWS_ENDPOINT_URL or the profile says",
        doc="The address of an object store that is not the cloud's own. With http:// nothing is encrypted on the way.",
        example='"https://s3.example.com"',
        schemes=_OBJECT_STORES,
    )
    region: str | None = option(
        TEXT,
        default_words="what $AWS_REGION, $AWS_DEFAULT_REGION or the profile says, else us-east-1",
        doc="The region of the bucket.",
        example='"eu-central-1"',
        schemes=("s3",),
    )
    path_style: bool | None = option(
        SWITCH,
        default_words="true with an endpoint, else false",
        doc="Whether the bucket is named in the path of an address (true) or as the first part of the host (false).",
        example="false",
        schemes=("s3",),
    )
    profile: str | None = option(
        TEXT,
        default_words="$AWS_PROFILE, else default",
        doc="Which profile of the AWS files of credentials and configuration is used.",
        example='"backup"',
        schemes=("s3",),
    )
    account: str | None = option(
        TEXT,
        default_words="$AZURE_STORAGE_ACCOUNT, or what a connection string says",
        doc="The storage account that the container is in.",
        example='"backups"',
        schemes=("az",),
    )
    credentials_file: str | None = option(
        FILE,
        default_words="the places of the cloud's own tools; docs/guide/object-stores.md lists them in their order",
        doc=(
            "A file with the keys, in the form of the cloud's own tools: an AWS file of credentials, a Google service "
            "account's JSON, an Azure connection string. It is read again when the store says that the keys have "
            "expired."
        ),
        example='"/etc/pghaven/credentials"',
        schemes=_OBJECT_STORES,
    )
    ca_file: str | None = option(
        FILE,
        default_words="the certificate authorities the system trusts",
        doc="A PEM file with certificate authorities that are trusted besides those of the system.",
        example='"/etc/pghaven/ca.pem"',
        schemes=_OBJECT_STORES,
    )
    identity_file: str | None = option(
        FILE,
        default_words="what ssh finds: its configuration, the agent, ~/.ssh/id_*",
        doc="The private key ssh logs in with; one that has a passphrase must be in the user's ssh agent.",
        example='"/var/lib/postgresql/.ssh/backup_key"',
        schemes=("sftp",),
    )
    known_hosts_file: str | None = option(
        FILE,
        default_words="~/.ssh/known_hosts and the system's",
        doc="The file with the server's host key, which must be known: none is ever accepted unseen.",
        example='"/etc/pghaven/known_hosts"',
        schemes=("sftp",),
    )
    ssh_config_file: str | None = option(
        FILE,
        default_words="~/.ssh/config and the system's",
        doc="The configuration ssh reads in place of the user's and the system's.",
        example='"/etc/pghaven/ssh_config"',
        schemes=("sftp",),
    )
    request_timeout_seconds: float = option(
        DURATION,
        default="2min",
        doc=(
            "How long one request may take that moves up to 16 MiB; one that moves more has more time in proportion. "
            "A request out of time is made again. Of an SFTP server: how long it may be silent."
        ),
        example='"10min"',
        schemes=(*_OBJECT_STORES, "sftp"),
    )
    retry_timeout_seconds: float = option(
        DURATION,
        default="2min",
        doc=(
            "For how long a request that failed is made again, at growing intervals, when the store does not answer or "
            "asks for patience (status 429, 5xx). `pghaven wal push` and `wal get` end by `wal_timeout` in any case."
        ),
        example='"10min"',
        schemes=_OBJECT_STORES,
    )

    limit: int | None = option(
        RATE,
        default_words="no limit",
        doc=(
            "How much backup, restore and verification may move to and from this repository in a second, all worker "
            "processes of a command together; its option `--limit` goes before it. A change in the file holds for "
            "running commands within seconds. WAL is never held up."
        ),
        example='"50MiB/s"',
    )
    prices: PriceConfig = NO_PRICES

    single_writer: bool = option(
        SWITCH,
        unset=False,
        default_words="false",
        doc=(
            "For a store that fails the probe of `pghaven init`: it lets a second writer replace an object. With true, "
            "pghaven looks whether a name is free and then writes, which is safe only as long as no two commands on "
            "any host write to the repository at once; `pghaven status` reminds of it."
        ),
        example="true",
        schemes=_OBJECT_STORES,
    )

    @property
    def store(self) -> StoreSettings:
        """What it takes to reach the store."""
        return StoreSettings(**{name: getattr(self, name) for name in SETTINGS})


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
    wal_timeout_seconds: float = option(
        DURATION,
        default="1min",
        doc=(
            "How long one `pghaven wal push` or `wal get` may take. A push that runs out of time fails and the server "
            "tries again; without a limit, a store that hangs would also hang a shutdown of the server."
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
            "How long a push goes on waiting for a repository when as many as `wal_required` says hold the file. One "
            "that has taken longer, or has failed, is not tried again for 30 s, so it never holds up WAL by more."
        ),
        example='"2s"',
    )
    wal_look_ahead: int = option(
        count(0, 255),
        default=64,
        doc=(
            "How many WAL files that wait behind the one that is pushed are pushed beside it, by as many processes as "
            "`processes` says for each repository, but no more than 8. The server is then told of each at the price of "
            "one shell. 0 pushes one at a time."
        ),
        example="16",
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
            "most. Linux gives them less of the disk too."
        ),
        example="10",
    )
    retention: RetentionConfig = KEEP_ALL


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
