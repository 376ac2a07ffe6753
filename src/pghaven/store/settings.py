"""What it takes to reach a store: the one value that travels from the configuration to ``open``.

The one idea: it says where things are and never what is secret, so it can be pickled, compared and printed. Keys and
passwords are found by the store itself when it opens, in the places of each kind's own tools: files and environment.
"""

from __future__ import annotations

from pghaven.errors import UsageError
from pghaven.light import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """A URL and what goes with it; None for what was not said. ``config.values.RepositoryConfig`` describes each.

    Which kind of store takes which of them is said there too; a store passes over what is not its own.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    profile: str | None = None
    account: str | None = None
    credentials_file: str | None = None
    ca_file: str | None = None
    identity_file: str | None = None
    known_hosts_file: str | None = None
    ssh_config_file: str | None = None
    request_timeout_seconds: float = 120.0
    retry_timeout_seconds: float = 120.0
    single_writer: bool = False
    multipart: bool | None = None


SETTINGS = tuple(field.name for field in fields(StoreSettings))


SCHEMES = ("file", "sftp", "s3", "gs", "az")
_OBJECT_STORE_HINT = "Passwords and keys are read from files and the environment; see docs/guide/object-stores.md."
_SSH_HINT = "ssh logs in with a key: ssh-keygen makes one, ssh-copy-id puts it onto the server."


def scheme_of(url: str) -> str | None:
    """What stands before "://", or None."""
    scheme, separator, _ = url.partition("://")
    return scheme if separator else None


def holds_password(url: str) -> bool:
    """Whether a URL has something in it that must be kept out of command lines and logs: a password before the "@" of
    its host, or a query, where signatures stand (those of Azure, links that somebody has signed)."""
    authority = url.partition("://")[2].partition("/")[0]
    return ":" in authority.rpartition("@")[0] or ("?" in url and scheme_of(url) != "file")


def refuse_password(url: str) -> None:
    """Raises UsageError, without repeating the URL."""
    if holds_password(url):
        raise UsageError(
            f"the URL of a {scheme_of(url)}:// store holds a password or a signature",
            hint=_SSH_HINT if scheme_of(url) == "sftp" else _OBJECT_STORE_HINT,
        )
