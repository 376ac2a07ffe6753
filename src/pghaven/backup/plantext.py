"""What a backup is about to read, and what memory it takes, in words.

The one idea: memory is bounded and stated before it is used.
"""

from __future__ import annotations

from pghaven.backup.changes import ChangePlan
from pghaven.backup.listing import Listing
from pghaven.events import Listener, Notice, Step
from pghaven.units import render_size

# What a worker process holds: interpreter and NumPy, two packs, the read buffer and what compression needs; measured
# with bench/full_backup.py. The coordinator's part is apart from what grows with the number of files.
WORKER_MEMORY_BYTES = 130 << 20
COORDINATOR_MEMORY_BYTES = 80 << 20
FILE_MEMORY_BYTES = 120
# With a parent there are its files and its map too; measured with bench/scale.py.
CHANGED_FILE_MEMORY_BYTES = 280


def tell_plan(plan: ChangePlan, listing: Listing, changes: str, processes: int, tell: Listener) -> None:
    grown = FILE_MEMORY_BYTES if plan.parentage is None else CHANGED_FILE_MEMORY_BYTES
    memory = COORDINATOR_MEMORY_BYTES + processes * WORKER_MEMORY_BYTES + len(listing.size) * grown
    found = {"full": "", "lsn": ", comparing pages by their LSN", "summaries": ", as WAL summaries say"}[changes]
    text = (
        f"reading {render_size(plan.read_bytes)} of {render_size(sum(listing.size))} in {len(listing.size)} files"
        f"{found}, with {processes} processes, using at most {render_size(memory)} of memory"
    )
    tell(Step(text=text))
    for skipped in listing.skipped:
        tell(Notice(level="warning", code="skipped", text=f"not backed up: {skipped}"))
