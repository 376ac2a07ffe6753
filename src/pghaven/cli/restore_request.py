"""The options of ``pghaven restore`` as a request: which target, which places.

The one idea: options that do not go together are refused before anything is looked at, in the words of the options.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime

from pghaven.errors import UsageError
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.recovery import RecoveryTarget, TargetAction, TargetKind
from pghaven.postgres.target_time import parse_target_time
from pghaven.postgres.timeline import Timeline
from pghaven.restore.request import RestoreRequest

_LATEST_TIMELINE = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """As they were written; None and False for those that were not."""

    time: str | None
    lsn: str | None
    xid: str | None
    name: str | None
    immediate: bool
    timeline: str | None
    action: TargetAction | None
    exclusive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOptions:
    cluster: str
    target_dir: str
    delta: bool
    remove_foreign: bool
    backup: str | None
    standby: bool
    archive: bool
    tablespaces: tuple[str, ...]
    port: int | None


def make_request(target: TargetOptions, place: PlaceOptions, now: datetime) -> RestoreRequest:
    """Raises UsageError for what cannot be read or does not go together. ``now`` is what "-2h" counts from."""
    if place.standby and (_list_given(target) or target.action or target.exclusive):
        raise UsageError(
            "--standby follows its primary and stops nowhere: it goes with no target and no --target-action",
            hint="Leave one of them out.",
        )
    if not place.target_dir:
        raise UsageError("--target-dir is empty")
    if place.remove_foreign and not place.delta:
        raise UsageError(
            "--remove-foreign goes with --delta only: any other restore takes an empty directory", hint="Add --delta."
        )
    return RestoreRequest(
        cluster=place.cluster,
        target_dir=os.path.abspath(place.target_dir),
        target=make_target(target, now),
        backup_label=place.backup,
        standby=place.standby,
        archiving=place.archive,
        tablespace_mapping=parse_mappings(place.tablespaces),
        port=place.port,
        delta=place.delta,
        remove_foreign=place.remove_foreign,
    )


def make_target(options: TargetOptions, now: datetime) -> RecoveryTarget:
    """Raises UsageError."""
    given = _list_given(options)
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are different targets", hint="Recovery stops at one: choose one.")
    if options.exclusive and not any((options.time, options.lsn, options.xid)):
        raise UsageError(
            "--exclusive needs a target that can be left out: a time, an LSN or a transaction",
            hint="Add --target-time, --target-lsn or --target-xid.",
        )
    return RecoveryTarget(
        kind=_find_kind(options),
        time=None if options.time is None else parse_target_time(options.time, None, now=now),
        lsn=None if options.lsn is None else _parse_lsn(options.lsn),
        xid=None if options.xid is None else _parse_xid(options.xid),
        name=options.name,
        inclusive=not options.exclusive,
        timeline=_parse_timeline(options.timeline),
        action=options.action or "promote",
    )


def _list_given(options: TargetOptions) -> list[str]:
    given = {
        "--target-time": options.time,
        "--target-lsn": options.lsn,
        "--target-xid": options.xid,
        "--target-name": options.name,
        "--immediate": options.immediate or None,
    }
    return [name for name, value in given.items() if value is not None]


def _find_kind(options: TargetOptions) -> TargetKind:
    kinds: dict[TargetKind, object] = {
        TargetKind.TIME: options.time,
        TargetKind.LSN: options.lsn,
        TargetKind.XID: options.xid,
        TargetKind.NAME: options.name,
        TargetKind.IMMEDIATE: options.immediate or None,
    }
    return next((kind for kind, value in kinds.items() if value is not None), TargetKind.LATEST)


def _parse_lsn(text: str) -> Lsn:
    try:
        return Lsn.parse(text)
    except ValueError as error:
        raise UsageError(f"--target-lsn: {error}", hint='A WAL position is written as in "0/3000028".') from error


def _parse_xid(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(f'--target-xid: "{text}" is not the number of a transaction', hint='Write it as in "7431".')
    return int(text)


def _parse_timeline(text: str | None) -> Timeline | None:
    if text is None or text == _LATEST_TIMELINE:
        return None
    try:
        return Timeline.parse(text)
    except ValueError as error:
        raise UsageError(f"--target-timeline: {error}", hint="`pghaven wal list` shows which there are.") from error


def parse_mappings(texts: tuple[str, ...]) -> dict[str, str]:
    """``OLD=NEW``, both absolute; an equals sign in a path is written ``\\=``, as for pg_basebackup."""
    found: dict[str, str] = {}
    for text in texts:
        parts = text.replace("\\=", "\0").split("=")
        old, new = (part.replace("\0", "=") for part in parts) if len(parts) == 2 else ("", "")
        if not os.path.isabs(old) or not os.path.isabs(new):
            raise UsageError(
                f'--tablespace-mapping: "{text}" is not OLD=NEW with two absolute paths',
                hint="For example: --tablespace-mapping /srv/space=/srv/restored/space",
            )
        old = old.rstrip("/") or "/"
        if old in found:
            raise UsageError(f'--tablespace-mapping: "{old}" is mapped twice')
        found[old] = new
    return found
