"""Looking ahead: files that wait behind the one that is pushed are pushed beside it, and marked.

The one idea: what looks ahead can only help. Several processes for each repository share the waiting files; where one
fails it just stops, since the server will ask for that file in its turn and be told why. A file gets its mark when
every repository has said that it holds the very same one, so a crash anywhere leaves work undone, never a wrong mark.

While a history file waits nobody looks ahead: no segment of a timeline is stored before its history.

A repository that has all of these already, while another one is down and keeps them waiting, gets those that wait
behind them: else it would have no more than these until the other is back.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice

from pghaven.clock import Clock
from pghaven.errors import Cancelled, PghavenError
from pghaven.events import ignore
from pghaven.light import dataclass, field
from pghaven.postgres.segment import WalFileKind, classify
from pghaven.repository.place import RepositoryPlace, open_place
from pghaven.repository.walstore import PutOutcome
from pghaven.runtime.beside import Beside
from pghaven.runtime.heap import keep_freed_memory
from pghaven.wal.archives import OpenArchive, open_archive
from pghaven.wal.children import Child, Tell, start_child
from pghaven.wal.marks import Marks
from pghaven.wal.push import push_into, read_wal_file

# Of the time that a push may take, after which no further file is begun, and no file waited for any longer.
_STOP_SHARE = 0.25
_LEAVE_SHARE = 0.5
# What the files in hand may take for each repository.
_MEMORY_BYTES = 256 << 20
FILES_MAX = 255
"""Files are numbered by one byte, which a pipe hands out whole."""


@dataclass(slots=True, kw_only=True)
class _Track:
    """The files on their way into one repository. ``held`` has the time of each file as it was read."""

    place: RepositoryPlace
    tokens: int
    children: list[Child] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)


class Ahead:
    """Some files on their way into several repositories. ``enter`` is called in each process that is started, and
    ``waiting`` are all that wait, these among them."""

    def __init__(
        self,
        marks: Marks,
        wal_directory: str,
        names: Sequence[str],
        *,
        cluster: str,
        clock: Clock,
        waiting: Sequence[str] = (),
        enter: Callable[[], None] | None = None,
    ) -> None:
        self._enter = enter
        self._marks = marks
        self._wal_directory = wal_directory
        self._names = tuple(names[:FILES_MAX])
        self._waiting = waiting
        self._cluster = cluster
        self._clock = clock
        self._tracks: list[_Track] = []
        self._is_complete = True
        self._in_pairs = False

    def start(self, places: Sequence[RepositoryPlace], workers: int, data_directory: str | None) -> None:
        """Start up to ``workers`` processes for each repository that lacks any of the files, or as many as can be."""
        wanted = {place.name: self._choose_for(place, len(places)) for place in places}
        more = dict.fromkeys(name for names in wanted.values() for name in names)
        self._names = tuple(dict.fromkeys((*self._names, *more)))[:FILES_MAX]
        self._in_pairs = count_affordable(self._wal_directory, self._names, 2 * workers) == 2 * workers
        for place in places:
            lacking = [name for name in wanted[place.name] if name in self._names]
            try:
                reader, writer = os.pipe()
            except OSError:  # too many files are open; without help the server asks for each file in its turn
                self._is_complete = False
                return
            os.write(writer, bytes(self._names.index(name) for name in lacking))
            os.close(writer)
            track = _Track(place=place, tokens=reader)
            self._tracks.append(track)
            for name in self._names:
                if name in lacking or not self._marks.is_held(place.name, name):
                    continue
                with suppress(OSError):
                    track.held[name] = os.stat(os.path.join(self._wal_directory, name)).st_mtime_ns
            work = partial(self._work, track, data_directory)
            for _ in range(min(workers, len(lacking))):
                with suppress(Cancelled):  # no process can be made; others do the work, or nobody
                    track.children.append(start_child(work))

    def _choose_for(self, place: RepositoryPlace, count: int) -> list[str]:
        """Which of the files a repository lacks; of several repositories one that has some of these gets as many of
        those that wait behind them. What it once had of those it is not asked about: that is for when their turn
        comes."""
        marks = self._marks
        lacking = [name for name in self._names if not marks.is_held(place.name, name)]
        if count > 1 and self._names and self._names[-1] in self._waiting:
            behind = self._waiting[self._waiting.index(self._names[-1]) + 1 :]
            never = (name for name in behind if not (marks.is_marked(name) or marks.was_held(place.name, name)))
            lacking += islice(never, len(self._names) - len(lacking))
        return lacking

    @property
    def open_children(self) -> list[Child]:
        return [child for track in self._tracks for child in track.children if child.status is None]

    def take(self, child: Child) -> list[str]:
        """Hear what a child of ours has to say: the files that its repository holds now."""
        track = next(track for track in self._tracks if child in track.children)
        told = child.receive()
        for name, mtime_ns in told:
            track.held[name] = mtime_ns
            with suppress(OSError):  # a mark is a help
                self._marks.mark_held(track.place.name, name, mtime_ns)
        if child.status is not None:
            os.close(child.reader)
        return [name for name, _ in told]

    def stop(self) -> None:
        """Begin no further file."""
        for track in self._tracks:
            os.read(track.tokens, FILES_MAX)

    def keep_to(self, start: float, limit_seconds: float, now: float) -> float:
        """Stop or leave when it is time to, for a push that began at ``start``; the next moment to be asked again."""
        stop_at, leave_at = start + limit_seconds * _STOP_SHARE, start + limit_seconds * _LEAVE_SHARE
        if now < stop_at:
            return stop_at
        self.stop()
        if now < leave_at:
            return leave_at
        self.leave()
        return now

    def leave(self, place: RepositoryPlace | None = None) -> None:
        """Let go of all that are still at work, or of those for one repository."""
        for track in self._tracks:
            if place in (None, track.place):
                for child in track.children:
                    if child.status is None:
                        child.leave()

    def close(self) -> None:
        """When all have ended, in a process that goes on."""
        for track in self._tracks:
            os.close(track.tokens)

    def list_done(self, without: Sequence[str], among: Collection[str] | None = None) -> Iterator[tuple[str, int]]:
        """The files, all or ``among`` these, with their times, that every repository holds but those named in
        ``without``."""
        if not self._is_complete:
            return  # of some repository nobody knows
        tracks = [track for track in self._tracks if track.place.name not in without]
        for name in (self._names if among is None else among) if tracks else ():
            times = {track.held.get(name) for track in tracks}
            (first, *others) = times
            if first is not None and not others:
                yield name, first

    def _work(self, track: _Track, data_directory: str | None, tell: Tell) -> None:
        """Two files at a time, if there is memory for it: one is compressed while the other is written and flushed."""
        if self._enter is not None:
            self._enter()
        keep_freed_memory()
        share = partial(self._share, track, data_directory, tell, _thread.allocate_lock())
        if not self._in_pairs:
            share()
            return
        with Beside() as beside:
            beside.begin(share)
            share()
            beside.finish()

    def _share(self, track: _Track, data_directory: str | None, tell: Tell, turn: _thread.LockType) -> None:
        opened: OpenArchive | None = None
        with suppress(PghavenError):
            while token := os.read(track.tokens, 1):
                name = self._names[token[0]]
                file = read_wal_file(os.path.join(self._wal_directory, name), data_directory, cluster=self._cluster)
                if opened is None:
                    opened = open_archive(open_place(track.place), self._cluster, file.claim)
                    opened.archive.turn = turn
                # What is quarantined is told when its turn comes.
                if push_into(opened, file, self._clock, ignore) is not PutOutcome.QUARANTINED:
                    tell((name, file.mtime_ns))


def choose_ahead(waiting: Sequence[str], first: str, marks: Marks, limit: int) -> tuple[str, ...]:
    """Which of the waiting files to push beside ``first``, at most ``limit``."""
    if any(classify(name) is WalFileKind.HISTORY for name in (first, *waiting)):
        return ()
    chosen: list[str] = []
    for name in waiting:
        if len(chosen) == min(limit, FILES_MAX):
            break
        if name != first and not marks.is_marked(name):
            chosen.append(name)
    return tuple(chosen)


def count_affordable(wal_directory: str, names: Sequence[str], processes: int) -> int:
    """How many processes may look ahead for these files: each holds one in memory, and segments have up to 1 GiB."""
    try:
        largest = max((os.stat(os.path.join(wal_directory, name)).st_size for name in names), default=None)
    except OSError:
        return 0
    return 0 if largest is None else min(processes, _MEMORY_BYTES // max(largest, 1))
