"""Whether the timeline that a server archives was begun with its cluster's leave.

The one idea: whoever decides who is primary has a hook called just before a promotion, so in its members a promotion
without that call is somebody's mistake. Such a timeline's history must not enter the archive: it would fence the
primary that goes on (all its WAL would go into quarantine), and draw every standby away from it. It goes into
quarantine itself, with all that is written on it.

What is noted lies in ``pg_wal``, so that no backup, copy or restored directory carries it: there every promotion
counts.

Sources: pgarch.c (histories are archived before all else), StartupXLOG in xlog.c (what is archived at a promotion).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from pghaven.errors import NotPermitted, ServerUnsuitable
from pghaven.light import dataclass, replace
from pghaven.postgres.datadir import PUSH_STATE_DIRECTORY, RESTORE_PLAN_FILE, WAL_DIRECTORY
from pghaven.postgres.timeline import Timeline
from pghaven.runtime.durable import OwnerOf, make_directories_durably, write_durably
from pghaven.wal.directory import is_standby, ran_as_primary

_NOTE = "member.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """``announced``: a promotion was announced, the last of which led to ``begun``; None when that is not known yet.
    ``refused`` is the timeline that was begun without."""

    node: str
    announced: bool = False
    begun: Timeline | None = None
    refused: Timeline | None = None

    def may_begin(self, timeline: Timeline) -> bool:
        """Histories of earlier timelines may be archived by a new primary too, when its predecessor did not."""
        return self.announced and (self.begun is None or timeline <= self.begun)


def note_member(data_directory: str, node: str) -> None:
    """This server's promotions are announced from now on. Raises NotPermitted, ServerUnsuitable."""
    if read_membership(data_directory) is None:
        _write(data_directory, Membership(node=node))


def announce_promotion(data_directory: str, node: str) -> None:
    """The next timeline that this server begins is its cluster's. Raises NotPermitted, ServerUnsuitable."""
    _write(data_directory, Membership(node=node, announced=True))


def note_begun(data_directory: str, node: str, timeline: Timeline) -> None:
    """The promotion that was announced has led to this timeline. Raises NotPermitted, ServerUnsuitable."""
    _write(data_directory, Membership(node=node, announced=True, begun=timeline))


def read_membership(data_directory: str) -> Membership | None:
    """None for a server of which nobody announces promotions, also where that cannot be told."""
    try:
        with open(_path(data_directory), encoding="utf-8") as file:
            body = json.load(file)
        return Membership(
            node=str(body["node"]),
            announced=bool(body["announced"]),
            begun=None if body["begun"] is None else Timeline(int(body["begun"])),
            refused=None if body["refused"] is None else Timeline(int(body["refused"])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def may_archive(data_directory: str, timeline: Timeline, *, is_history: bool) -> bool:
    """Whether a file of this timeline may enter the archive; that a history may not is remembered for what is written
    on its timeline. Raises NotPermitted, ServerUnsuitable."""
    member = read_membership(data_directory)
    if member is None or _was_recovered_to_a_target(data_directory):
        return True
    # Patroni writes the file that makes a standby while a server that was promoted by mistake still ends as a primary,
    # and that archives its history last of all.
    if is_standby(data_directory) and not ran_as_primary(data_directory):
        return True
    if not is_history:
        return timeline != member.refused
    if member.may_begin(timeline):
        return True
    _write(data_directory, replace(member, refused=timeline))
    return False


def _was_recovered_to_a_target(data_directory: str) -> bool:
    """A restore that was to promote itself, in a directory that had been a member's."""
    try:
        with open(os.path.join(data_directory, RESTORE_PLAN_FILE), encoding="utf-8") as file:
            plan: Mapping[str, Any] = json.load(file)
        return plan.get("standby") is False
    except (OSError, ValueError, AttributeError):
        return False


def _write(data_directory: str, member: Membership) -> None:
    path = _path(data_directory)
    body = {"node": member.node, "announced": member.announced, "begun": member.begun, "refused": member.refused}
    try:
        owner = OwnerOf.path(os.path.join(data_directory, WAL_DIRECTORY))
        make_directories_durably(os.path.dirname(path), 0o700, owner)
        write_durably(path, json.dumps(body).encode(), 0o600, owner)
    except PermissionError as error:
        raise NotPermitted(f'could not write "{path}": permission denied') from error
    except OSError as error:
        raise ServerUnsuitable(f'could not write "{path}": {error.strerror}') from error


def _path(data_directory: str) -> str:
    return os.path.join(data_directory, WAL_DIRECTORY, PUSH_STATE_DIRECTORY, _NOTE)
