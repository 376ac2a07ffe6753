"""What a backup is about to read, and what memory it takes, in words.

The one idea: memory is bounded and stated before it is used.
"""

from __future__ import annotations

from pghaven.backup.changes import ChangePlan
from pghaven.backup.listing import Listing
from pghaven.events import Listener, Notice, Step
from pghaven.units import render_size

# What a worker process holds: interpreter and NumPy, two packs, the read buffer and what compression needs. The
# coordinator's part is the interpreter, the connection, and some files at a time of all that it keeps of files. Both
# are the most that tests/unit/backup/test_memory.py finds, and some room.
WORKER_MEMORY_BYTES = 130 << 20
COORDINATOR_MEMORY_BYTES = 110 << 20


def find_memory(processes: int) -> int:
    """The most memory in bytes that all processes of a backup hold together, however many files and bytes there are."""
    return COORDINATOR_MEMORY_BYTES + processes * WORKER_MEMORY_BYTES


def tell_plan(plan: ChangePlan, listing: Listing, changes: str, processes: int, tell: Listener) -> None:
    memory = find_memory(processes)
    found = {"full": "", "lsn": ", comparing pages by their LSN", "summaries": ", as WAL summaries say"}[changes]
    text = (
        f"reading {render_size(plan.read_bytes)} of {render_size(listing.total_bytes)} in {len(listing.size)} files"
        f"{found}, with {processes} processes, using at most {render_size(memory)} of memory"
    )
    tell(Step(text=text))
    for skipped in listing.skipped:
        tell(Notice(level="warning", code="skipped", text=f"not backed up: {skipped}"))
