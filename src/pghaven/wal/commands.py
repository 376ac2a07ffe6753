"""The two settings through which PostgreSQL calls us: ``archive_command`` and ``restore_command``.

The one idea: such a setting is read twice, by PostgreSQL (``%``) and by ``sh``, and must come through both as it was
meant, whatever the paths in it hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pghaven.errors import EXIT_STOP_RECOVERY, UsageError
from pghaven.light import pattern
from pghaven.wal.marks import MARK_TEST
from pghaven.wal.spool import name_key, render_take

ABSENT_STATUS = 86
"""What ``wal get`` is told to end with on proven absence. Not 1, which is also the status of an interpreter that cannot
import its program; ``sh`` turns this, and nothing else, into the 1 that PostgreSQL knows."""

# Until PostgreSQL 15 a longer archive_command is cut off without a word (MAXPGPATH in shell_archive.c); a name of up
# to 64 characters takes the place of %f, and a path with it that of %p, twice.
_ARCHIVE_COMMAND_BYTES_MAX = 1023 - 3 * 80
_PLAIN = pattern(r"[A-Za-z0-9_@+=:,./-]+", re.ASCII)


def render_archive_command(executable: str | Sequence[str], config_path: str, cluster: str) -> str:
    """The value of ``archive_command``. ``executable`` is the program, or several words that start it.

    Where an earlier push has left a mark, looking at it is all that is done.
    Raises UsageError when it is too long for PostgreSQL.
    """
    words = [*_words(executable), "wal", "push", "--config", config_path, "--cluster", cluster]
    command = f"{MARK_TEST} || exec {_render(words)} %p"
    if len(command.encode(errors="surrogateescape")) > _ARCHIVE_COMMAND_BYTES_MAX:
        raise UsageError(
            "the archive_command would be too long for PostgreSQL",
            detail=command,
            hint="Give the configuration file or the program a shorter path.",
        )
    return command


def render_restore_command(
    executable: str | Sequence[str], config_path: str, cluster: str, plan_path: str | None
) -> str:
    """The value of ``restore_command``. ``plan_path`` is relative to the data directory; None for no plan.

    PostgreSQL takes every status from 1 to 125 for "there is no such file" and ends recovery. So only success and
    proven absence get through, and all else (a crash, a program that is not there, a lost library) becomes 255.
    A segment that was fetched ahead is put in place by the shell.
    """
    words = [*_words(executable), "wal", "get", "--config", config_path, "--cluster", cluster]
    if plan_path is not None:
        words += ["--plan", plan_path]
    words += ["--absent-status", str(ABSENT_STATUS)]
    return (
        f"{render_take(name_key(config_path, cluster, plan_path))}"
        f"{_render(words)} %f %p; s=$?; [ $s -eq 0 ] && exit 0; [ $s -eq {ABSENT_STATUS} ] && exit 1; "
        f"exit {EXIT_STOP_RECOVERY}"
    )


def _words(executable: str | Sequence[str]) -> Sequence[str]:
    return [executable] if isinstance(executable, str) else executable


def _render(words: Sequence[str]) -> str:
    return " ".join(_quote(word) for word in words)


def _quote(word: str) -> str:
    """A word as ``sh`` takes it, with ``%`` doubled for PostgreSQL. ValueError for a zero byte."""
    if "\0" in word:
        raise ValueError("a command cannot hold a zero byte")
    quoted = word if _PLAIN.fullmatch(word) else "'" + word.replace("'", "'\"'\"'") + "'"
    return quoted.replace("%", "%%")
