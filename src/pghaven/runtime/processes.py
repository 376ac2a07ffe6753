"""Child programs: run one to its end, within a time limit, and take what it says.

The one idea: a program's exit status is a value, not an error, because only the caller knows what it means; and when
the call is left by a time limit or an interrupt, the program and what it started (its process group) are ended first.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pghaven.errors import Cancelled, NotFound, NotPermitted
from pghaven.runtime.durable import OwnerOf
from pghaven.units import render_duration

GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramResult:
    """How a program ended. ``status`` is its exit status, or minus the signal that ended it."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def complaint(self) -> str:
        """What it said on stderr, else how it ended, as text for a message."""
        said = self.stderr.decode(errors="replace").strip()
        if said:
            return said
        if self.status < 0:
            return f"terminated by signal {-self.status}: {signal.strsignal(-self.status)}"
        return f"exit status {self.status}"


def run_program(
    arguments: Sequence[str],
    *,
    timeout_seconds: float,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    directory: str | None = None,
    run_as: OwnerOf | None = None,
) -> ProgramResult:
    """Run a program to its end; its output is held in memory.

    ``environment`` replaces ours; ``run_as`` (for root) sets user and group and drops all other groups. A program that
    leaves a daemon behind must not leave it our pipes, or the call waits for that too.
    Raises NotFound or NotPermitted if it cannot be started, and Cancelled when the time is up.
    """
    identity = {} if run_as is None else {"user": run_as.uid, "group": run_as.gid, "extra_groups": ()}
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=directory,
            process_group=0,
            **identity,  # type: ignore[call-overload]
        )
    except FileNotFoundError as error:
        raise NotFound(f'program "{error.filename or arguments[0]}" does not exist') from error
    except PermissionError as error:
        raise NotPermitted(f'could not run program "{arguments[0]}": {error.strerror}') from error
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_seconds)
        except subprocess.TimeoutExpired as error:
            _end_group(process)
            raise Cancelled(
                f'program "{arguments[0]}" did not end within {render_duration(timeout_seconds)}',
                detail=(error.stderr or b"").decode(errors="replace").strip() or None,
            ) from error
        except BaseException:
            _end_group(process)
            raise
    return ProgramResult(status=process.returncode, stdout=stdout, stderr=stderr)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
