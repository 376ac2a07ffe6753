"""Incremental backups, side by side: after nothing changed, after 1 % of all pages changed, and what the 30th costs.

    python -m bench.incremental [--major 17] [--rounds 3] [--backups 30] [--quick] …

Every tool takes a full backup first. Then, round by round, rows in randomly chosen pages are deleted (each changes one
page in place, and no other), and each tool backs that up. At last the database doubles without further changes to what
there was, and pghaven goes on alone to many backups, whose last one is restored beside the first.

Debian's pgBackRest knows no PostgreSQL after 15, and PostgreSQL's own incremental backups begin with 17, so a whole
picture takes two runs: ``--major 15`` and ``--major 17``.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.common import (
    BenchError,
    Measurement,
    count_tree,
    make_directory,
    make_ratio,
    measure,
    median,
    remove,
    render_table,
)
from bench.data import BenchServer, prepare
from bench.restore import Way, restore_in_turns
from bench.rounds import run_stand_alone
from bench.tools import LEVEL, PgBackRest, Pghaven, Tool, require_program

NAME = "incremental"
_SHARE = 0.01
_BACKUPS = 30
_TABLE = "pgbench_accounts"


class Incremental(Protocol):
    """A tool with a full backup behind it."""

    name: str
    version: str
    log: Path

    def begin(self) -> None: ...

    def command(self) -> Sequence[str]: ...

    def count_stored(self) -> int: ...


class _OfTool:
    """pghaven or pgBackRest: backups go into one repository, and what one stored is how much that grew."""

    def __init__(self, server: BenchServer, tool: Tool, words: Sequence[str], name: str) -> None:
        self._server, self.tool, self._words = server, tool, words
        self.name, self.version, self.log = name, tool.version, tool.log
        self._archive_command = ""

    def begin(self) -> None:
        self._archive_command = self.tool.reset()
        self._server.archive_with(self._archive_command)
        measure(self.tool.backup_command(), log=self.log, server_pid=self._server.pid)

    def command(self) -> Sequence[str]:
        self._server.archive_with(self._archive_command)
        return [*self.tool.backup_command(), *self._words]

    def count_stored(self) -> int:
        return self.tool.count_repository()[1]


class _PgBackRest(_OfTool):
    def command(self) -> Sequence[str]:
        whole = super().command()
        return [word.replace("--type=full", "--type=incr") for word in whole]


class PgIncremental:
    """PostgreSQL's own: a directory a backup, tar with zstd; each on the one before."""

    name = "pg_basebackup --incremental"

    def __init__(self, server: BenchServer) -> None:
        self._server = server
        self._directory = make_directory(server.directory / "pg_incremental")
        self._count = 0
        self.log = self._directory / "log"
        self.version = server.programs.version

    def begin(self) -> None:
        remove(self._directory)
        make_directory(self._directory)
        self._count = 0
        measure(self._next(), log=self.log, server_pid=self._server.pid)

    def _next(self) -> list[str]:
        before, here = (self._directory / str(number) for number in (self._count, self._count + 1))
        words = [
            *(self._server.programs.path("pg_basebackup"), "-h", str(self._server.sockets), "-U", "postgres"),
            *("-D", str(here), "-F", "tar", f"--compress=server-zstd:{LEVEL}", "-X", "none", "--checkpoint=fast"),
        ]
        if self._count:
            words.append(f"--incremental={before / 'backup_manifest'}")
        self._count += 1
        return words

    def command(self) -> Sequence[str]:
        self._server.archive_with("/bin/true")
        return self._next()

    def count_stored(self) -> int:
        return count_tree(self._directory)[1]

    def combine_command(self, target: Path) -> Sequence[str]:
        """What has to be done before the newest one can be started: unpack all, and put them together."""
        tar, zstd = require_program("tar"), require_program("zstd")
        plain = self._directory / "plain"
        steps = []
        for number in range(1, self._count + 1):
            here, into = shlex.quote(str(self._directory / str(number))), shlex.quote(str(plain / str(number)))
            steps.append(f"mkdir -p {into} && {zstd} -dcq {here}/base.tar.zst | {tar} -xf - -C {into}")
            steps.append(f"cp {here}/backup_manifest {into}")
        inputs = " ".join(shlex.quote(str(plain / str(number))) for number in range(1, self._count + 1))
        combine = self._server.programs.path("pg_combinebackup")
        steps.append(f"{combine} {inputs} -o {shlex.quote(str(target))}")
        return ["/bin/sh", "-c", " && ".join(steps)]


def open_incrementals(server: BenchServer, tools: Sequence[Tool]) -> list[Incremental]:
    found: list[Incremental] = []
    has_summaries = server.programs.major >= 17
    for tool in tools:
        if isinstance(tool, Pghaven):
            if has_summaries:
                found.append(_OfTool(server, tool, ["--changes", "summaries"], "pghaven"))
            else:
                found.append(_OfTool(server, tool, ["--changes", "lsn"], "pghaven"))
        elif isinstance(tool, PgBackRest) and not has_summaries:
            found.append(_PgBackRest(server, tool, [], tool.name))
    if has_summaries:
        found.append(PgIncremental(server))
    return found


def change_pages(server: BenchServer, dice: random.Random, share: float, database: str = "shop") -> int:
    """Delete one row in each of randomly chosen pages of the largest table; returns how many pages that changed."""
    pages = int(server.sql(f"SELECT pg_relation_size('{_TABLE}') / 8192", database))
    total = int(server.sql("SELECT sum(pg_database_size(oid))::bigint / 8192 FROM pg_database", database))
    wanted = sorted(dice.sample(range(pages), min(pages, int(total * share))))
    row = dice.randrange(1, 50)
    text = "ARRAY[" + ",".join(f"'({page},{row})'" for page in wanted) + "]::tid[]"
    delete = f"WITH gone AS (DELETE FROM {_TABLE} WHERE ctid = ANY ({text}) RETURNING 1) SELECT count(*) FROM gone"
    changed = int(server.sql(delete, database))
    server.sql("CHECKPOINT", database)
    if changed < len(wanted) // 2:
        raise BenchError(f"only {changed} of {len(wanted)} pages still had row {row}; have the cluster made anew")
    return changed


def run_rounds(server: BenchServer, tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measures every tool; then pghaven alone over many backups."""
    if server.programs.major >= 17:
        server.sql("ALTER SYSTEM SET summarize_wal = on")
        server.sql("SELECT pg_reload_conf()")
        server.sql("CHECKPOINT")
    # Not the rows that an earlier run on the same cluster has deleted: those would change nothing.
    dice = random.Random(int(server.sql("SELECT txid_current()")))
    ours = open_incrementals(server, tools)
    for one in ours:
        prepare(server)
        one.begin()
    unchanged: dict[str, list[Measurement]] = {one.name: [] for one in ours}
    changed: dict[str, list[Measurement]] = {one.name: [] for one in ours}
    stored: dict[str, list[int]] = {one.name: [] for one in ours}
    pages = 0
    for number in range(rounds):
        for results in (unchanged, changed):
            if results is changed:
                pages = change_pages(server, dice, _SHARE)
            for one in ours:
                before = one.count_stored()
                results[one.name].append(measure(one.command(), log=one.log, server_pid=server.pid))
                if results is changed:
                    stored[one.name].append(one.count_stored() - before)
                print(f"  {number + 1}/{rounds} {one.name}: {results[one.name][-1].wall_seconds:.2f} s", flush=True)
    table = {
        one.name: median(changed[one.name])
        | {
            "version": one.version,
            "unchanged_wall_seconds": median(unchanged[one.name])["wall_seconds"],
            "stored_bytes": sorted(stored[one.name])[len(stored[one.name]) // 2],
            "changed_bytes": pages * 8192,
        }
        for one in ours
    }
    return table, _run_alone(server, ours, dice)


def _run_alone(server: BenchServer, ours: Sequence[Incremental], dice: random.Random) -> dict[str, Any]:
    """After the database has doubled, and then backup after backup; the last one restored beside a full one."""
    (pghaven,) = [one for one in ours if isinstance(one, _OfTool) and one.name == "pghaven"]
    result: dict[str, Any] = {}
    own = [one for one in ours if isinstance(one, PgIncremental)]
    if own:
        target = server.directory / "combined"
        remove(target)
        result["combine"] = median([measure(own[0].combine_command(target), log=own[0].log, server_pid=server.pid)])
        remove(target)
        remove(server.directory / "pg_incremental" / "plain")
    server.sql(f"CREATE TABLE twice AS SELECT * FROM {_TABLE}", "shop")
    server.sql("VACUUM twice", "shop")
    measure(pghaven.command(), log=pghaven.log, server_pid=server.pid)
    doubled = []
    for _ in range(3):
        change_pages(server, dice, _SHARE / 2)
        doubled.append(measure(pghaven.command(), log=pghaven.log, server_pid=server.pid))
        print(f"  doubled pghaven: {doubled[-1].wall_seconds:.2f} s", flush=True)
    result["doubled"] = median(doubled)
    server.sql("DROP TABLE twice", "shop")
    measure([*pghaven.command()[:-2], "--full"], log=pghaven.log, server_pid=server.pid)
    for _ in range(_BACKUPS):
        change_pages(server, dice, _SHARE)
        measure(pghaven.command(), log=pghaven.log, server_pid=server.pid)
    tool = pghaven.tool
    assert isinstance(tool, Pghaven)
    labels = tool.list_labels()
    chosen = {"full": labels[-_BACKUPS - 1], "last": labels[-1]}
    ways = [Way(name=kind, tool=tool, words=("--backup", label)) for kind, label in chosen.items()]
    restores = restore_in_turns(server, ways, 3)
    return result | {f"restore_{kind}": median(taken) for kind, taken in restores.items()}


def render(results: Mapping[str, Any], title: str) -> str:
    rows = [
        [
            f"{name} {row['version']}",
            f"{row['unchanged_wall_seconds']:.2f}",
            f"{row['wall_seconds']:.2f} ({row['wall_best_seconds']:.2f})",
            f"{row['cpu_seconds']:.2f}",
            f"{row['server_seconds']:.2f}",
            f"{row['memory_bytes'] / (1 << 20):.0f}",
            f"{row['stored_bytes'] / 1e6:.1f}",
            make_ratio(results, name),
        ]
        for name, row in results.items()
    ]
    changed = next(iter(results.values()))["changed_bytes"] / 1e6
    header = ["tool", "nothing changed, wall s", "1 % changed, wall s (best)", "CPU s", "server CPU s", "memory MiB"]
    header += ["stored MB", "wall, pghaven = 1"]
    return f"### Incremental backup: {title}; {changed:.0f} MB of pages changed\n\n{render_table(header, rows)}"


def render_alone(results: Mapping[str, Any], title: str) -> str:
    names = {
        "combine": "pg_combinebackup of what PostgreSQL's own tool stored, unpacked first",
        "doubled": "pghaven, as many pages changed, database twice as large",
        "restore_full": "pghaven, restore of a full backup",
        "restore_last": f"pghaven, restore of the {_BACKUPS}th backup after it",
    }
    rows = [
        [words, f"{results[name]['wall_seconds']:.2f} ({results[name]['wall_best_seconds']:.2f})"]
        for name, words in names.items()
        if name in results
    ]
    return f"### And then: {title}\n\n{render_table(['what', 'wall s (best)'], rows)}"


def main() -> None:
    run_stand_alone(NAME, run_rounds, (render, render_alone))


if __name__ == "__main__":
    main()
