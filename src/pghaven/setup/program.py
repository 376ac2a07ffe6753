"""The command line by which a server calls pghaven, tried out as the server's own user.

The one idea: a server runs ``archive_command`` and ``restore_command`` as its own user and without our environment.
Whether that user can run the program, read the configuration and reach the repository is tried, never concluded.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pghaven.errors import EXIT_DONE, EXIT_WARNINGS, UsageError
from pghaven.server.identity import OsUser, acting_as, child_identity

PROGRAM_NAME: Final = "pghaven"
_TRY_SECONDS: Final = 30
# What a service manager leaves of the environment.
_KEPT_VARIABLES: Final = ("PATH", "LANG", "LC_ALL", "TZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFailure:
    """Why the server's user cannot use pghaven, in one line, and what helps."""

    reason: str
    hint: str


def find_program(configured: str | None, argv0: str | None = None) -> tuple[str, ...]:
    """The words that start pghaven: ``configured`` (split as a shell would), else the program that is running.

    ``argv0`` is ``sys.argv[0]`` unless given. The installed script is named by the path it was called by, so that a
    link such as /usr/local/bin/pghaven survives an upgrade. Raises UsageError for a configured text without words.
    """
    if configured is not None:
        try:
            words = tuple(shlex.split(configured))
        except ValueError as error:
            raise UsageError(f'"program" cannot be read as a command line: {error}') from error
        if not words:
            raise UsageError('"program" is empty')
        return words
    script = os.path.abspath(sys.argv[0] if argv0 is None else argv0)
    if os.path.basename(script) == PROGRAM_NAME and os.access(script, os.X_OK) and os.path.isfile(script):
        return (script,)
    return (sys.executable, "-m", "pghaven.cli.main")


def try_program(words: Sequence[str], config_path: str, cluster: str, user: OsUser | None) -> ProgramFailure | None:
    """Have ``user`` (None: ourselves) list the cluster's backups with this program and configuration.

    None when that works: then the program runs, the configuration is read and the repository is reached. Raises
    NotPermitted when we are not root and the user is another.
    """
    command = [*words, "--config", config_path, "--json", "list", cluster]
    try:
        done = subprocess.run(
            command,
            env=_server_environment(user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRY_SECONDS,
            check=False,
            **child_identity(user),
        )
    except subprocess.TimeoutExpired:
        return _failure(words, user, f"it did not answer within {_TRY_SECONDS} s")
    except OSError as error:
        return _failure(words, user, (error.strerror or str(error)).lower())
    if done.returncode in (EXIT_DONE, EXIT_WARNINGS):
        return None
    told = _find_error(done.stdout)
    if told is not None:
        return ProgramFailure(
            reason=f"{_as_user(user)}, pghaven fails: {told['message']}",
            hint=str(told.get("hint") or f"Try it as that user: {shlex.join(command)}"),
        )
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return _failure(words, user, lines[-1].strip() if lines else f"exit status {done.returncode}")


def find_closed_directory(path: str, user: OsUser | None) -> str | None:
    """The first directory on the way to ``path`` that ``user`` (None: ourselves) may not enter; None when all are
    open or not made yet. A server that cannot enter one of them cannot be started there."""
    with acting_as(user):
        current = "/"
        for part in os.path.abspath(path).split("/")[1:]:
            if not os.access(current, os.X_OK, effective_ids=True):
                return current
            current = os.path.join(current, part)
            if not os.path.lexists(current):
                return None
    return None


def _failure(words: Sequence[str], user: OsUser | None, reason: str) -> ProgramFailure:
    return ProgramFailure(
        reason=f"{_as_user(user)}, {shlex.join(words)} cannot be run: {reason}",
        hint="Install pghaven where that user can run it (every directory above it must be open to the user), and name "
        'it as "program" in the cluster\'s section of the configuration.',
    )


def _as_user(user: OsUser | None) -> str:
    return "as this user" if user is None else f'as operating-system user "{user.name}"'


def _server_environment(user: OsUser | None) -> Mapping[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    if user is not None:
        kept |= {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    return kept


def _find_error(output: bytes) -> dict[str, object] | None:
    """The error object that pghaven prints with --json; None if this is something else."""
    try:
        error = json.loads(output)["error"]
    except (ValueError, KeyError, TypeError):
        return None
    return error if isinstance(error, dict) and "message" in error else None
