"""What a failed run tells: one message for people or one object for programs, and the exit status.

The one idea: an error's class has already decided its status and its words; here they are only shown. What is no
error of ours is a bug, and says so with its trace.
"""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass

import click

from pghaven import __version__
from pghaven.cli.output import EXIT_READER_GONE, ReaderGone, make_printable, write_error, write_out
from pghaven.errors import EXIT_BUG, EXIT_DONE, Cancelled, PghavenError, UsageError


class Terminated(KeyboardInterrupt):
    """A signal asked the program to end; its text is the signal's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure as it is shown. ``trace`` is there for bugs only."""

    code: str
    message: str
    detail: str | None
    hint: str | None
    exit_status: int
    trace: str | None = None


def report_failure(error: BaseException, *, as_json: bool, failure_status: int | None) -> int:
    """Show why the run failed and return the exit status.

    ``failure_status`` is the one status that the command declared for all its failures, if it did.
    """
    if isinstance(error, ReaderGone):
        return EXIT_READER_GONE if failure_status is None else failure_status
    if isinstance(error, SystemExit):
        status = _status_of(error)
        return status if failure_status is None or status == EXIT_DONE else failure_status
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        write_error(error.format_message() + "\n")
        return UsageError.exit_status if failure_status is None else failure_status
    failure = describe_failure(error, failure_status)
    if failure.trace:
        write_error(failure.trace)
    if as_json:
        with suppress(ReaderGone, Cancelled):
            write_out(render_failure_json(failure))
    else:
        write_error(render_failure(failure))
    return failure.exit_status


def describe_failure(error: BaseException, failure_status: int | None = None) -> Failure:
    """The words and the status for an error of any kind."""
    ours = _translate(error)
    if ours is None:
        return Failure(
            code="bug",
            message=f"unexpected {type(error).__name__}: {error}",
            detail=f"This is a bug in pghaven {__version__} (Python {sys.version.split()[0]}, {sys.platform}).",
            hint="Please report it together with the trace above.",
            exit_status=EXIT_BUG if failure_status is None else failure_status,
            trace="".join(traceback.format_exception(error)),
        )
    return Failure(
        code=ours.code,
        message=ours.message,
        detail=ours.detail,
        hint=ours.hint,
        exit_status=ours.exit_status if failure_status is None else failure_status,
    )


def render_failure(failure: Failure) -> str:
    """Lines for people, in the form of PostgreSQL's own programs."""
    from pghaven.cli.progress import render_label

    lines = [f"pghaven: {render_label('error:')} {make_printable(failure.message)}"]
    for label, text in (("DETAIL:  ", failure.detail), ("HINT:  ", failure.hint)):
        if text:
            lines.append(label + make_printable(text, keep="\n").replace("\n", "\n" + " " * len(label)))
    return "\n".join(lines) + "\n"


def render_failure_json(failure: Failure) -> str:
    """One line for programs."""
    error = {
        "code": failure.code,
        "message": failure.message,
        "detail": failure.detail,
        "hint": failure.hint,
        "exit_status": failure.exit_status,
    }
    return json.dumps({"schema": "pghaven/error/1", "error": error}) + "\n"


def _translate(error: BaseException) -> PghavenError | None:
    """The error as one of ours; None for a bug."""
    if isinstance(error, PghavenError):
        return error
    if isinstance(error, Terminated):
        return Cancelled(f"ended by {error}")
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Cancelled("interrupted")
    if isinstance(error, MemoryError):
        return Cancelled("out of memory", hint="Fewer worker processes need less; see the option processes.")
    if isinstance(error, click.ClickException):
        return _translate_usage(error)
    return None


def _translate_usage(error: click.ClickException) -> UsageError:
    # Click writes sentences; ours are clauses. Its suggestions become part of the message and stay.
    message = error.format_message().strip().removesuffix(".").replace("'", '"')
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "pghaven"
    return UsageError(message[:1].lower() + message[1:], hint=f"Try: {path} --help")


def _status_of(error: SystemExit) -> int:
    if error.code is None:
        return EXIT_DONE
    if isinstance(error.code, int):
        return error.code
    write_error(f"{error.code}\n")
    return EXIT_BUG
