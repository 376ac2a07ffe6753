"""What must be true of times after a clock has jumped.

The one idea: order is positions' and not times', so a wrong time may be shown for what was written under it, and may
neither hide what is newest nor have it removed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from pghaven.postgres.lsn import Lsn
from pghaven.repository.entry import BackupState
from tests.chaos.members import Cluster, Member

_TOLERANCE = timedelta(minutes=10)


def judge_times(cluster: Cluster) -> list[str]:
    """Of the newest WAL that is listed, and of what a retention by number would keep."""
    leader = cluster.await_leader()
    return [*_judge_newest_wal(cluster, leader), *_judge_retention(cluster, leader)]


def _judge_newest_wal(cluster: Cluster, leader: Member) -> list[str]:
    """All clocks are right again and clients write, so the last commit that is archived is of now."""
    (archive,) = _ask(cluster, leader, "wal", "list", "main")["archives"]
    newest = max(archive["timelines"], key=lambda one: int(one["timeline"]))["ranges"][-1]
    if newest["last_commit"] is None:
        return ["wal list shows no commit in the newest WAL"]
    age = datetime.now(UTC) - _parse(newest["last_commit"])
    return [] if abs(age) < _TOLERANCE else [f"wal list shows {newest['last_commit']} as the last commit of all"]


def _judge_retention(cluster: Cluster, leader: Member) -> list[str]:
    """Of those that are dated by the right clock, the newest is kept. One that was dated an hour too early is old to
    whoever goes by dates, and one that is still to come stands for no other."""
    entries = [one for one in cluster.catalog.list_entries() if one.state is BackupState.COMMITTED]
    dated = [one for one in entries if abs(one.parts["decision"] - _parse(one.summary["stopped_at"])) < _TOLERANCE]
    if not dated:
        return []
    newest = max(dated, key=lambda one: (int(one.summary["timeline"]), Lsn.parse(one.summary["stop_lsn"])))
    (result,) = _ask(cluster, leader, "expire", "main", "--dry-run")["results"]
    verdicts = {one["label"]: one["verdict"] for one in result["backups"]}
    return [] if verdicts[newest.label] == "kept" else [f"expire would drop {newest.label}, the newest by its position"]


def _parse(text: Any) -> datetime:
    return datetime.fromisoformat(str(text).replace("Z", "+00:00"))


def _ask(cluster: Cluster, member: Member, *words: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(cluster.run_on(member, "--json", *words, tells=(0, 1, 3)))
    return told
