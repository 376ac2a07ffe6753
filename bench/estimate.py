"""How well a restore knows how long it will take: its estimates while it runs, against how long it took.

    python -m bench.estimate --major 17 [--quick]

A drill measures the rates first, as it would on a host that is looked after; then the same cluster is restored and
started, and each estimate of the time that is left is kept with the moment it was made. What counts is the worst of
those made after the first tenth of all the time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pghaven.cli.invocation import Invocation
from pghaven.cli.limiting import Limits
from pghaven.cli.progress import Reporter
from pghaven.cli.restore_command import RestoreJob
from pghaven.cli.restore_request import PlaceOptions, TargetOptions, make_request
from pghaven.clock import SYSTEM_CLOCK
from pghaven.events import Event, Progress

WITHIN = 0.30
AFTER = 0.10


class Recorder(Reporter):
    """Keeps (seconds since the beginning, seconds that are said to be left) of each progress."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.began = time.monotonic()
        self.told: list[tuple[float, float]] = []

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, Progress) and event.seconds_left is not None:
            self.told.append((time.monotonic() - self.began, event.seconds_left))


class Recording(Invocation):
    """An invocation whose reporter records."""

    def __init__(self, config: str) -> None:
        super().__init__()
        self.config_path = config
        self.quiet = True
        self.json = True
        self.recorder = Recorder()
        self._reporter = self.recorder


def restore(config: str, cluster: str, target: Path) -> tuple[float, list[tuple[float, float]]]:
    """Restore to the end of the archive and start; (seconds, what was told)."""
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
    RestoreJob(invocation, chosen, limits, None).run(request, start=True, dry_run=False)
    return time.monotonic() - invocation.recorder.began, invocation.recorder.told


def find_worst(seconds: float, told: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of the estimates after the first tenth, the one that was furthest off: (share of all the time by which, when)."""
    late = [(abs(at + left - seconds) / seconds, at) for at, left in told if at >= AFTER * seconds]
    return max(late, default=(1.0, 0.0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="the configuration of a cluster that has a backup, WAL, and a drill")
    parser.add_argument("cluster")
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    seconds, told = restore(given.config, given.cluster, given.target)
    worst, at = find_worst(seconds, told)
    found = {
        "seconds": round(seconds, 2),
        "estimates": len(told),
        "worst_share": round(worst, 3),
        "worst_at": round(at, 2),
        "told": [[round(moment, 2), round(left, 2)] for moment, left in told],
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if worst <= WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
