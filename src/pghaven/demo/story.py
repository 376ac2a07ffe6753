"""The demonstration from beginning to end.

    a server with data → protection → backup → more writing → accident → restore → comparison → three numbers

The one idea: each chapter does, with the same code, what a command does for a cluster of the reader's own; and whatever
happens, when the block around it is left no server and no file is left either, unless they were asked for.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg

from pghaven.clock import SYSTEM_CLOCK, Clock
from pghaven.demo.comeback import come_back
from pghaven.demo.ground import (
    ORIGINAL,
    RESTORED,
    Ground,
    clear,
    find_pghaven,
    find_postgresql,
    make_directory,
    make_sockets,
    write_mark,
)
from pghaven.demo.protection import CLUSTER, Protected, measure, protect, take_backup, try_archive
from pghaven.demo.results import (
    BackupNumbers,
    Chapter,
    Comparison,
    DemoResult,
    Kept,
    Loss,
    RestoreNumbers,
    Said,
    Teller,
    WindowNumbers,
)
from pghaven.demo.servers import DemoServer
from pghaven.demo.shop import (
    LOST_TABLE,
    Customers,
    TableState,
    begin_release,
    count_orders_since,
    fill_shop,
    lose_table,
    place_order,
    plan_shop,
    read_tables,
)
from pghaven.errors import CheckFailed, PghavenError
from pghaven.events import Listener, Progress, Step
from pghaven.server.backlog import count_waiting
from pghaven.server.connection import fetch_one, server_errors
from pghaven.server.identity import find_server_user
from pghaven.server.probe import read_clock, read_lsn
from pghaven.server.walcontrol import switch_wal
from pghaven.units import render_duration, render_size, render_time

_CHAPTERS: Final = 7
_RELEASE: Final = "4.2"
# Between two orders: enough of them to fill WAL while one looks on, and the processor is left to the backup.
_PAUSE_SECONDS: Final = 0.002
# More than a segment, so that at least one is finished and archived after the backup; with little data, less than that.
_WRITING_SEGMENTS: Final = 1.25
_WRITING_SHARE: Final = 8
_WRITING_SECONDS_MAX: Final = 12.0
_ARCHIVE_SECONDS_MAX: Final = 60.0
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """``directory`` does not exist or is empty; None for a temporary one. ``size_bytes`` is about the data's size."""

    directory: str | None
    size_bytes: int
    keep: bool


def run_demo(request: DemoRequest, tell: Teller, listener: Listener, *, clock: Clock = SYSTEM_CLOCK) -> DemoResult:
    """Tell and do the whole story. Blocks for about a minute.

    Raises CheckFailed if a row did not come back, NotFound without PostgreSQL, Refused or NotPermitted for a directory
    that will not do, and whatever the steps raise. Nothing is left behind unless ``keep``.
    """
    with _open_ground(request, listener, clock) as ground:
        story = _Story(request, ground, tell, listener, clock)
        try:
            return story.run()
        except PghavenError as error:
            story.explain(error)
            raise


@contextmanager
def _open_ground(request: DemoRequest, listener: Listener, clock: Clock) -> Iterator[Ground]:
    user = find_server_user()
    directory, is_new = make_directory(request.directory, user, request.size_bytes)
    try:
        sockets = make_sockets(directory, user)
        write_mark(directory, sockets, is_new=is_new)
        programs = find_postgresql(directory, user, listener)
        program = find_pghaven(directory, user, listener)
        yield Ground(directory=directory, sockets=sockets, user=user, programs=programs, program=program)
    finally:
        if not request.keep:
            with _undisturbed():
                listener(Step(text="stopping the servers and removing the files"))
                clear(directory, clock)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C, or the end of the terminal, does not keep us from cleaning up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    earlier = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Story:
    def __init__(self, request: DemoRequest, ground: Ground, tell: Teller, listener: Listener, clock: Clock) -> None:
        self._request = request
        self._ground = ground
        self._tell = tell
        self._listen = listener
        self._clock = clock
        self._began = clock.monotonic()
        self._chapter = 0
        self._size = plan_shop(request.size_bytes)
        self._original = DemoServer(ground, ORIGINAL, keep=request.keep)
        self._restored = DemoServer(ground, RESTORED, keep=request.keep)

    def run(self) -> DemoResult:
        database_bytes = self._open_shop()
        protected = self._protect()
        backup = self._back_up(protected)
        self._go_on(protected)
        before, moment, loss = self._have_accident(protected)
        restore = self._come_back(protected, moment)
        tables = self._compare(before)
        _, window = measure(protected, self._clock)
        return DemoResult(
            server_version=self._ground.programs.version,
            database_bytes=database_bytes,
            cluster=CLUSTER,
            backup=backup,
            accident_at=moment,
            lost_table=LOST_TABLE,
            lost_rows=next(one.rows for one in before if one.name == LOST_TABLE),
            loss=loss,
            restore=restore,
            tables=tables,
            missing_rows=sum(max(0, one.before.rows - (one.after.rows if one.after else 0)) for one in tables),
            window=WindowNumbers(begin=window.begin, end=window.end or self._clock.now()),
            total_seconds=self._clock.monotonic() - self._began,
            kept=self._describe_kept(protected) if self._request.keep else None,
        )

    def explain(self, error: PghavenError) -> None:
        """Add what the servers said last: their logs are about to be removed."""
        parts = [error.detail or ""]
        for server in (self._original, self._restored):
            tail = server.read_log_tail()
            if tail and tail not in parts[0]:
                parts.append(f"The log {server.log_path} ends with:\n{tail}")
        error.detail = "\n".join(part for part in parts if part) or None

    # -- chapters ---------------------------------------------------------------------------------------------------

    def _open_shop(self) -> int:
        ground = self._ground
        self._begin(f"A shop on a PostgreSQL {ground.programs.version} of its own")
        who = "" if ground.user is None else f', as user "{ground.user.name}" since PostgreSQL does not run as root'
        self._say(f"in {ground.directory}, on no network{who}")
        began = self._clock.monotonic()
        self._listen(Step(text="making a cluster"))
        self._original.create()
        with closing(self._original.connect()) as connection:
            fill_shop(connection, self._size, self._listen)
            with server_errors(connection, "ask for the database's size"):
                (size,) = fetch_one(connection, "SELECT pg_database_size(current_database())")
        rows = (
            f"{self._size.customers:,} customers, {self._size.orders:,} orders, {3 * self._size.orders:,} order lines"
        )
        self._say(f"{rows}, with indexes and foreign keys: {render_size(size)} in {self._since(began)}")
        return int(size)

    def _protect(self) -> Protected:
        self._begin("The shop comes under protection", "pghaven init shop --apply")
        protected = protect(self._ground, self._original, self._clock, self._listen)
        self._say(f"a repository, and the server's settings: {', '.join(protected.changed)}")
        trip = try_archive(protected, self._original, self._clock, self._listen)
        self._say(f"tried: a WAL segment was archived, read back and is whole after {render_duration(trip.seconds)}")
        return protected

    def _back_up(self, protected: Protected) -> BackupNumbers:
        self._begin("A backup, while customers go on ordering", "pghaven backup shop")
        customers = self._customers()
        with customers.ordering():
            result = take_backup(protected, self._listen)
        facts = result.facts
        self._say(
            f"{render_size(facts.total_bytes)} in {facts.file_count} files read, {render_size(facts.stored_bytes)} "
            f"stored, every page's checksum verified, in {render_duration(result.total_seconds)}"
        )
        slowest = render_duration(customers.slowest_seconds)
        self._say(f"meanwhile {customers.placed:,} orders were placed; the slowest took {slowest}")
        return BackupNumbers(
            label=facts.label,
            seconds=result.total_seconds,
            total_bytes=facts.total_bytes,
            stored_bytes=facts.stored_bytes,
            file_count=facts.file_count,
            orders_meanwhile=customers.placed,
            slowest_order_seconds=customers.slowest_seconds,
        )

    def _go_on(self, protected: Protected) -> None:
        self._begin("Business goes on, and every WAL segment is archived as it fills up")
        customers = self._customers()
        segments = _WRITING_SEGMENTS * protected.archive.segment_size
        wanted = int(min(segments, self._request.size_bytes / _WRITING_SHARE))
        began = self._clock.monotonic()
        with closing(self._original.connect()) as connection, customers.ordering():
            start = read_lsn(connection)
            while (written := read_lsn(connection) - start) < wanted:
                if self._clock.monotonic() - began > _WRITING_SECONDS_MAX:
                    break
                self._listen(Progress(phase="writing WAL", done_bytes=written, total_bytes=wanted))
                self._clock.sleep(_POLL_SECONDS)
        self._say(f"{customers.placed:,} more orders, {render_size(written)} of WAL in {self._since(began)}")

    def _have_accident(self, protected: Protected) -> tuple[tuple[TableState, ...], datetime, Loss]:
        self._begin("The accident")
        with closing(self._original.connect()) as connection:
            self._listen(Step(text="reading every row, to compare with later"))
            before = read_tables(connection)
            moment = read_clock(connection)
            # Two transactions later than the moment: recovery must stop before the first of them.
            begin_release(connection, _RELEASE)
            lose_table(connection)
            point, _ = measure(protected, self._clock)
            rows = next(one.rows for one in before if one.name == LOST_TABLE)
            self._say(f"release {_RELEASE} begins at {render_time(moment)} and drops the wrong table")
            self._say(f"DROP TABLE {LOST_TABLE}: {rows:,} rows are gone")
            try:
                place_order(connection, 1)
            except psycopg.Error as error:
                self._say(f"the next customer's order fails: {error.diag.message_primary}")
            else:
                raise CheckFailed(f"orders can be placed without {LOST_TABLE}")
            orders = 0 if point.since is None else count_orders_since(connection, point.since)
        loss = Loss(seconds=point.seconds or 0.0, wal_bytes=point.unarchived_bytes or 0, orders=orders)
        return before, moment, loss

    def _come_back(self, protected: Protected, moment: datetime) -> RestoreNumbers:
        text = moment.astimezone().isoformat(sep=" ")
        self._begin(
            "Back to just before it",
            f"pghaven restore shop --target-dir … --target-time '{text}' --port {self._restored.port} --start",
        )
        self._archive_rest(protected)
        numbers = come_back(protected, self._restored, moment, self._clock, self._listen)
        self._say(f"{render_size(numbers.files_bytes)} of files restored in {render_duration(numbers.files_seconds)}")
        self._say(
            f"{render_size(numbers.replay_bytes)} of WAL replayed in {render_duration(numbers.replay_seconds)}, "
            "up to the last transaction before that moment"
        )
        return numbers

    def _compare(self, before: tuple[TableState, ...]) -> tuple[Comparison, ...]:
        self._begin("Is everything back, row by row?")
        self._listen(Step(text="reading every row"))
        with closing(self._restored.connect()) as connection:
            after = {one.name: one for one in read_tables(connection)}
            place_order(connection, 1)
        tables = tuple(Comparison(before=one, after=after.get(one.name)) for one in before)
        for one in tables:
            if not one.is_same:
                found = "is not there" if one.after is None else f"has {one.after.rows:,} rows, with other contents"
                raise CheckFailed(
                    f'table "{one.before.name}" {found}; it had {one.before.rows:,} rows just before the accident',
                    hint="This must not happen: please report it.",
                )
        rows = sum(one.before.rows for one in tables)
        self._say(f"all {rows:,} rows of {len(tables)} tables are exactly as they were, and orders can be placed again")
        return tables

    # -- between them -----------------------------------------------------------------------------------------------

    def _archive_rest(self, protected: Protected) -> None:
        """The server still lives, so that what it wrote last can be archived too.

        The last segment may arrive before those that it follows, since several are pushed side by side.
        """
        deadline = self._clock.monotonic() + _ARCHIVE_SECONDS_MAX
        with closing(self._original.connect()) as connection:
            segment = str(switch_wal(connection).segment)
            self._listen(Step(text=f"waiting for WAL segment {segment} to be archived"))
            while not protected.archive.exists(segment) or count_waiting(connection, segment):
                if self._clock.monotonic() > deadline:
                    raise CheckFailed(
                        f"WAL up to segment {segment} did not arrive within {render_duration(_ARCHIVE_SECONDS_MAX)}",
                        hint=f"See {self._original.log_path}, with --keep.",
                    )
                self._clock.sleep(_POLL_SECONDS)

    def _customers(self) -> Customers:
        return Customers(self._original.conninfo(), self._size.customers, _PAUSE_SECONDS, self._clock)

    def _describe_kept(self, protected: Protected) -> Kept:
        return Kept(
            directory=self._ground.directory,
            config_path=protected.config.source,
            psql=self._ground.programs.path("psql"),
            original=self._original.conninfo(),
            restored=self._restored.conninfo(),
        )

    def _begin(self, title: str, command: str | None = None) -> None:
        self._chapter += 1
        self._tell(Chapter(number=self._chapter, count=_CHAPTERS, title=title, command=command))

    def _say(self, text: str) -> None:
        self._tell(Said(text=text))

    def _since(self, began: float) -> str:
        return render_duration(self._clock.monotonic() - began)
