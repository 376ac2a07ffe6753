"""The reference page of exit statuses, rendered from the error classes.

The one idea: a status belongs to a class in ``pghaven.errors``; here stands only what it means in a shell's words.
"""

from __future__ import annotations

from pghaven.cli.main import FAILURE_STATUSES
from pghaven.cli.output import EXIT_READER_GONE
from pghaven.errors import EXIT_BUG, EXIT_DONE, EXIT_WARNINGS, PghavenError

MEANINGS = {
    EXIT_DONE: "done",
    EXIT_BUG: 'a bug in pghaven (and, for `wal get` alone, "not in the archive")',
    2: "wrong usage or configuration",
    EXIT_WARNINGS: "done, with warnings",
    10: "not found",
    11: "locked by another process",
    12: "refused by a safety rule",
    13: "not permitted, or wrong key",
    14: "store unreachable, or its disk full or failing",
    15: "server unreachable or unsuitable",
    16: "stored data damaged",
    17: "check or drill failed",
    18: "cancelled, or out of time",
    EXIT_READER_GONE: "whoever read standard output went away (as in `pghaven list \\| head`)",
    255: "`wal get` failed: anything but success or proven absence",
}

_HEAD = """# Exit statuses and error codes

<!-- Generated from src/pghaven/errors.py by "make docs"; do not edit. -->

The status tells a script what it may conclude; the code, in `--json` output, tells it more exactly.

| exit status | meaning | error codes |
|---|---|---|
"""

_TAIL = """
With `--json` a failing command prints one object on standard output:

```json
{"schema": "pghaven/error/1", "error": {"code": "not_found", "message": "…", "detail": null, "hint": null, "exit_status": 10}}
```

`pghaven wal get` is started by PostgreSQL's `restore_command`. PostgreSQL takes any status from 1 to 125 as the end of the
archive and then finishes recovery. So `wal get` ends with 1 only if the archive answered and the file is proven to be
absent from it; whatever else goes wrong, a mistake in the configuration included, ends with a status above 125, which
stops recovery without losing anything.
"""  # noqa: E501  the object is one line as the program prints it


def list_error_classes() -> list[type[PghavenError]]:
    """Every error class, by exit status and code."""
    found: list[type[PghavenError]] = []
    waiting: list[type[PghavenError]] = [PghavenError]
    while waiting:
        children = waiting.pop().__subclasses__()
        found += children
        waiting += children
    return sorted(found, key=lambda error: (error.exit_status, error.code))


def render_exit_statuses() -> str:
    """The whole page, Markdown."""
    codes: dict[int, list[str]] = {EXIT_BUG: ["`bug`"], **{status: ["any"] for status in FAILURE_STATUSES.values()}}
    for error in list_error_classes():
        codes.setdefault(error.exit_status, []).append(f"`{error.code}`")
    rows = (f"| {status} | {meaning} | {', '.join(codes.get(status, []))} |\n" for status, meaning in MEANINGS.items())
    return _HEAD + "".join(rows) + _TAIL
