"""``make chaos-ha``: rounds of faults on a real cluster; see ``rounds``.

    python -m tests.chaos --seed 1 --rounds 100 --state .cache/chaos-1.jsonl

A run that was interrupted goes on with its next round when it is started again with the same ``--state``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from tests.chaos import clocks
from tests.chaos.members import running_cluster
from tests.chaos.network import find_obstacle
from tests.chaos.programs import find_engine
from tests.chaos.rounds import play_rounds, read_rounds, show
from tests.support import places


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=17)
    parser.add_argument("--state", type=Path, help="where the rounds that are done are kept")
    parser.add_argument("--only", type=int, action="append", help="this round alone")
    parser.add_argument("--logs", type=Path, help="where the servers' logs are left after a problem")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # started in the background it would not hear the first
        signal.signal(number, signal.default_int_handler)
    obstacle = find_obstacle()
    engine = find_engine()
    if obstacle or isinstance(engine, str):
        print(obstacle or engine)
        return 1
    if (without := clocks.find_obstacle()) is not None:
        print(f"no clock jumps: {without}")
    done = [] if options.state is None else read_rounds(options.state)
    begin = max((int(one["number"]) for one in done), default=-1) + 1
    waiting = options.only or list(range(begin, options.rounds))
    bad = sum(bool(one["problems"]) for one in done)
    places.sweep_scratch()
    while waiting:
        place = places.make_directory()
        with running_cluster(place, engine) as cluster:
            for round_ in play_rounds(cluster, options.seed, iter(list(waiting))):
                show(round_)
                waiting.pop(0)
                if options.state is not None:
                    with options.state.open("a") as file:
                        file.write(json.dumps(asdict(round_)) + "\n")
                if round_.problems:
                    bad += 1
                    if options.logs is not None:
                        _keep_logs(place, options.logs / f"{options.seed}-{round_.number}")
                    break  # with a cluster of its own again
        places.remove_directory(place)
    places.remove_scratch()
    print(f"{options.rounds} rounds of seed {options.seed}: {bad} with a problem")
    return 1 if bad else 0


def _keep_logs(place: Path, target: Path) -> None:
    import shutil

    target.mkdir(parents=True, exist_ok=True)
    for log in itertools.chain(place.glob("*.log"), place.glob("n*/data/log/*")):
        shutil.copy(log, target / log.name)


if __name__ == "__main__":
    sys.exit(main())
