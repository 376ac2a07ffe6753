"""The memory that a restore states is what it takes at most."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path

from pghaven.restore.fetch import (
    COORDINATOR_MEMORY_BYTES,
    SERVER_WORKER_MEMORY_BYTES,
    WORKER_MEMORY_BYTES,
    find_memory,
)
from pghaven.store.settings import StoreSettings
from tests.support.fixtures import ObjectServerFactory

MIB = 1 << 20
ROOT = Path(__file__).parents[3]

_PLACE = """
import os, pickle, sys
from pghaven.repository.pack import PackPlace
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.store.open import open_store
directory = sys.argv[1]
data, packs = directory + "/data", directory + "/packs"
def place():
    with open(directory + "/settings", "rb") as file:
        store = open_store(pickle.load(file))
    return PackPlace(store=store, repository_id="0" * 32, cluster="main", keyring=OPEN_KEYRING)
"""
_STORE = (
    _PLACE
    + """
from pghaven.backup.jobs import Part, ReadJob
from pghaven.backup.pipeline import WorkerSettings, open_worker
with open(data, "wb") as file:
    for _ in range(64):
        file.write(os.urandom(1 << 20))
label = "20260301T130000Z-0001"
worker = open_worker(WorkerSettings(place=place(), label=label, level=1, block_size=8192, verify=False))
results = [worker(ReadJob((Part(0, data, 0, 64 << 20, 0, True),), 64 << 20, is_range=True)), worker.close()]
with open(packs, "wb") as file:
    pickle.dump([(result.packs, result.pieces) for result in results], file)
"""
)
_FETCH = (
    _PLACE
    + """
import numpy as np
from pghaven.restore.fetch import FetchJob, FetchSettings, open_fetcher
from pghaven.restore.targetfiles import FileTarget
with open(packs, "rb") as file:
    told = pickle.load(file)
stored = [pack for some, _ in told for pack in some]
columns = [np.frombuffer(b"".join(pieces[number] for _, pieces in told), kind) for number, kind in enumerate("IQQIQ")]
fetch = open_fetcher(FetchSettings(place=place(), roots=(("", directory),), in_place=sys.argv[2] == "over"))
file = FileTarget(
    directory="", name=b"restored", size=64 << 20, mode=0o600, mtime_ns=0, uid=-1, gid=-1, content_hash=b""
)
if sys.argv[2] == "over":
    with open(directory + "/restored", "r+b") as there:
        for at in range(0, 64 << 20, 1 << 16):
            there.seek(at)
            there.write(b"other")
for number, pack in enumerate(stored):
    mine = columns[3] == number
    runs = zip(*(columns[which][mine].tolist() for which in (1, 2, 4)), strict=True)
    result = fetch(FetchJob(pack, (file,), tuple((0, *run) for run in runs)))
    assert result.written_bytes
fetch.close()
with open(directory + "/restored", "rb") as restored, open(data, "rb") as source:
    while part := source.read(1 << 20):
        assert restored.read(1 << 20) == part
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024)
"""
)


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    return done.stdout


def test_a_worker_holds_no_more_than_is_stated(tmp_path: Path) -> None:
    """Of data that cannot be compressed: then its requests are as large as they get."""
    (tmp_path / "repository").mkdir()
    assert_bounded(tmp_path, f"file://{tmp_path}/repository", WORKER_MEMORY_BYTES)


def test_a_worker_that_reads_ahead_from_a_server_holds_no_more_than_is_stated(
    tmp_path: Path, object_server: ObjectServerFactory
) -> None:
    assert_bounded(tmp_path, object_server("seaweedfs").settings(), SERVER_WORKER_MEMORY_BYTES)


def assert_bounded(tmp_path: Path, place: str | StoreSettings, bound: int) -> None:
    (tmp_path / "settings").write_bytes(pickle.dumps(place))
    run("-c", _STORE, str(tmp_path))
    for way in ("new", "over"):
        assert int(run("-c", _FETCH, str(tmp_path), way)) < bound, way


def test_whoever_hands_out_the_work_holds_no_more_than_is_stated(tmp_path: Path) -> None:
    manifest = str(tmp_path / "manifest")
    run("-m", "bench.scale", "--side", "backup", "60000", str(60_000 << 20), "0.0625", manifest)
    rows = ast.literal_eval(run("-m", "bench.scale", "--side", "restore", manifest))
    assert max(int(row["process_mib"]) for row in rows) * MIB < COORDINATOR_MEMORY_BYTES


def test_two_workers_take_less_than_400_mib_whatever_there_is_to_restore() -> None:
    for is_served in (False, True):
        over, new = (find_memory(2, is_in_place=one, is_served=is_served) for one in (True, False))
        assert over < new < 400 * MIB
