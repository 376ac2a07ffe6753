"""What a server's settings must be so that its WAL reaches the archive, and what became of old ones.

The one idea: a plan lists only what should change, each with its reason and its price (a restart), and leaves alone
what already serves. Old recipes from the web are answered with what does the same today.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pghaven.postgres.version import MajorVersion

ARCHIVE_TIMEOUT_ADVISED: Final = "60s"
"""Bounds what is lost with the server when little is written; each switch costs one mostly empty segment, which
compresses to almost nothing.
"""

_SHOWN_WHEN_ARCHIVING_IS_OFF: Final = "(disabled)"  # show_archive_command in xlog.c
_ZERO_DURATION = re.compile(r"0+ *(?:us|ms|s|min|h|d)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingAdvice:
    """One setting to change. ``required``: without it there is no archive; the others are advice.

    ``needs_restart``: a reload of the configuration is not enough (context "postmaster").
    """

    name: str
    current: str
    wanted: str
    reason: str
    needs_restart: bool
    required: bool


def plan_settings(
    current: Mapping[str, str], wanted_archive_command: str, version: MajorVersion
) -> tuple[SettingAdvice, ...]:
    """What to change, required things first; empty when all is well.

    ``current`` holds settings as SHOW or pg_settings gives them. A setting missing there counts as an empty one.
    """
    advice = [*_plan_archiving(current, wanted_archive_command), *_plan_safety(current)]
    if version.has_wal_summaries and current.get("summarize_wal", "off") != "on":
        advice.append(
            SettingAdvice(
                name="summarize_wal",
                current=current.get("summarize_wal", ""),
                wanted="on",
                reason="backups learn from WAL summaries which blocks changed and read only those",
                needs_restart=False,
                required=False,
            )
        )
    return tuple(sorted(advice, key=lambda item: not item.required))


def _plan_archiving(current: Mapping[str, str], wanted_archive_command: str) -> list[SettingAdvice]:
    def required(name: str, wanted: str, reason: str, *, needs_restart: bool) -> SettingAdvice:
        return SettingAdvice(
            name=name,
            current=current.get(name, ""),
            wanted=wanted,
            reason=reason,
            needs_restart=needs_restart,
            required=True,
        )

    advice: list[SettingAdvice] = []
    if current.get("wal_level", "") not in {"replica", "logical"}:
        reason = "WAL must hold all that a restore replays"
        advice.append(required("wal_level", "replica", reason, needs_restart=True))
    if current.get("archive_mode", "") not in {"on", "always"}:
        reason = "nothing is archived without it"
        advice.append(required("archive_mode", "on", reason, needs_restart=True))
    if current.get("archive_library", ""):
        reason = "a library takes the place of archive_command, and since 16 the server refuses both"
        advice.append(required("archive_library", "", reason, needs_restart=False))
    command = current.get("archive_command", "")
    if command != wanted_archive_command:
        replaced = command not in {"", _SHOWN_WHEN_ARCHIVING_IS_OFF}
        reason = "each WAL segment goes to the repository" + (" instead of where it goes now" if replaced else "")
        advice.append(required("archive_command", wanted_archive_command, reason, needs_restart=False))
    return advice


def _plan_safety(current: Mapping[str, str]) -> list[SettingAdvice]:
    advised: list[tuple[str, str, str]] = []
    if _ZERO_DURATION.fullmatch(current.get("archive_timeout", "0")):
        reason = "without it the last transactions of a quiet server reach the archive only when a segment fills up"
        advised.append(("archive_timeout", ARCHIVE_TIMEOUT_ADVISED, reason))
    if current.get("full_page_writes", "on") != "on":
        reason = "without it a crash can leave torn pages, and a standby cannot be backed up"
        advised.append(("full_page_writes", "on", reason))
    if current.get("fsync", "on") != "on":
        reason = "without it a crash of the machine can leave the cluster damaged, and backups then copy the damage"
        advised.append(("fsync", "on", reason))
    return [
        SettingAdvice(
            name=name,
            current=current.get(name, ""),
            wanted=wanted,
            reason=reason,
            needs_restart=False,
            required=False,
        )
        for name, wanted, reason in advised
    ]


def quote_command_word(word: str) -> str:
    """One word of archive_command or restore_command, safe from the shell and from the server.

    The server replaces ``%`` and what follows it, so that a path with ``%`` in it needs ``%%``. Leave ``%p`` and
    ``%f`` themselves unquoted by this.
    """
    return shlex.quote(word).replace("%", "%%")


@dataclass(frozen=True, slots=True, kw_only=True)
class OldRecipe:
    """Something that old manuals tell people to do: the major version that ended it, and what does it today."""

    gone_since: str
    instead: str


_SIGNAL_FILES: Final = "an empty file recovery.signal or standby.signal, with the settings in postgresql.conf"

OLD_RECIPES: Final[Mapping[str, OldRecipe]] = {
    # Settings.
    "checkpoint_segments": OldRecipe(gone_since="9.5", instead="max_wal_size"),
    "wal_keep_segments": OldRecipe(gone_since="13", instead="wal_keep_size, or a replication slot"),
    "wal_level=archive": OldRecipe(gone_since="9.6", instead="wal_level=replica"),
    "wal_level=hot_standby": OldRecipe(gone_since="9.6", instead="wal_level=replica"),
    "replication_timeout": OldRecipe(gone_since="9.3", instead="wal_sender_timeout"),
    "stats_temp_directory": OldRecipe(gone_since="15", instead="nothing: statistics are kept in shared memory"),
    "vacuum_defer_cleanup_age": OldRecipe(gone_since="16", instead="hot_standby_feedback, or a replication slot"),
    "promote_trigger_file": OldRecipe(gone_since="16", instead="pg_ctl promote, or SELECT pg_promote()"),
    # recovery.conf and what stood in it under names that are no settings now.
    "recovery.conf": OldRecipe(gone_since="12", instead=_SIGNAL_FILES),
    "recovery.done": OldRecipe(gone_since="12", instead="nothing: the server removes recovery.signal at the end"),
    "standby_mode": OldRecipe(gone_since="12", instead="an empty file standby.signal"),
    "trigger_file": OldRecipe(gone_since="12", instead="pg_ctl promote, or SELECT pg_promote()"),
    "pause_at_recovery_target": OldRecipe(gone_since="9.5", instead="recovery_target_action"),
    # Functions, programs and places.
    "pg_start_backup()": OldRecipe(gone_since="15", instead="pg_backup_start()"),
    "pg_stop_backup()": OldRecipe(gone_since="15", instead="pg_backup_stop(), in the session that began the backup"),
    "exclusive backup mode": OldRecipe(gone_since="15", instead="pg_backup_start() with the session kept open"),
    "pg_is_in_backup()": OldRecipe(gone_since="15", instead="the view pg_stat_progress_basebackup, for pg_basebackup"),
    "pg_switch_xlog()": OldRecipe(gone_since="10", instead="pg_switch_wal()"),
    "pg_xlogfile_name()": OldRecipe(gone_since="10", instead="pg_walfile_name()"),
    "pg_receivexlog": OldRecipe(gone_since="10", instead="pg_receivewal"),
    "pg_resetxlog": OldRecipe(gone_since="10", instead="pg_resetwal, which makes every backup before it useless"),
    "pg_xlogdump": OldRecipe(gone_since="10", instead="pg_waldump"),
    "pg_xlog": OldRecipe(gone_since="10", instead="pg_wal"),
    "pg_clog": OldRecipe(gone_since="10", instead="pg_xact"),
    "pg_standby": OldRecipe(gone_since="15", instead="restore_command with standby.signal"),
}
"""By what the old recipe names: a setting, ``setting=value``, a file, a function (with brackets) or a program."""
