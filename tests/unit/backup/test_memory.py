"""The memory that a backup's plan states is what it takes at most, and does not grow with the number of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from pghaven.backup.plantext import COORDINATOR_MEMORY_BYTES, WORKER_MEMORY_BYTES, find_memory

MIB = 1 << 20
ROOT = Path(__file__).parents[3]
FEW, MANY = 60_000, 200_000
FILES, FEW_PACKS, MANY_PACKS = 100, 60_000, 150_000
# What so many more files may add to the peak: parts that are full, the stored manifest, and chance. All that is known
# of them is 35 in a full backup, and 60 with a parent.
GROWTH_MIB = 16
# As objects so many more packs would add 20 each time they are held; what adds is their runs, while a part is not full.
PACKS_GROWTH_MIB = 20

_WORKER = """
import os, sys
from pghaven.backup.jobs import Part, ReadJob
from pghaven.backup.pipeline import WorkerSettings, open_worker
from pghaven.repository.pack import PackPlace
from pghaven.repository.seal import OPEN_KEYRING
from pghaven.store.open import open_store
path, root = sys.argv[1:]
with open(path, "wb") as file:
    for _ in range(160):
        file.write(os.urandom(1 << 20))
os.mkdir(root)
place = PackPlace(store=open_store("file://" + root), repository_id="0" * 32, cluster="main", keyring=OPEN_KEYRING)
worker = open_worker(WorkerSettings(place=place, label="20260301T130000Z-0001", level=3, block_size=8192, verify=False))
for at in (0, 64 << 20):
    worker(ReadJob((Part(0, path, at, 64 << 20, 0, True),), 64 << 20, is_range=True))
worker.close()
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024)
"""


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    return done.stdout


def find_peak(side: str, *words: str) -> int:
    """MiB of the process that coordinates a made-up backup: the real code but for the walk and the disk."""
    return max(int(row["process_mib"]) for row in ast.literal_eval(run("-m", "bench.scale", "--side", side, *words)))


def test_neither_a_backup_nor_one_with_a_parent_grows_with_the_number_of_files(tmp_path: Path) -> None:
    for side in ("backup", "incremental"):
        peaks = []
        for files in (FEW, MANY):
            manifest = tmp_path / str(files)
            share = ["0.01"] if side == "incremental" else []
            peaks.append(find_peak(side, str(files), str(files << 15), "4", *share, str(manifest)))
        assert peaks[1] - peaks[0] < GROWTH_MIB, f"{side}: {peaks}"
        assert peaks[1] * MIB < COORDINATOR_MEMORY_BYTES, f"{side}: {peaks}"


def test_neither_a_backup_nor_a_restore_nor_a_verification_grows_with_the_number_of_packs(tmp_path: Path) -> None:
    """Ten terabytes that cannot be compressed are 300,000."""
    peaks = {}
    for packs in (FEW_PACKS, MANY_PACKS):
        manifest = tmp_path / str(packs)
        order = (str(FILES), str(packs << 18), str(1 / 128))  # 256 KiB in each, and as many jobs
        peaks[packs] = {"backup": find_peak("backup", *order, str(manifest))}
        peaks[packs] |= {side: find_peak(side, str(manifest)) for side in ("restore", "verify")}
    for side, peak in peaks[MANY_PACKS].items():
        assert peak - peaks[FEW_PACKS][side] < PACKS_GROWTH_MIB, f"{side}: {peaks}"


def test_a_worker_holds_no_more_than_is_stated(tmp_path: Path) -> None:
    """Of data that cannot be compressed: then packs are as large as they get."""
    assert int(run("-c", _WORKER, str(tmp_path / "data"), str(tmp_path / "repository"))) < WORKER_MEMORY_BYTES


def test_two_workers_take_less_than_400_mib_whatever_there_is_to_read() -> None:
    assert find_memory(2) < 400 * MIB
