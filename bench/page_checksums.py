"""How fast page checksums and page LSNs are computed on one core, by batch size.

    python bench/page_checksums.py [--seconds 0.5] [--block-size 8192]

"just read" is what a backup does: each batch is copied into one reused buffer first, as reading from the page cache
does, and only the computation is timed. "cold" walks through 256 MiB of memory, so fetching it is in the time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from pghaven.postgres.page import ChecksumWork, checksums, page_lsns, verify_pages

MIB = 1 << 20
AREA = 256 * MIB

Parts = Iterator[memoryview]


def cold(area: memoryview, batch: int) -> Parts:
    while True:
        for offset in range(0, AREA - batch + 1, batch):
            yield area[offset : offset + batch]


def just_read(area: memoryview, batch: int) -> Parts:
    buffer = memoryview(bytearray(batch))
    for part in cold(area, batch):
        buffer[:] = part
        yield buffer


def measure(work: Callable[[memoryview], object], parts: Parts, batch: int, seconds: float) -> str:
    """GB/s: the median and, in brackets, the best batch."""
    times = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        part = next(parts)
        began = time.perf_counter()
        work(part)
        times.append(time.perf_counter() - began)
    return f"{batch / statistics.median(times) / 1e9:.2f} ({batch / min(times) / 1e9:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure")
    parser.add_argument("--block-size", type=int, default=8192)
    options = parser.parse_args()
    block_size: int = options.block_size

    area = memoryview(np.random.default_rng(1).bytes(AREA))
    scratch = ChecksumWork()
    numbers = np.arange(AREA // block_size, dtype=np.uint32)

    def run_checksums(part: memoryview) -> object:
        return checksums(part, numbers[: len(part) // block_size], scratch, block_size=block_size)

    def run_verify(part: memoryview) -> object:
        return verify_pages(part, numbers[: len(part) // block_size], scratch, block_size=block_size)

    def run_lsns(part: memoryview) -> object:
        return page_lsns(part, block_size=block_size)

    titles = ("checksums just read", "verify just read", "verify cold", "page_lsns cold")
    print(f"pages of {block_size} bytes, one core, GB/s: median (best)")
    print(f"{'batch':>10}", *(f"{title:>19}" for title in titles))
    for batch in (block_size, 128 << 10, MIB, 2 * MIB, 4 * MIB, 8 * MIB, 32 * MIB):
        cells = (
            measure(run_checksums, just_read(area, batch), batch, options.seconds),
            measure(run_verify, just_read(area, batch), batch, options.seconds),
            measure(run_verify, cold(area, batch), batch, options.seconds),
            measure(run_lsns, cold(area, batch), batch, options.seconds),
        )
        print(f"{batch // 1024:>6} KiB", *(f"{cell:>19}" for cell in cells))


if __name__ == "__main__":
    main()
