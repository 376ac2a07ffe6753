"""The same backup and restore to a directory, to S3 on this machine, and to S3 over a line of 20 ms, in one run.

    python -m bench.object_store [--shape mixed|files] [--rounds 3] [--quick] …

S3 is SeaweedFS, which takes its share of the processor, and so does moving bytes to it and from it, whoever does it.
So the limit of this machine is measured in the same rounds: the same job to a directory, while two processes that do
nothing else put or get as many bytes, in objects of the size of packs, in the same store; what both need until both
have ended. The line is a proxy that delays each request and passes so many bytes a second, and tells how full it was
while packs came; nothing else is asked through a proxy. Requests are those that each command tells; a list is of a
thousand backups, here and 20 ms away.
"""

from __future__ import annotations

import json
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.common import (
    MIB,
    BenchError,
    Measurement,
    empty_files,
    make_directory,
    make_temporary_file,
    measure,
    median,
    remove,
    render_table,
    run,
)
from bench.data import BenchServer, prepare
from bench.listing import BACKUPS, fill
from bench.rounds import run_stand_alone
from bench.tools import LEVEL, PROCESSES, Pghaven, Tool
from pghaven.store.api import Store
from pghaven.store.open import open_store
from pghaven.store.settings import StoreSettings
from tests.support.httpproxy import FaultyProxy, proxying
from tests.support.objectservers import BUCKET, ObjectServer, ObjectServers

NAME = "object_store"
FAR_SECONDS = 0.02
LINK_RATE = 40 * MIB
_OBJECT_BYTES = 32 * MIB
_OBJECTS = 6
_TARGETS = "restored"

# Puts or gets objects when told to; two of them at once.
_MOVER = f"""
import os, pickle, sys
store, verb, mark, count = pickle.loads(bytes.fromhex(sys.argv[1])), sys.argv[2], sys.argv[3], int(sys.argv[4])
content = os.urandom({_OBJECT_BYTES})
print("ready", flush=True); sys.stdin.readline()
for number in range(count):
    name = f"limit/{{mark}}-{{number}}"
    store.create(name, [content]) if verb == "put" else store.read_range(name, 0, {_OBJECT_BYTES})
"""
_MOVERS = 2


class InStore(Pghaven):
    """pghaven with its repository in an object store."""

    def __init__(self, server: BenchServer, name: str, settings: StoreSettings | None) -> None:
        super().__init__(server)
        self.name = name
        self._settings = settings
        self._url = ""
        self.stored_bytes = 0

    def backup_command(self) -> Sequence[str]:
        return [*super().backup_command(), "--json"]

    def restore_command(self, target: Path) -> Sequence[str]:
        return [*super().restore_command(target), "--json"]

    def list_command(self) -> Sequence[str]:
        return self._command("list", "main", "--json")

    def read_requests(self) -> dict[str, int]:
        """What the command that ran last told of its requests."""
        told: list[dict[str, Any]] = json.loads(self.log.read_text().splitlines()[-1])["requests"]
        kinds = [kind for kind in told[0] if kind != "url"]
        return {kind: sum(one[kind] for one in told) for kind in kinds}

    def open(self) -> Store:
        assert self._settings is not None
        return open_store(replace(self._settings, url=self._url))

    def reset(self) -> str:
        if self._settings is None:
            return super().reset()
        remove(self._repository)
        self._url = f"{self._settings.url}-{time.monotonic_ns()}"
        values = {
            "data_directory": str(self._server.data),
            "conninfo": self._server.conninfo,
            "pg_bin": self._server.programs.bin_dir,
            "processes": PROCESSES,
            "compression_level": LEVEL,
        }
        store = {
            "url": self._url,
            "endpoint": self._settings.endpoint,
            "credentials_file": self._settings.credentials_file,
        }
        text = "[repository.main]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in store.items())
        text += "\n[cluster.main]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        make_temporary_file(self._directory, text, self._config.name)
        return str(
            json.loads(run(self._command("--json", "init", "main", "--no-encryption"), log=self.log))["archive_command"]
        )

    def note_size(self) -> None:
        """What a restore has to fetch: all packs, of the one backup there is."""
        if self._settings is not None:
            self.stored_bytes = sum(info.size_bytes for info in self.open().list("clusters/main/packs/"))

    def warm(self) -> None:
        if self._settings is None:
            super().warm()


def run_rounds(server: BenchServer, rounds: int) -> dict[str, Any]:
    """Backup and restore at each place in turn, and what the store can do by itself."""
    remove(server.directory / _TARGETS)
    servers = ObjectServers()
    try:
        store = servers.get("seaweedfs")
        with proxying(store.port) as far, proxying(store.port) as line:
            far.delay_seconds = line.delay_seconds = FAR_SECONDS
            line.link_rate = LINK_RATE
            places = (
                InStore(server, "directory", None),
                InStore(server, "s3", store.settings()),
                InStore(server, "s3-20ms", store.settings(endpoint=far.endpoint)),
                InStore(server, "s3-line", store.settings(endpoint=line.endpoint)),
            )
            results: dict[str, dict[str, Any]] = {}
            asked: dict[str, dict[str, dict[str, int]]] = {}
            beside: list[dict[str, float]] = []
            fullness: list[float] = []
            taken: dict[str, list[tuple[Measurement, Measurement]]] = {place.name: [] for place in places}
            for number in range(rounds):
                for place in places:
                    line.link_log.clear()
                    backup, restore, asked[place.name] = _measure(server, place)
                    taken[place.name].append((backup, restore))
                    walls = f"{backup.wall_seconds:.1f} s, {restore.wall_seconds:.1f} s"
                    print(f"  {number + 1}/{rounds} {place.name}: {walls}", flush=True)
                    if place.name == "s3":
                        beside.append(measure_beside(server, places[0], store, place.stored_bytes))
                        walls = f"{beside[-1]['backup']:.1f} s, {beside[-1]['restore']:.1f} s"
                        print(f"  {number + 1}/{rounds} directory, and as many bytes moved: {walls}", flush=True)
                fullness.append(measure_fullness(line) or 0.0)
            lists = [measure_list(place) for place in places[1:3]]
        for name, pairs in taken.items():
            place = next(one for one in places if one.name == name)
            results[name] = {
                "backup": median([backup for backup, _ in pairs]),
                "restore": median([restore for _, restore in pairs]),
                "stored_bytes": place.stored_bytes,
                "requests": asked[name],
            }
        return {
            "places": results,
            "lists": lists,
            "beside": {what: statistics.median(one[what] for one in beside) for what in ("backup", "restore")},
            "alone": measure_alone(store),
            "link_rate": LINK_RATE,
            "fullness": statistics.median(fullness),
        }
    finally:
        servers.stop()
        remove(server.directory / _TARGETS)


def _measure(server: BenchServer, place: InStore) -> tuple[Measurement, Measurement, dict[str, dict[str, int]]]:
    server.archive_with(place.reset())
    prepare(server)
    backup = measure(place.backup_command(), log=place.log, server_pid=server.pid)
    asked = {"backup": place.read_requests()}
    place.warm()
    place.note_size()
    with _target(server) as target:
        restore = measure(place.restore_command(target), log=place.log)
    asked["restore"] = place.read_requests()
    return backup, restore, asked


@contextmanager
def _target(server: BenchServer) -> Iterator[Path]:
    """An empty directory to restore into; emptied at the end, and its files are kept until the bench ends.

    Where the file system has no journal, ext4 does not use a removed file's inode for minutes, and looks at each such
    one again for every file that is made: a restore after the removal of 34,000 files took up to 30 s of processor.
    """
    targets = make_directory(server.directory / _TARGETS)
    target = make_directory(targets / str(len(list(targets.iterdir())) + 1))
    target.chmod(0o700)
    try:
        yield target
    finally:
        empty_files(target)


def measure_list(place: InStore) -> dict[str, Any]:
    """A list of a thousand backups; the first one has nothing kept from an earlier one either."""
    place.reset()
    fill(place.open())
    taken = measure(place.list_command(), log=place.log)
    asked = place.read_requests()
    count = sum(asked[kind] for kind in ("put", "get", "head", "list", "delete"))
    return {"place": place.name, "backups": BACKUPS, "seconds": taken.wall_seconds, "requests": count}


class Movers:
    """Two processes that put or get objects of the size of packs, and do nothing else. ``mark`` names the objects."""

    def __init__(self, store: ObjectServer, verb: str, mark: str, count: int) -> None:
        """``count`` objects each, under a prefix that ``mark`` alone determines."""
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", _MOVER, _pickle_limit_store(store), verb, f"{mark}-{number}", str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).resolve().parents[1],
                env=dict(os.environ),
            )
            for number in range(_MOVERS)
        ]
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.readline()

    def go(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def wait(self) -> None:
        for process in self._processes:
            process.communicate(timeout=300)
            if process.returncode:
                raise BenchError("a process that was to move bytes has failed")


def _pickle_limit_store(store: ObjectServer) -> str:
    return pickle.dumps(open_store(replace(store.settings(), url=f"{store.scheme}://{BUCKET}/limit"))).hex()


def measure_beside(server: BenchServer, place: InStore, store: ObjectServer, size_bytes: int) -> dict[str, float]:
    """Seconds of a backup to a directory, and of its restore, with as many bytes going into the store, and out of it,
    until both have ended."""
    count = max(1, round(size_bytes / _OBJECT_BYTES / _MOVERS))
    mark = str(time.monotonic_ns())
    server.archive_with(place.reset())
    prepare(server)
    seconds = {"backup": _measure_both(place.backup_command(), place, Movers(store, "put", mark, count))}
    place.warm()
    with _target(server) as target:
        seconds["restore"] = _measure_both(place.restore_command(target), place, Movers(store, "get", mark, count))
    return seconds


def _measure_both(command: Sequence[str], place: InStore, movers: Movers) -> float:
    began = time.monotonic()
    movers.go()
    measure(command, log=place.log)
    movers.wait()
    return time.monotonic() - began


def measure_alone(store: ObjectServer) -> dict[str, float]:
    """MiB per second that two processes put and get together, nothing else being done."""
    rates: dict[str, float] = {}
    for verb in ("put", "get"):
        movers = Movers(store, verb, "alone", _OBJECTS)
        began = time.monotonic()
        movers.go()
        movers.wait()
        rates[verb] = _MOVERS * _OBJECTS * _OBJECT_BYTES / MIB / (time.monotonic() - began)
    return rates


def measure_fullness(line: FaultyProxy) -> float | None:
    """Which part of the time in which packs came over the line it was passing bytes; None before any came."""
    parts = [(at, size) for path, way, at, size in line.link_log if way == "back" and "/packs/" in path]
    if len(parts) < 2 or line.link_rate is None:
        return None
    return sum(size for _, size in parts[1:]) / line.link_rate / (parts[-1][0] - parts[0][0])


def render(results: Mapping[str, Any], title: str) -> str:
    places = results["places"]
    here = places["directory"]
    rows = []
    for name, row in places.items():
        walls = [(row[what]["wall_seconds"], here[what]["wall_seconds"]) for what in ("backup", "restore")]
        rows.append(
            [
                name,
                *(f"{wall:.2f} ({wall / directory:.2f})" for wall, directory in walls),
                *(f"{row[what]['cpu_seconds']:.2f}" for what in ("backup", "restore")),
                *(f"{row[what]['memory_bytes'] / MIB:.0f}" for what in ("backup", "restore")),
            ]
        )
    header = [
        *("place", "backup wall s (directory = 1)", "restore wall s (directory = 1)"),
        *("backup CPU s", "restore CPU s", "backup MiB", "restore MiB"),
    ]
    alone = results["alone"]
    return (
        f"### Backup and restore by place: {title}\n\n{render_table(header, rows)}\n"
        f"The store alone, with two processes and objects of 32 MiB: put {alone['put']:.0f} MiB/s, "
        f"get {alone['get']:.0f} MiB/s.\n\n{_render_shares(results)}"
    )


def _render_shares(results: Mapping[str, Any]) -> str:
    """How far each time is from what nothing could do faster on this machine: the directory's job beside the store's,
    the line's bytes."""
    places = results["places"]
    lines = []
    for what, way, verb in (("backup", "to", "put"), ("restore", "from", "get")):
        wall, here = places["s3"][what]["wall_seconds"], places["directory"][what]["wall_seconds"]
        best = max(here, results["beside"][what])
        lines.append(
            f"- {what} {way} S3 here: {wall:.2f} s; {way} a directory {here:.2f} s, and with as many bytes moved by a "
            f"plain client in the same store {best:.2f} s, which is this machine's limit: {wall / best - 1:+.0%}.\n"
        )
        requests, size = places["s3"]["requests"][what], places["s3"]["stored_bytes"]
        lines.append(
            f"- its requests: {requests[verb]} {verb}, one for {size / MIB / requests[verb]:.1f} MiB of packs; "
            f"{requests['head']} head, {requests['list']} list.\n"
        )
    far, line = places["s3-20ms"]["restore"]["wall_seconds"], places["s3-line"]["restore"]["wall_seconds"]
    alone = places["s3-line"]["stored_bytes"] / results["link_rate"]
    near = places["s3"]["restore"]["wall_seconds"]
    lines.append(f"- restore from 20 ms away: {far:.2f} s, from here {near:.2f} s: {far / near - 1:+.0%}.\n")
    lines.append(
        f"- restore over a line of {results['link_rate'] / MIB:.0f} MiB/s and 20 ms: {line:.2f} s, "
        f"its bytes alone take {alone:.2f} s, {alone / line:.0%} of that; while packs came the line was "
        f"{results['fullness']:.0%} full.\n"
    )
    lines += [
        f"- a list of {one['backups']} backups, {one['place']}: {one['seconds']:.2f} s, {one['requests']} requests.\n"
        for one in results["lists"]
    ]
    return "".join(lines)


def main() -> None:
    def run_all(server: BenchServer, _tools: Sequence[Tool], rounds: int) -> tuple[dict[str, Any], ...]:
        return (run_rounds(server, rounds),)

    run_stand_alone(NAME, run_all, (render,))


if __name__ == "__main__":
    main()
