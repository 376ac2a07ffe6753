"""``pghaven demo``: the whole story on a PostgreSQL of its own, ending in three measured numbers."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import click

from pghaven.cli.invocation import Invocation
from pghaven.cli.output import make_printable, write_out

if TYPE_CHECKING:
    from pghaven.demo.results import Chapter, DemoResult, Kept, Said

DEFAULT_SIZE = "250MiB"
_INDENT = "     "


@click.command("demo")
@click.option("--keep", is_flag=True, help="Leave servers and files for looking around.")
@click.option("--directory", metavar="DIR", help="Where; empty or not there yet.  [default: a temporary directory]")
@click.option("--size", default=DEFAULT_SIZE, show_default=True, metavar="SIZE", help="About how much data.")
@click.option("--remove", metavar="DIR", help="Stop and remove a demonstration that was kept.")
@click.pass_obj
def command(invocation: Invocation, *, keep: bool, directory: str | None, size: str, remove: str | None) -> int:
    """See the whole story on a PostgreSQL of its own: backup, accident, restore, and what it would have cost.

    Needs no server, no configuration and no special rights, and leaves nothing behind unless told to.
    """
    from pghaven.clock import SYSTEM_CLOCK
    from pghaven.demo.ground import clear
    from pghaven.demo.story import DemoRequest, run_demo

    if remove is not None:
        clear(os.path.abspath(remove), SYSTEM_CLOCK)
        return invocation.show("demo-remove", {"removed": remove}, f"{make_printable(remove)} is removed\n")
    request = DemoRequest(directory=directory, size_bytes=_parse_size(size), keep=keep)
    # What leads pghaven and libpq to clusters of the reader's own has no place in it, nor in what its servers start.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    reporter = invocation.reporter

    def tell(told: Chapter | Said) -> None:
        if invocation.json or invocation.quiet:
            return
        with reporter:
            pass  # at a block's end the terminal's line is clean
        write_out(render_told(told))

    with reporter as listener:
        result = run_demo(request, tell, listener)
    return invocation.show("demo", render_body(result), render_result(result))


def _parse_size(text: str) -> int:
    from pghaven.errors import UsageError
    from pghaven.units import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from error


def render_told(told: Chapter | Said) -> str:
    """Lines of the story."""
    from pghaven.demo.results import Chapter

    if not isinstance(told, Chapter):
        return f"{_INDENT}{make_printable(told.text)}\n"
    text = f"\n{told.number}/{told.count}  {make_printable(told.title)}\n"
    return text + (f"{_INDENT}$ {make_printable(told.command)}\n" if told.command else "")


def render_body(result: DemoResult) -> dict[str, object]:
    restore, window = result.restore, result.window
    return {
        "server_version": result.server_version,
        "cluster": result.cluster,
        "database_bytes": result.database_bytes,
        "backup": result.backup,
        "accident_at": result.accident_at,
        "lost_table": result.lost_table,
        "lost_rows": result.lost_rows,
        "would_be_lost": result.loss,
        "restore": restore,
        "tables": [{"name": one.before.name, "rows": one.before.rows, "same": one.is_same} for one in result.tables],
        "missing_rows": result.missing_rows,
        "window": {"begin": window.begin, "end": window.end, "seconds": window.seconds},
        "total_seconds": result.total_seconds,
        "kept": result.kept,
    }


def render_result(result: DemoResult) -> str:
    """The three numbers, and where to go from here."""
    from pghaven.units import render_duration, render_size, render_time

    loss, restore, window = result.loss, result.restore, result.window
    other = restore.planning_seconds + restore.opening_seconds
    text = "\n" + "-" * 78 + "\n"
    text += _render_number(
        "How much would have been lost?",
        "nothing" if not loss.wal_bytes else render_duration(loss.seconds),
        f"had the machine itself been lost: {render_size(loss.wal_bytes)} of WAL with {loss.orders:,} orders "
        "were not archived yet.",
        f"The server lived on: of the {result.lost_rows:,} rows dropped, {result.missing_rows:,} are missing.",
    )
    text += _render_number(
        "How long until it was back?",
        render_duration(restore.total_seconds),
        f"{render_duration(restore.files_seconds)} for {render_size(restore.files_bytes)} of files, "
        f"{render_duration(restore.replay_seconds)} for replaying {render_size(restore.replay_bytes)} of WAL, "
        f"{render_duration(other)} for planning and opening.",
    )
    text += _render_number(
        "How far back could one go?",
        render_duration(window.seconds),
        f"any moment from {render_time(window.begin)}, the end of the backup, to {render_time(window.end)}.",
        "Every WAL segment that is archived extends it.",
    )
    text += "-" * 78 + f"\n\nAll of it took {render_duration(result.total_seconds)}"
    text += "; nothing of it is left.\n" if result.kept is None else ".\n" + _render_kept(result.kept)
    return text + _render_next()


def _render_number(question: str, number: str, *words: str) -> str:
    return f"{question:<32}{number}\n" + "".join(f"{_INDENT}{one}\n" for one in words)


def _render_kept(kept: Kept) -> str:
    from pghaven.setup.program import find_program

    def psql(conninfo: str) -> str:
        return f"{shlex.quote(kept.psql)} {shlex.quote(conninfo)}"

    program = shlex.join(find_program(None))
    config = f"--config {shlex.quote(kept.config_path)}"
    again = shlex.quote(f"{kept.directory}/again")
    pairs = [
        ("the shop after the accident", psql(kept.original)),
        ("the shop as restored", psql(kept.restored)),
        ("the repository", f"{program} {config} status"),
        (
            "another restore",
            f"{program} {config} restore shop --target-dir {again} --dry-run",
        ),
        ("stop and remove all of it", f"{program} demo --remove {shlex.quote(kept.directory)}"),
    ]
    ways = "".join(f"  {what}:\n    {make_printable(how)}\n" for what, how in pairs)
    return f"\nBoth servers run on in {make_printable(kept.directory)}. Look around:\n{ways}"


def _render_next() -> str:
    return (
        "\nProtect a server of your own, as root or as the user it runs as:\n"
        "  pghaven init main --repository file:///mnt/backup/pghaven --apply\n"
        "Then restart the server as init says, and: pghaven backup. The way is in docs/guide/protect-a-server.md.\n"
    )
