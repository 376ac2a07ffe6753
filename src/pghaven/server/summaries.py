"""WAL summaries of PostgreSQL 17 and later: which blocks changed, without reading the database.

The one idea: summaries are believed only where they cover every byte of the way. The server makes a summary file for
each stretch of WAL from checkpoint to checkpoint, on a primary as on a standby, and leaves out WAL of ``wal_level =
minimal``; so what lies between two positions of a history is known if and only if its summaries, timeline by timeline,
leave no gap. Whenever something is missing the answer is a reason, and the caller looks for changes another way.

We choose the summaries ourselves. One belongs to a leg of the history if it overlaps it; one that reaches beyond the
point where a timeline was left may say too much, which is harmless (``server.changed``). Manual, "WAL Summarization
Information Functions".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from pghaven.clock import Clock
from pghaven.errors import NotPermitted, PghavenError, ServerUnsuitable
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import HistoryLeg, Timeline
from pghaven.server.changed import ChangedBlocks, ChangedBlocksBuilder
from pghaven.server.connection import Connection, fetch_one, server_errors
from pghaven.server.probe import ServerFacts
from pghaven.units import render_duration

_BETA_FAULT: Final = "they cover WAL of wal_level = minimal, and keep back what was only truncated"
FAULTY_MINORS: Final[Mapping[str, str]] = {"17beta1": _BETA_FAULT, "17beta2": _BETA_FAULT}
"""Versions, as ``server_version`` has them, whose summaries cannot be relied on, and why.

Faults of released versions that were looked at and do not touch what is read here:

- The server's own incremental backup took in a summary that only touches the point where a timeline was left, and its
  truncations then hid changes (mended in autumn 2026, ec756e5913 for 17). Choosing and joining summaries is ours.
- Truncating a table changes the last page of its visibility map without a trace in the summary, when checksums and
  wal_log_hints are off (known in autumn 2026). Visibility maps are copied by content.
- The summarizer can wait for ever where a timeline ends (mended in July 2026, 499d9eabb5 for 17). We do not.
"""

_POLL_SECONDS: Final = 0.1
_EXECUTE: Final = "EXECUTE ON FUNCTION pg_catalog."
_STATE: Final = f"{_EXECUTE}pg_get_wal_summarizer_state()"
_LIST: Final = f"{_EXECUTE}pg_available_wal_summaries()"
_CONTENTS: Final = f"{_EXECUTE}pg_wal_summary_contents(bigint, pg_lsn, pg_lsn)"
_GAP_HINT: Final = (
    "Summaries begin with the first checkpoint after summarize_wal was switched on, and are kept for "
    "wal_summary_keep_time; a restored server starts without any."
)

# Blocks come 32768 at most in one value of two bytes each: ten million rows are some hundred, and 20 MB.
_CHUNK_BITS: Final = 15
_READ: Final = """
    SELECT reltablespace, reldatabase, relfilenode, is_limit_block, relblocknumber >> 15, min(relblocknumber),
           string_agg(int2send((relblocknumber & 32767)::int2), ''::bytea)
      FROM pg_wal_summary_contents(%s, %s::pg_lsn, %s::pg_lsn)
     WHERE relforknumber = 0
     GROUP BY 1, 2, 3, 4, 5
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SummariesUnusable:
    """Why summaries cannot tell what changed; ``hint`` is a sentence on what would help, if something would."""

    reason: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WalSummary:
    """One summary file: of the WAL of ``timeline`` from ``start_lsn`` up to ``end_lsn``, exclusive."""

    timeline: Timeline
    start_lsn: Lsn
    end_lsn: Lsn

    def overlaps(self, leg: HistoryLeg) -> bool:
        """Whether they share any WAL; touching is not sharing."""
        return self.timeline == leg.timeline and self.start_lsn < leg.end_lsn and self.end_lsn > leg.start_lsn


def find_summaries_obstacle(facts: ServerFacts) -> SummariesUnusable | None:
    """What keeps this server from having summaries one can rely on; None if nothing does."""
    if not facts.major.has_wal_summaries:
        return SummariesUnusable(reason=f"PostgreSQL {facts.major} has no WAL summaries")
    fault = FAULTY_MINORS.get(facts.version.partition(" ")[0])
    if fault is not None:
        return SummariesUnusable(
            reason=f"WAL summaries of PostgreSQL {facts.version} are faulty: {fault}", hint="Update PostgreSQL."
        )
    if facts.settings.get("summarize_wal") != "on":
        return SummariesUnusable(
            reason="summarize_wal is off", hint="Set summarize_wal = on and reload the configuration."
        )
    return None


def wait_for_summaries(
    connection: Connection,
    timeline: Timeline,
    lsn: Lsn,
    *,
    timeout_seconds: float,
    clock: Clock,
    on_wait: Callable[[], None],
) -> SummariesUnusable | None:
    """Until the server has summarized the WAL of ``timeline`` up to ``lsn``; None if it has.

    Where a backup starts there is a checkpoint, which wakes the summarizer, so this takes well under a second unless
    the summarizer is behind. ``on_wait`` is called while waiting. Does not say that no summary before is missing.
    Raises ServerUnsuitable when the session has ended.
    """
    deadline = clock.monotonic() + timeout_seconds
    try:
        while True:
            with _told(connection, "ask how far WAL is summarized", _STATE):
                found, reached, pid = fetch_one(
                    connection,
                    "SELECT summarized_tli, summarized_lsn::text, summarizer_pid FROM pg_get_wal_summarizer_state()",
                )
            # A later timeline: a standby that has followed a promotion meanwhile.
            if found > timeline or (found == timeline and Lsn.parse(reached) >= lsn):
                return None
            if clock.monotonic() >= deadline:
                break
            on_wait()
            clock.sleep(_POLL_SECONDS)
    except _Unusable as refused:
        return refused.answer
    state = f"it is at {reached} of timeline {found}" if pid is not None else "it does not run"
    return SummariesUnusable(
        reason=f"the WAL summarizer did not reach {lsn} within {render_duration(timeout_seconds)}: {state}",
        hint="See the server's log.",
    )


def read_changed_blocks(connection: Connection, legs: Iterable[HistoryLeg]) -> ChangedBlocks | SummariesUnusable:
    """What changed on the way that ``legs`` describe (``History.legs`` from the parent's start to the new one).

    One query for each summary, in autocommit mode: nothing is held on the server in between. Raises ServerUnsuitable
    when the session has ended.
    """
    try:
        chosen = choose_summaries(_list_summaries(connection), legs)
        if isinstance(chosen, SummariesUnusable):
            return chosen
        builder = ChangedBlocksBuilder()
        for summary in chosen:
            _read_summary(connection, summary, builder)
    except _Unusable as refused:
        return refused.answer
    return builder.finish()


def choose_summaries(
    available: Iterable[WalSummary], legs: Iterable[HistoryLeg]
) -> tuple[WalSummary, ...] | SummariesUnusable:
    """All summaries that overlap a leg; or the first gap in what they cover."""
    ordered = sorted(available, key=lambda summary: summary.start_lsn)
    chosen: list[WalSummary] = []
    for leg in legs:
        covered = leg.start_lsn
        for summary in ordered:
            if not summary.overlaps(leg):
                continue
            if summary.start_lsn > covered:
                return _gap(leg, covered, summary.start_lsn)
            covered = max(covered, summary.end_lsn)
            chosen.append(summary)
        if covered < leg.end_lsn:
            return _gap(leg, covered, leg.end_lsn)
    return tuple(chosen)


def _gap(leg: HistoryLeg, start_lsn: Lsn, end_lsn: Lsn) -> SummariesUnusable:
    return SummariesUnusable(
        reason=f"WAL of timeline {leg.timeline} from {start_lsn} to {end_lsn} is not summarized", hint=_GAP_HINT
    )


def _list_summaries(connection: Connection) -> list[WalSummary]:
    with _told(connection, "list WAL summaries", _LIST):
        rows = connection.execute(
            "SELECT tli, start_lsn::text, end_lsn::text FROM pg_available_wal_summaries()"
        ).fetchall()
    return [
        WalSummary(timeline=Timeline(timeline), start_lsn=Lsn.parse(start), end_lsn=Lsn.parse(end))
        for timeline, start, end in rows
    ]


def _read_summary(connection: Connection, summary: WalSummary, builder: ChangedBlocksBuilder) -> None:
    place = (int(summary.timeline), str(summary.start_lsn), str(summary.end_lsn))
    with _told(connection, "read a WAL summary", _CONTENTS), connection.cursor() as cursor:
        for tablespace, database, relfilenode, is_limit, chunk, lowest, packed in cursor.stream(
            _READ, place, binary=True
        ):
            relation = (tablespace, database, relfilenode)
            if is_limit:
                builder.add_limit(relation, lowest)
            else:
                low = np.frombuffer(packed, ">u2").astype(np.uint32)
                builder.add_blocks(relation, low | np.uint32(chunk << _CHUNK_BITS))


class _Unusable(Exception):
    """Carries an answer out of a loop. Does not leave this module."""

    def __init__(self, answer: SummariesUnusable) -> None:
        super().__init__(answer.reason)
        self.answer = answer


@contextmanager
def _told(connection: Connection, doing: str, privilege: str) -> Iterator[None]:
    """What the server refuses becomes a reason, unless the session is gone, and with it the backup."""
    try:
        with server_errors(connection, doing, privilege=privilege):
            yield
    except (NotPermitted, ServerUnsuitable) as error:
        if connection.broken or connection.closed:
            raise
        raise _Unusable(_explain(error)) from error


def _explain(error: PghavenError) -> SummariesUnusable:
    return SummariesUnusable(reason=error.message, hint=error.hint)
