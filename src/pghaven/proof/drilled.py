"""What drills say of a cluster now: whether it was proven to come back, and how long that takes. Pure.

The one idea: a proof gets old, and then it is told as old; how long a restore would take now follows from rates that
were measured, and without any it is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pghaven.clock import CLOCK_TOLERANCE
from pghaven.postgres.lsn import Lsn
from pghaven.proof.states import Problem
from pghaven.repository.drills import DRILL_AGE_WARNED, DrillEvidence
from pghaven.units import render_duration, render_time

_TOLD_CHARACTERS = 300
_NOT_LOADED = "load: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """As a drill measured them on its host: bytes of files and of WAL in a second, and seconds for all else, of which
    ``ending_seconds`` come after the replay. ``replay`` is None where too little was replayed to tell;
    ``fetch_profile`` is as in ``DrillEvidence``."""

    measured_at: datetime
    files_bytes_per_second: float
    replay_bytes_per_second: float | None
    other_seconds: float
    ending_seconds: float = 0.0
    fetch_profile: tuple[float, ...] = ()


def describe_ago(moment: datetime, now: datetime) -> str:
    """How long ago a moment was; for one in the future that it is."""
    if now - moment < -CLOCK_TOLERANCE:
        return f"at {render_time(moment)}, which by this host's clock is still to come"
    return f"{render_duration(max(0.0, (now - moment).total_seconds()))} ago"


# Less WAL is replayed in the time that a server takes to start.
_REPLAY_BYTES_MIN = 256 << 20
_DRILLS_MEASURED = 3


def judge_drills(cluster: str, drills: Sequence[DrillEvidence], now: datetime) -> Iterator[Problem]:
    """``drills`` are the newest first. That there was none is not wrong yet. What does not count hides nothing."""
    doubtful = next((one for one in drills[:1] if one.doubt is not None), None)
    if doubtful is not None:
        text = f"the result of the last drill, {describe_ago(doubtful.began_at, now)}, does not count: {doubtful.doubt}"
        hint = f"Find out who wrote {doubtful.name}, and prove it anew: pghaven drill {cluster}"
        yield Problem(code="drill_doubtful", level="warning", text=text, hint=hint)
    last = next((one for one in drills if one.doubt is None), None)
    if last is None:
        return
    ago = describe_ago(last.began_at, now)
    if not last.passed:
        what = last.failures[0][:_TOLD_CHARACTERS] if last.failures else "it could not tell"
        more = f"; and {len(last.failures) - 1} more" if len(last.failures) > 1 else ""
        text = f"the last drill, {ago}, failed: {what}{more}"
        hint = f"Once the cause is mended, prove it: pghaven drill {cluster}"
        yield Problem(code="drill_failed", level="critical", text=text, hint=hint)
    elif last.is_stale(now):
        days = DRILL_AGE_WARNED.days
        text = f"the last drill was {ago}: that a restore works was not proven for more than {days} days"
        yield Problem(code="drill_old", level="warning", text=text, hint=f"Run: pghaven drill {cluster}")


def judge_proofs(cluster: str, proofs: Sequence[DrillEvidence], now: datetime) -> Iterator[Problem]:
    """What was found of dumps, the newest first: the last of each dump counts."""
    told: set[str | None] = set()
    for one in proofs:
        if one.doubt is None and one.backup not in told:
            told.add(one.backup)
            if not one.passed:
                found = "was found not to be what was dumped"
                hint = f"Take a new one: pghaven dump {cluster}, and prove that: pghaven load --verify"
                what = (one.failures or ("it could not be told",))[0][:_TOLD_CHARACTERS]
                if what.startswith(_NOT_LOADED):  # for want of a program, room, or what the dump needs
                    found, what = "could not be loaded to prove it", what.removeprefix(_NOT_LOADED)
                    hint = f"Mend that, and prove it: pghaven load {one.backup} --cluster {cluster} --verify"
                text = f"dump {one.backup} {found} {describe_ago(one.began_at, now)}: {what}"
                yield Problem(code="dump_failed", level="warning", text=text, hint=hint)


def find_rates(drills: Sequence[DrillEvidence]) -> Rates | None:
    """The medians of the newest drills of backups that passed, three at most: one that ran while its host was busy does
    not decide. None without any."""
    measured = []
    for one in drills:
        if one.passed and one.is_of_backup and one.seconds.get("fetch", 0.0) and one.written_bytes:
            measured.append(_find_rates_of(one))
    recent = [
        one for one in measured[:_DRILLS_MEASURED] if measured[0].measured_at - one.measured_at <= DRILL_AGE_WARNED
    ]
    if not recent:
        return None
    replay = [one.replay_bytes_per_second for one in recent if one.replay_bytes_per_second is not None]
    # Where none was told replay is a part of all else.
    alike = [one for one in recent if (one.replay_bytes_per_second is not None) is bool(replay)]
    return Rates(
        measured_at=recent[0].measured_at,
        files_bytes_per_second=_find_median([one.files_bytes_per_second for one in recent]),
        replay_bytes_per_second=_find_median(replay) if replay else None,
        other_seconds=_find_median([one.other_seconds for one in alike]),
        ending_seconds=_find_median([one.ending_seconds for one in alike]),
        fetch_profile=recent[0].fetch_profile,
    )


def _find_rates_of(one: DrillEvidence) -> Rates:
    fetch, replay = one.seconds["fetch"], one.seconds.get("replay", 0.0)
    is_told = one.replayed_bytes >= _REPLAY_BYTES_MIN and replay > 0
    other = max(0.0, one.seconds.get("first_query", fetch + replay) - fetch - (replay if is_told else 0.0))
    # A drill asks while the server that has recovered still runs; a restore stops it, and starts it as its own.
    stop = one.seconds.get("stop", 0.0)
    return Rates(
        measured_at=one.began_at,
        files_bytes_per_second=one.written_bytes / fetch,
        replay_bytes_per_second=one.replayed_bytes / replay if is_told else None,
        other_seconds=other + stop,
        ending_seconds=stop + other / 2,
        fetch_profile=one.fetch_profile,
    )


def _find_median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def estimate_recovery(
    rates: Rates | None, total_bytes: int | None, start_lsn: Lsn | None, end_lsn: Lsn | None, assumed_replay: float
) -> float | None:
    """Seconds until a restore of a backup of this size, up to this position, would answer; None when it is unknown.
    ``assumed_replay`` is the rate where none was measured."""
    if rates is None or total_bytes is None or start_lsn is None or end_lsn is None:
        return None
    wal = max(0, end_lsn - start_lsn)
    replay = rates.replay_bytes_per_second or assumed_replay
    return total_bytes / rates.files_bytes_per_second + wal / replay + rates.other_seconds
