"""The same backup and restore to a directory, to S3 on this machine, and to S3 over a line of 20 ms, in one run.

    python -m bench.object_store [--shape mixed|files] [--rounds 3] [--quick] …

S3 is SeaweedFS, which takes its share of the processor: beside the times stands what the store itself can do, measured
by putting and getting objects of the size of packs from two processes. The line is a proxy that delays each request and
passes so many bytes a second: a restore fills it if it takes hardly longer than its bytes alone do. Requests are those
that each command tells; a list is of a thousand backups, here and 20 ms away.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.common import MIB, Measurement, make_temporary_file, measure, median, remove, render_table, run
from bench.data import BenchServer, prepare
from bench.listing import BACKUPS, fill
from bench.rounds import run_stand_alone
from bench.tools import LEVEL, PROCESSES, Pghaven, Tool
from pghaven.store.api import Store
from pghaven.store.open import open_store
from pghaven.store.settings import StoreSettings
from tests.support.httpproxy import proxying
from tests.support.objectservers import ObjectServer, ObjectServers

NAME = "object_store"
FAR_SECONDS = 0.02
LINK_RATE = 40 * MIB
_OBJECT_BYTES = 32 * MIB
_OBJECTS = 6

# Puts or gets objects when told to; two of them at once.
_PROBE = """
import os, pickle, sys, time
store, verb, mark = pickle.loads(bytes.fromhex(sys.argv[1])), sys.argv[2], sys.argv[3]
content = os.urandom({size})
print("ready", flush=True); sys.stdin.readline()
for number in range({count}):
    store.create(f"limit/{{mark}}-{{number}}", [content]) if verb == "put" else store.read_range(
        f"limit/{{mark}}-{{number}}", 0, {size})
"""


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
            taken: dict[str, list[tuple[Measurement, Measurement]]] = {place.name: [] for place in places}
            for number in range(rounds):
                for place in places:
                    backup, restore, asked[place.name] = _measure(server, place)
                    taken[place.name].append((backup, restore))
                    walls = f"{backup.wall_seconds:.1f} s, {restore.wall_seconds:.1f} s"
                    print(f"  {number + 1}/{rounds} {place.name}: {walls}")
            lists = [measure_list(place) for place in places[1:3]]
        for name, pairs in taken.items():
            place = next(one for one in places if one.name == name)
            results[name] = {
                "backup": median([backup for backup, _ in pairs]),
                "restore": median([restore for _, restore in pairs]),
                "stored_bytes": place.stored_bytes,
                "requests": asked[name],
            }
        return {"places": results, "lists": lists, "limit": measure_limit(store), "link_rate": LINK_RATE}
    finally:
        servers.stop()


def _measure(server: BenchServer, place: InStore) -> tuple[Measurement, Measurement, dict[str, dict[str, int]]]:
    target = server.directory / "target"
    server.archive_with(place.reset())
    prepare(server)
    backup = measure(place.backup_command(), log=place.log, server_pid=server.pid)
    asked = {"backup": place.read_requests()}
    place.warm()
    place.note_size()
    remove(target)
    restore = measure(place.restore_command(target), log=place.log)
    asked["restore"] = place.read_requests()
    remove(target)
    return backup, restore, asked


def measure_list(place: InStore) -> dict[str, Any]:
    """A list of a thousand backups; the first one has nothing kept from an earlier one either."""
    place.reset()
    fill(place.open())
    taken = measure(place.list_command(), log=place.log)
    asked = place.read_requests()
    count = sum(asked[kind] for kind in ("put", "get", "head", "list", "delete"))
    return {"place": place.name, "backups": BACKUPS, "seconds": taken.wall_seconds, "requests": count}


def measure_limit(store: ObjectServer) -> dict[str, float]:
    """MiB per second that two processes put and get together, nothing else being done."""
    pickled = pickle.dumps(open_store(store.settings())).hex()
    program = _PROBE.format(size=_OBJECT_BYTES, count=_OBJECTS)
    rates: dict[str, float] = {}
    for verb in ("put", "get"):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", program, pickled, verb, str(mark)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).resolve().parents[1],
                env=dict(os.environ),
            )
            for mark in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        began = time.monotonic()
        for writer in writers:
            writer.communicate("go\n", timeout=300)
        rates[verb] = 2 * _OBJECTS * _OBJECT_BYTES / MIB / (time.monotonic() - began)
    return rates


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
    limit = results["limit"]
    return (
        f"### Backup and restore by place: {title}\n\n{render_table(header, rows)}\n"
        f"The store alone, with two processes and objects of 32 MiB: put {limit['put']:.0f} MiB/s, "
        f"get {limit['get']:.0f} MiB/s.\n\n{_render_shares(results)}"
    )


def _render_shares(results: Mapping[str, Any]) -> str:
    """How far each time is from what nothing could do faster: the directory's, the store's, the line's."""
    places, limit = results["places"], results["limit"]
    lines = []
    for what, verb in (("backup", "put"), ("restore", "get")):
        wall, here = places["s3"][what]["wall_seconds"], places["directory"][what]["wall_seconds"]
        alone = places["s3"]["stored_bytes"] / MIB / limit[verb]
        best = max(here, alone)
        lines.append(
            f"- {what} to S3 here: {wall:.2f} s; to a directory {here:.2f} s, the store alone {alone:.2f} s: "
            f"{wall / best - 1:+.0%} over the longer of the two.\n"
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
        f"its bytes alone take {alone:.2f} s: the line is {alone / line:.0%} full.\n"
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
