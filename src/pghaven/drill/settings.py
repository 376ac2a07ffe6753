"""How the server of a drill is set: nothing that the backup's configuration says has any effect.

The one idea: what is restored may be hostile, or meant for another host. So its ``postgresql.conf`` is not read, its
``postgresql.auto.conf`` is emptied, and everything that counts stands on the command line. What the configuration's
absence leaves to the server's defaults is harmless; what a role's or a database's own settings could still do is
overridden by each session.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from pghaven.postgres.control import ControlFile

_NICE: Final = 10
# What a container's kernel or an old util-linux may refuse is tried before it is used.
_NETWORK_OF_ITS_OWN: Final = (("--net",), ("--user", "--map-current-user", "--net"))

_CLOSED: Final = {
    "archive_command": "",
    "archive_library": "",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "primary_slot_name": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "dynamic_library_path": "$libdir",
    "external_pid_file": "",
    "unix_socket_group": "",
    "bonjour": "off",
}
# Each of these would have the server pass over damage, or look whole although it is not.
_HONEST: Final = {
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
    "ignore_system_indexes": "off",
    "ignore_invalid_pages": "off",
}
# A copy that is removed afterwards need not survive a crash, and must leave room to others.
_MODEST: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "jit": "off",
    "huge_pages": "off",
    "shared_buffers": "128MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "temp_file_limit": "1GB",
    "max_parallel_workers": "0",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "1h",
    "lc_messages": "C",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "cluster_name": "pghaven drill",
}
_SINCE_17: Final = {"sync_replication_slots": "off", "summarize_wal": "off"}


def render_settings(control: ControlFile, major: int, preload: Sequence[str]) -> dict[str, str]:
    """For the command line, beside those that close a scratch place. ``preload`` are libraries that the reading of
    some tables needs; without it no extension's background worker runs.

    What a standby must have no less of than its primary is twice what ``control`` says or more: recovery in which
    somebody may look pauses where the source raised it further. It costs some 100 MiB of shared memory.
    """
    settings = {
        **_CLOSED,
        **_HONEST,
        **_MODEST,
        "shared_preload_libraries": ",".join(preload),
        "max_connections": str(max(2 * control.max_connections, 1000)),
        "max_worker_processes": str(max(2 * control.max_worker_processes, 100)),
        "max_wal_senders": str(max(2 * control.max_wal_senders, 100)),
        "max_prepared_transactions": str(max(2 * control.max_prepared_transactions, 500)),
        "max_locks_per_transaction": str(max(2 * control.max_locks_per_transaction, 128)),
    }
    return {**settings, **_SINCE_17} if major >= 17 else settings


def render_session_options(major: int) -> str:
    """For ``options`` of a connection, where they win over what ALTER ROLE and ALTER DATABASE have set: libraries to
    load, another role to act as, times after which a long count ends. Every session of ours sets some of these too, but
    a time of a millisecond may end that very statement."""
    options = ["session_preload_libraries=", "local_preload_libraries=", "role=none"]
    options += ["statement_timeout=0", "lock_timeout=0"]
    if major >= 17:
        options.append("transaction_timeout=0")
    return " ".join(f"-c {one}" for one in options)


def find_quiet_words() -> tuple[str, ...]:
    """What goes before the server's program, so that it gives way to everybody else."""
    found: tuple[str, ...] = ()
    for words in (("nice", "-n", str(_NICE)), ("ionice", "-c", "3")):
        if shutil.which(words[0]) is not None and _works(words):
            found += words
    return found


def find_network_words(as_user: int | None) -> tuple[str, ...]:
    """What goes before the server's program so that it has a network of its own, with nobody in it; empty where this
    host does not allow that. ``as_user`` is who will run it, None for ourselves."""
    if shutil.which("unshare") is None:
        return ()
    for options in _NETWORK_OF_ITS_OWN:
        words = ("unshare", *options, "--")
        if _works(words, as_user):
            return words
    return ()


def _works(words: Sequence[str], as_user: int | None = None) -> bool:
    try:
        done = subprocess.run([*words, "true"], capture_output=True, check=False, cwd="/", user=as_user)
    except OSError:
        return False
    return done.returncode == 0
