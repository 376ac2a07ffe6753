"""What workers report of their jobs: values only.

The one idea: who takes these needs nothing of how pages are read, so a worker that reads other things imports no more
than it uses, and is at work sooner.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pghaven.backup.pagecheck import SuspectPage
    from pghaven.repository.pack import PackRef


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """What became of one job. ``pieces`` are five columns as bytes: file u4, offset u8, length u8, pack u4, offset u8;
    pack numbers are this worker's own, or those of known packs (``gather``). They may be of earlier jobs' files.

    ``unchanged`` files hold what their parent holds; ``hashes`` are those of the contents of others; ``unsettled`` ones
    were changed each time that they were read. ``packs`` are
    those that have become durable since the last job, in the order of their numbers.
    """

    worker: int
    read_bytes: int
    pieces: tuple[bytes, bytes, bytes, bytes, bytes]
    vanished: tuple[int, ...]
    suspects: tuple[SuspectPage, ...]
    unchanged: tuple[int, ...] = ()
    unsettled: tuple[int, ...] = ()
    hashes: tuple[tuple[int, bytes], ...] = ()
    packs: tuple[PackRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPacks:
    """A worker's last word: its last packs, all of them durable by now, and its last pieces."""

    worker: int
    packs: tuple[PackRef, ...]
    pieces: tuple[bytes, bytes, bytes, bytes, bytes]
