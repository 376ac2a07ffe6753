"""The page of results: every case with every tool there is, or with a command that is given."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pghaven import __version__
from tests.recoveries.barman import find_barman
from tests.recoveries.cases import CASES, OPENS, STOPS, WAITS, Case
from tests.recoveries.recorded import Recorded, record
from tests.recoveries.run import Judge, Outcome
from tests.recoveries.tools import Pghaven, Plain, Tool, find_pgbackrest
from tests.support import places
from tests.support.commands import pghaven_command
from tests.support.fixtures import ClusterFactory
from tests.support.httpproxy import FaultyProxy, proxying
from tests.support.objectservers import ObjectServers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "design" / "restore-commands.md"
KEPT = Path(__file__).with_name("results.json")
"""What the page was made of, so that it can be made again of some cases that were run anew and all others."""
_NOT_TRIED = "–"
_HEAD = """# What a `restore_command` does when something is wrong

PostgreSQL takes every status of `restore_command` from 1 to 125 for "there is no such file". In a recovery without a
target that is the end of all WAL: it opens the database with what it has got. So a command that ends with 1, 2 or 103
because a store cannot be reached, or because it has found damage, loses transactions, and nobody is told.

This page is written by `python -m tests.recoveries --write`, which has real servers recover through each command while
something is wrong, and looks at what they did. `--command 'cp {archive}/%f %p'` judges any other command over plain
copies of WAL files. Other tools are judged where they are installed: pgBackRest by `archive-get`, Barman by
`barman-wal-restore` with `barman get-wal`, each as its documentation writes it.
"""
_KEY = """
- **opens**: the server came up with all rows. **stops**: it refused to, with the status of the command in parentheses;
  when what was wrong had been mended it was started again, and had all rows. **waits**: a standby went on asking, and
  had all rows in the end.
- **SHORT**: it came up without rows that are in the archive, with nothing but a line in its log. **ASTRAY**: it came
  up with rows of a history that was left. BEHIND: a standby goes on without rows that are there.
- –: not tried, since the tool has no such thing, or nobody has written down here how to do it to it.

The fourth of six segments, with a row each, is the one that something is wrong with, unless the case says otherwise.
`pghaven` recovers as `pghaven restore` leaves a directory, held to its plan; `pghaven, by hand` has `pghaven wal get`
without one. What a plan saves from is that of the segment in which a timeline was left the old primary's copy is
replayed beyond that point.
"""


def list_tools(command: str | None) -> list[Tool]:
    if command is not None:
        return [Plain(name=command, command=command)]
    ours = pghaven_command()
    tools: list[Tool] = [Pghaven(command=ours), Pghaven(command=ours, planned=False), Plain(name="cp", command=_CP)]
    tools += [found for one in (False, True) if (found := find_pgbackrest(asynchronous=one)) is not None]
    tools += [found] if (found := find_barman()) is not None else []
    return tools


_CP = "cp {archive}/%f %p"


@contextlib.contextmanager
def network(tools: Sequence[Tool]) -> Iterator[tuple[FaultyProxy, dict[str, Tool]]]:
    """Object stores between which and the tool everything can be done, for those that are tried with one."""
    servers = ObjectServers()
    try:
        server = servers.get("moto")
        with proxying(server.port) as proxy:
            ours = [tool for tool in tools if isinstance(tool, Pghaven)]
            found: dict[str, Tool] = {
                tool.name: Pghaven(
                    command=tool.command,
                    planned=tool.planned,
                    store=server.settings(endpoint=proxy.endpoint),
                    can=frozenset({"network"}),
                )
                for tool in ours
            }
            yield proxy, found
    finally:
        servers.stop()


def describe(case: Case, outcome: Outcome) -> str:
    statuses = [status for _, status in outcome.calls if status]
    if outcome.end == STOPS:
        back = ", and did not come back" if outcome.comes_back is False else ""
        return f"stops ({statuses[-1] if statuses else 0}){back}"
    if not outcome.lost(case):
        return outcome.end
    told = "ASTRAY" if set(outcome.rows) - set(case.rows) else "SHORT" if outcome.end == OPENS else "BEHIND"
    return f"**{told}**: {len(set(outcome.rows) & set(case.rows))} of {len(case.rows)} rows" + _worst(outcome)


def _worst(outcome: Outcome) -> str:
    failed = [status for name, status in outcome.calls if status and not name.endswith(".history")]
    return f" ({failed[0]})" if failed else ""


def render(results: Mapping[str, Mapping[str, str]], tools: Sequence[Tool], recorded: Recorded) -> str:
    names = [tool.name for tool in tools]
    head = ["case", "what is wrong", "it should", *names]
    wanted = {OPENS: "open", STOPS: "stop", WAITS: "wait"}
    rows = [
        [case.name, case.says, wanted[case.ends], *(results[case.name].get(name, _NOT_TRIED) for name in names)]
        for case in CASES
    ]
    short = {name: sum("**" in results[case.name].get(name, "") for case in CASES) for name in names}
    tried = {name: sum(name in results[case.name] for case in CASES) for name in names}
    rows.append(["", "**opened with wrong rows**", "", *(f"**{short[name]} of {tried[name]}**" for name in names)])
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    table = "\n".join(f"| {line} |" for line in lines)
    made = f"{datetime.now(UTC):%Y-%m-%d}, PostgreSQL {recorded.release}, pghaven {__version__}"
    return f"{_HEAD}\n{made}:\n\n{table}\n{_KEY}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Judge restore commands by what servers do that believe them.")
    parser.add_argument("--command", help="a restore_command over plain copies of WAL files, which lie in {archive}")
    parser.add_argument("--case", action="append", help="only these")
    parser.add_argument("--pg", type=int, default=15, metavar="MAJOR", help="pgBackRest of Debian 12 knows up to 15")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    given = parser.parse_args()
    cases = [case for case in CASES if given.case is None or case.name in given.case]
    tools = list_tools(given.command)
    kept: dict[str, dict[str, str]] = json.loads(KEPT.read_text()) if given.case and KEPT.exists() else {}
    results = {case.name: kept.get(case.name, {}) for case in CASES}
    places.scratch()
    failed = False
    try:
        with contextlib.ExitStack() as cleanup:
            make_cluster = ClusterFactory(given.pg, cleanup)
            place = places.make_directory()
            recorded = record(make_cluster, place)
            judge = Judge(make_cluster, recorded, place)
            proxy, networked = cleanup.enter_context(network(tools))
            for case in cases:
                for tool in tools:
                    used = networked.get(tool.name, tool) if "network" in case.needs else tool
                    if not case.needs <= used.can or (case.needs == {"plan"} and "by hand" in tool.name):
                        continue
                    outcome = judge.judge(case, used, proxy if used is not tool else None)
                    results[case.name][tool.name] = describe(case, outcome)
                    failed |= outcome.lost(case)
                    print(f"{case.name}: {tool.name}: {results[case.name][tool.name]}", flush=True)
    finally:
        places.remove_scratch()
    page = render(results, tools, recorded)
    if given.write:
        KEPT.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        PAGE.write_text(page)
    elif given.command is None:
        print(page)
    return 1 if failed and given.command is not None else 0


if __name__ == "__main__":
    sys.exit(main())
