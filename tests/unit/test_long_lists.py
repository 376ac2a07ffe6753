"""Lists that can be long take no more memory for being longer: changed blocks, known frames, WAL, files to remove."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GROWTH_MIB = 12


def find_peak(side: str, *words: str) -> int:
    """MiB that some long list adds to its process, at the most."""
    command = [sys.executable, "-m", "bench.scale", "--side", side, *words]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    return max(int(row["peak_mib"]) for row in ast.literal_eval(done.stdout))


@pytest.mark.parametrize(
    ("side", "few", "many"),
    [
        # As numbers of 8 bytes three times as many would add 160 MiB, in a dictionary a relation 300 bytes.
        pytest.param("summaries", ["6000000", "20000"], ["20000000", "60000"], id="changed blocks"),
        # 80 bytes each in columns, several times that as they are read.
        pytest.param("interrupted", ["40000"], ["200000"], id="frames of an interrupted backup"),
        # 90 bytes each as numbers, and as much again as names.
        pytest.param("archive", ["60000"], ["400000"], id="WAL segments"),
    ],
)
def test_a_longer_list_takes_no_more_memory(side: str, few: list[str], many: list[str], tmp_path: Path) -> None:
    peaks = []
    for number, words in enumerate((few, many)):
        directory = tmp_path / str(number)
        directory.mkdir()
        peaks.append(find_peak(side, *words, *([] if side == "summaries" else [str(directory)])))
    assert peaks[1] - peaks[0] < GROWTH_MIB, peaks


def test_more_files_to_remove_take_no_more_memory(tmp_path: Path) -> None:
    """As strings a hundred thousand are 8 MiB, and they were there twice."""
    manifest = tmp_path / "manifest"
    find_peak("backup", "100", str(100 << 15), "4", str(manifest))
    peaks = []
    for files in (20_000, 120_000):
        directory = tmp_path / str(files)
        directory.mkdir()
        peaks.append(find_peak("delta", str(manifest), str(files), str(directory)))
    assert peaks[1] - peaks[0] < GROWTH_MIB // 2, peaks
