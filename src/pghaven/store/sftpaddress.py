"""Where an SFTP store is and how ``ssh`` gets there: the authority on ``sftp://`` URLs.

The one idea: what is not said here is ssh's own affair (``~/.ssh/config``, the agent, ``known_hosts``), and secrets are
never said here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pghaven.errors import UsageError
from pghaven.store.settings import StoreSettings, refuse_password

# No user and no host begin with a hyphen, which ssh could take for an option.
_URL = re.compile(
    r"sftp://(?:(?P<user>[A-Za-z0-9_.][A-Za-z0-9_.+@-]*)@)?"
    r"(?:(?P<name>[A-Za-z0-9_.][A-Za-z0-9_.-]*)|\[(?P<address>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\])"
    r"(?::(?P<port>[0-9]{1,5}))?/(?P<path>.*[^/].*)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSettings:
    """How the server is reached. What is None is left to ssh and its configuration files."""

    host: str
    user: str | None = None
    port: int | None = None
    identity_file: str | None = None
    known_hosts_file: str | None = None
    config_file: str | None = None
    answer_seconds: float = 120.0  # a disk that is asked to flush may take long; a dead network is found by ssh

    @property
    def place(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def words(self) -> list[str]:
        """``ssh`` with what leads to the server, for a person or for us; options of ours go before the last."""
        words = ["ssh"]
        if self.config_file is not None:
            words += ["-F", self.config_file]
        if self.identity_file is not None:
            words += ["-i", self.identity_file, "-o", "IdentitiesOnly=yes"]
        if self.known_hosts_file is not None:
            words += ["-o", f"UserKnownHostsFile={_quoted(self.known_hosts_file)}"]
        if self.port is not None:
            words += ["-p", str(self.port)]
        if self.user is not None:
            words += ["-l", self.user]
        return [*words, self.host]


def _quoted(path: str) -> str:
    """A path as ssh_config(5) takes it: several are apart by spaces, and percent signs are tokens."""
    escaped = path.replace("%", "%%")
    return f'"{escaped}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class SftpAddress:
    """A directory behind a server. ``root`` as the server takes it: absolute, or relative to where a login begins."""

    url: str
    root: bytes
    ssh: SshSettings
    file_system: int | None = None


def parse_sftp_address(settings: StoreSettings) -> SftpAddress:
    """From ``sftp://[user@]host[:port]/absolute/path``, or ``/~/path`` below the directory where a login begins.

    Raises UsageError.
    """
    from urllib.parse import unquote_to_bytes

    url = settings.url
    refuse_password(url)
    if "?" in url or "#" in url:
        raise UsageError(f'"{url}" has a query or fragment', hint='Write "?" as %3F and "#" as %23.')
    found = _URL.fullmatch(url)
    if found is None:
        raise UsageError(
            f'"{url}" does not name a directory of a server',
            hint="Write sftp://user@host/absolute/path, or sftp://user@host/~/path for one below the user's home.",
        )
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 1 << 16:
        raise UsageError(f'"{url}" has no port between 1 and 65535')
    path = os.path.normpath(b"/" + unquote_to_bytes(found["path"]).lstrip(b"/"))
    if b"\0" in path:
        raise UsageError(f'"{url}" holds a null byte')
    return SftpAddress(
        url=url,
        root=path.removeprefix(b"/~/"),
        ssh=SshSettings(
            host=found["address"] or found["name"],
            user=found["user"],
            port=port,
            identity_file=settings.identity_file,
            known_hosts_file=settings.known_hosts_file,
            config_file=settings.ssh_config_file,
            answer_seconds=settings.request_timeout_seconds,
        ),
    )
