"""How well a restore knows how long it will take: its estimates while it runs, against how long it took.

    python -m bench.estimate --major 17 [--rounds 2] [--quick] [--tool pghaven]

A drill measures the rates first, as on a host that is looked after; then the same cluster is restored and started to
the end of its archive. Each estimate of the time that is left is kept with the moment it was made; what counts is the
worst of those made after the first tenth of all the time. Beside it stand those that were told at a tenth, a quarter
and a half of it.

Each restore has a directory of its own, far from the drill's, and all are removed at the end. An ext4 without a
journal gives no new file an inode that was freed in the last minutes, and looks through all of these for each new
file; so a restore into the place of one that was just removed spends most of its copying there, at a rate that tells
nothing of the next.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from bench.common import MIB, make_directory, remove, run, spread, sync
from bench.data import BenchServer, describe_cluster
from bench.rounds import run_stand_alone
from bench.tools import Pghaven, Tool
from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits
from pghaven.cli.progress import Reporter
from pghaven.cli.restore_command import RestoreJob
from pghaven.cli.restore_request import PlaceOptions, TargetOptions, make_request
from pghaven.clock import SYSTEM_CLOCK
from pghaven.events import Event, Progress
from pghaven.server.instance import Instance

NAME = "estimate"
WITHIN = 0.30
AFTER = 0.10
SHARES = (0.1, 0.25, 0.5)
_WAL_MIB_MIN = 400
_WAL_SHARE = 0.4  # of the cluster's size, so that files and replay take about as long
_ROWS_PER_MIB = 8000
_QUESTIONS = ("marker", "pages", "rows", "indexes", "extensions", "collations")


class Recorder(Reporter):
    """Keeps (seconds since the beginning, seconds that are said to be left) of each progress, and what it was told
    from: (those seconds, the phase, the share of it that is done)."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.began = time.monotonic()
        self.told: list[tuple[float, float]] = []
        self.heard: list[tuple[float, str, float]] = []

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, Progress) and event.seconds_left is not None:
            at = time.monotonic() - self.began
            self.told.append((at, event.seconds_left))
            share = event.done_bytes / event.total_bytes if event.share is None else event.share
            self.heard.append((at, event.phase, share))


class Recording(Invocation):
    """An invocation whose reporter records."""

    def __init__(self, config: str) -> None:
        super().__init__()
        self.config_path = config
        self.quiet = True
        self.json = True
        self.recorder = Recorder()
        self._reporter = self.recorder


def restore(config: str, cluster: str, target: Path) -> tuple[float, Recorder, dict[str, float]]:
    """Restore to the end of the archive and start; (seconds, what was told, what the plan expected)."""
    invocation = Recording(config)
    chosen = invocation.get_cluster(cluster)
    limits = Limits(invocation.config, chosen, invocation.reporter)
    options = TargetOptions(
        time=None, lsn=None, xid=None, name=None, immediate=False, timeline=None, action=None, exclusive=False
    )
    place = PlaceOptions(
        cluster=cluster,
        target_dir=str(target),
        delta=False,
        remove_foreign=False,
        backup=None,
        standby=False,
        archive=False,
        tablespaces=(),
        port=None,
    )
    request = make_request(options, place, SYSTEM_CLOCK.now())
    invocation.recorder.began = time.monotonic()
    with redirect_stdout(StringIO()) as output:
        RestoreJob(invocation, chosen, limits, None).run(request, start=True, dry_run=False)
    seconds = time.monotonic() - invocation.recorder.began
    return seconds, invocation.recorder, json.loads(output.getvalue())["plan"]["estimated_parts"]


def find_worst(seconds: float, told: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of the estimates after the first tenth, the one that was furthest off: (share of all the time by which, when)."""
    late = [(abs(at + left - seconds) / seconds, at) for at, left in told if at >= AFTER * seconds]
    return max(late, default=(1.0, 0.0))


def find_told_at(seconds: float, told: Sequence[tuple[float, float]], share: float) -> float:
    """By what share of all the time the last estimate was off that was told before this share of it was over; more
    than 0 where it was too long."""
    return next(((at + left - seconds) / seconds for at, left in reversed(told) if at <= share * seconds), 1.0)


def run_rounds(server: BenchServer, tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], ...]:
    """A backup, WAL behind it, a drill, and then as many restores as there are rounds."""
    ours = next(tool for tool in tools if isinstance(tool, Pghaven))
    server.archive_with(ours.reset())
    run(ours.backup_command(), log=ours.log)
    server.sql("DROP TABLE IF EXISTS filling; CREATE TABLE filling (i int, t text)")
    wal_mib = max(_WAL_MIB_MIN, int(_WAL_SHARE * int(describe_cluster(server)["bytes"]) / MIB))
    for _ in range(4):
        rows = wal_mib * _ROWS_PER_MIB // 4
        server.sql(f"INSERT INTO filling SELECT i, md5(i::text) FROM generate_series(1, {rows}) i")
    name = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    while server.sql(f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver") != "t":
        time.sleep(0.2)
    skipped = [word for one in _QUESTIONS for word in ("--skip", one)]
    spread(server.directory)
    place = make_directory(server.directory / "drills")
    run(ours.words("drill", "main", "--at", "latest", "--directory", str(place), *skipped), log=ours.log)
    server.sql("CHECKPOINT")
    found = []
    targets = [server.directory / f"restored-{number}" for number in range(rounds)]
    for target in targets:
        remove(target)
    for target in targets:
        sync()
        seconds, recorder, expected = restore(str(ours.config), "main", target)
        Instance(str(target), server.programs, log_path=str(server.directory / "restored.log")).stop("immediate")
        worst, at = find_worst(seconds, recorder.told)
        planned = (sum(expected.values()) - seconds) / seconds
        off_at = {share: find_told_at(seconds, recorder.told, share) for share in SHARES}
        print(f"  {_describe(seconds, worst, planned, off_at)}; at worst after {at:.1f} s", flush=True)
        found.append(
            {
                "seconds": round(seconds, 2),
                "worst_share": round(worst, 3),
                "worst_at_seconds": round(at, 2),
                "planned_share": round(planned, 3),
                "off_at": {str(share): round(off, 3) for share, off in off_at.items()},
                "expected": {name: round(value, 2) for name, value in expected.items()},
                "told": [[round(moment, 2), round(left, 2)] for moment, left in recorder.told],
                "heard": [[round(moment, 2), phase, round(share, 4)] for moment, phase, share in recorder.heard],
            }
        )
    for target in targets:
        remove(target)
    return ({"wal_bytes": wal_mib * MIB, "within": WITHIN, "after": AFTER, "rounds": found},)


def render(result: Mapping[str, Any], title: str) -> str:
    lines = [f"Estimates of a running restore: {title}", ""]
    for one in result["rounds"]:
        verdict = "within" if one["worst_share"] <= WITHIN else "NOT within"
        off_at = {float(share): off for share, off in one["off_at"].items()}
        text = _describe(one["seconds"], one["worst_share"], one["planned_share"], off_at)
        lines.append(f"{text}: {verdict} {100 * WITHIN:.0f} %")
    return "\n".join(lines) + "\n"


def _describe(seconds: float, worst: float, planned: float, off_at: Mapping[float, float]) -> str:
    told = ", ".join(f"{100 * off:+.0f} % at {100 * share:.0f} %" for share, off in off_at.items())
    return (
        f"took {seconds:.1f} s; planned {100 * planned:+.0f} %; told {told} of the time; "
        f"after the first tenth at worst {100 * worst:.0f} % off"
    )


if __name__ == "__main__":
    run_stand_alone(NAME, run_rounds, (render,))
