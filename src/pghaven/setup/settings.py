"""What is to be changed in a server's settings, and what of it is written already and waits for a restart.

The one idea: a server tells which settings wait for a restart, so a plan is never shown, or carried out, twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from pghaven.postgres.settings import SettingAdvice, plan_settings
from pghaven.server.connection import Connection, fetch_one, server_errors
from pghaven.server.probe import ServerFacts

_COMMAND = "archive_command"
_DISABLED = "(disabled)"
_SUMMARIES = "summarize_wal"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupPlan:
    """``change`` is not written yet; ``waiting`` is written, and in force after a restart."""

    change: tuple[SettingAdvice, ...]
    waiting: tuple[SettingAdvice, ...]

    @property
    def is_ready(self) -> bool:
        """Whether everything that archiving needs is in force."""
        return not any(one.required for one in (*self.change, *self.waiting))


def read_written_command(connection: Connection) -> str:
    """The archive_command that the server's files give. While archive_mode is off the setting itself shows
    "(disabled)" (show_archive_command in xlog.c), but the value it would be reset to does not. ServerUnsuitable."""
    with server_errors(connection, "read archive_command"):
        (value,) = fetch_one(connection, "SELECT reset_val FROM pg_settings WHERE name = 'archive_command'")
    return str(value or "")


def plan_setup(
    facts: ServerFacts, archive_command: str, written_command: str, *, fails_over: bool = False
) -> SetupPlan:
    """``archive_command`` is the wanted one, ``written_command`` what ``read_written_command`` says. A server that
    ``fails_over`` is better off without WAL summaries, for which a promotion waits. Pure."""
    advice = plan_settings(facts.settings, archive_command, facts.major)
    advice = tuple(one for one in advice if not (fails_over and one.name == _SUMMARIES))
    waiting = tuple(one for one in advice if _is_written(one, facts, archive_command, written_command))
    return SetupPlan(change=tuple(one for one in advice if one not in waiting), waiting=waiting)


def _is_written(one: SettingAdvice, facts: ServerFacts, archive_command: str, written_command: str) -> bool:
    if one.name in facts.pending_restart:
        return True
    return one.name == _COMMAND and one.current == _DISABLED and written_command == archive_command
