"""Hooks called as Patroni calls them: by its words, in its environment, as the servers' user."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.commands import PghavenCommand
from tests.support.places import plain_user, run_as_plain

PATRONI_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PGPASSFILE": "/nowhere/pgpass", "PGPASSWORD": "wrong", "PGHOST": "::1"}


def call_hook(
    command: PghavenCommand,
    config: Path,
    words: Sequence[str],
    *,
    environment: Mapping[str, str] = PATRONI_ENVIRONMENT,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """``pghaven --config FILE ha hook WORDS``."""
    line = [*command.words, "--config", str(config), "ha", "hook", *words]
    return run_as_plain(line, env={**environment, "HOME": plain_user().home}, timeout=timeout)


def replica_words(data_directory: Path, *, node: str = "db1") -> list[str]:
    """As ``create_replica_methods`` does, with no leader to connect to."""
    return [
        *("replica", "main", "--node", node, "--no_leader=1", "--keep_data=True", "--scope=shop", "--role=replica"),
        *(f"--datadir={data_directory}", "--connstring="),
    ]
