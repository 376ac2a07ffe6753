"""The options of a repository: where it is, what it takes to reach the store, and where its key is.

The one idea: as in ``values``, a field written with ``option(...)`` is the only declaration of that option.
"""

from __future__ import annotations

from pghaven.config.price_values import NO_PRICES, PriceConfig
from pghaven.config.schema import DURATION, ENDPOINT, FILE, RATE, SWITCH, TEXT, URL, option
from pghaven.light import dataclass
from pghaven.repository.keysource import KeySource
from pghaven.store.settings import SETTINGS, StoreSettings

KEY_OPTIONS = ("key_file", "key_command", "passphrase_file", "passphrase_command")
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

    key_file: str | None = option(
        FILE,
        default_words="none: the repository is in the open, or another option says where its key is",
        doc=(
            "The file with the key that opens a sealed repository, or an age identity of one of its slots. Nobody "
            "but its owner and group may have access to it. With a key that only writes this host stores what it "
            "cannot read."
        ),
        example='"/etc/pghaven/main.key"',
    )
    key_command: str | None = option(
        TEXT,
        default_words="none",
        doc=(
            "A command that prints the key of a sealed repository, such as one that asks a key management service. Its "
            "words are split as a shell would, and it is run without one."
        ),
        example='"vault kv get -field=key secret/pghaven"',
    )
    passphrase_file: str | None = option(
        FILE,
        default_words="none; then the passphrase is taken from $PGHAVEN_PASSPHRASE, or asked for at the terminal",
        doc=(
            "A file with the passphrase of a slot of a sealed repository. Each start of pghaven then takes some 0.2 s "
            "and 64 MiB of memory to make the key of it, `wal push` too: on servers a key file is better."
        ),
        example='"/etc/pghaven/main.passphrase"',
    )
    passphrase_command: str | None = option(
        TEXT,
        default_words="none",
        doc="A command that prints the passphrase of a slot.",
        example='"pass show pghaven"',
    )

    encryption: bool | None = option(
        SWITCH,
        default_words="whether this host has a key for it: by one of the options above, or in $PGHAVEN_PASSPHRASE",
        doc=(
            "Whether the repository must be sealed. With true one in the open is refused, key or no key; with false "
            "$PGHAVEN_PASSPHRASE is meant for other repositories. One whose key is configured must be sealed in any "
            "case."
        ),
        example="false",
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
    multipart: bool | None = option(
        SWITCH,
        default_words="true without `endpoint`",
        doc=(
            "Whether objects above 64 MiB, which only large WAL segments become, are sent in parts, so that on a line "
            "that breaks only a part is sent again. The store is asked to put them together only under a free name; S3 "
            "and Google's storage promise that of two such requests at the same moment one is refused. For a store of "
            "another make, say true if it promises that too: SeaweedFS 4.48 now and then lets both pass."
        ),
        example="true",
        schemes=("s3", "gs"),
    )

    @property
    def key(self) -> KeySource:
        """Where the key is to be had."""
        return KeySource(**{name: getattr(self, name) for name in (*KEY_OPTIONS, "encryption")})

    @property
    def store(self) -> StoreSettings:
        """What it takes to reach the store."""
        return StoreSettings(**{name: getattr(self, name) for name in SETTINGS})
