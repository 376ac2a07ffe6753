"""What facts about a server, its archive and its disks mean for a restore. Pure.

The one idea: each function looks at one thing and says it in one line; nothing here asks anybody anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.settings import OLD_RECIPES, SettingAdvice
from pghaven.proof.results import CheckResult, count_files, fail, good, skip, warn
from pghaven.repository.entry import BackupEntry
from pghaven.repository.repository import Lineage
from pghaven.server.privileges import render_grant
from pghaven.server.probe import ServerFacts
from pghaven.setup.settings import SetupPlan
from pghaven.units import parse_time_utc, render_duration, render_size, render_time
from pghaven.wal.behind import Behind

# Without these no backup can be taken; the others make checks and restores better.
_NEEDED_PRIVILEGES: Final = ("pg_monitor", "pg_backup_start", "pg_backup_stop")
# A restore replays all WAL since its backup: past a week that is long nearly everywhere.
BACKUP_AGE_WARNED: Final = timedelta(days=7)
# Room for at least so many segments, else a burst of writes while the archive is away fills the disk.
_SEGMENTS_OF_ROOM: Final = 64
# A standby replays what is not archived yet: a segment is archived when it is full or archive_timeout is over.
_SEGMENTS_BEHIND: Final = 4
# A burst of writes is behind for a moment; that many finished segments are a queue.
_BACKLOG_SEGMENTS_WARNED: Final = 16
_DISABLED: Final = "(disabled)"
_PUSH_COMMAND = re.compile(r"\bwal\s+push\b.*%p")
_DEFAULTS_OF_OLD: Final[Mapping[str, frozenset[str]]] = {
    "promote_trigger_file": frozenset({""}),
    "vacuum_defer_cleanup_age": frozenset({"0"}),
}


def judge_privileges(role: str, missing: Sequence[str]) -> CheckResult:
    if not missing:
        return good("privileges", f'role "{role}" has all it needs')
    needed = [one for one in missing if any(name in one for name in _NEEDED_PRIVILEGES)]
    hint = "As a superuser, run: " + "; ".join(render_grant(role, one) for one in missing)
    text = f'role "{role}" lacks {", ".join(missing)}'
    return fail("privileges", text, hint) if needed else warn("privileges", text, hint)


def judge_lineage(cluster: str, facts: ServerFacts, lineage: Lineage) -> CheckResult:
    sizes = (facts.major.major, facts.block_size, facts.segment_size // facts.block_size, facts.wal_segment_size)
    known = (lineage.major, lineage.block_size, lineage.segment_blocks, lineage.wal_segment_size)
    if sizes != known:
        return fail(
            "lineage",
            f'"{cluster}" is registered with (major version, block size, blocks a file, WAL segment size) = {known}, '
            f"but the server has {sizes}",
            f"If the cluster was upgraded, run: pghaven init {cluster} --new-lineage",
        )
    return good("lineage", f'system identifier {facts.system_identifier} is registered as "{cluster}"')


def judge_settings(cluster: str, plan: SetupPlan) -> list[CheckResult]:
    """A line for each setting that is not as it should be, or one for all. archive_command has a check of its own."""
    results = [_judge_setting(cluster, one) for one in plan.change if one.name != "archive_command"]
    for one in (one for one in plan.waiting if one.name != "archive_command"):
        text = f'{one.name} is "{one.current}" until the server is restarted; then it is "{one.wanted}"'
        hint = "Restart the server."
        results.append(fail("settings", text, hint) if one.required else warn("settings", text, hint))
    return results or [good("settings", "wal_level, archive_mode and the others are right")]


def _judge_setting(cluster: str, one: SettingAdvice) -> CheckResult:
    text = f'{one.name} is "{one.current}", should be "{one.wanted}": {one.reason}'
    hint = f"Run: pghaven init {cluster} --apply"
    return fail("settings", text, hint) if one.required else warn("settings", text, hint)


def is_own_command(command: str, cluster: str) -> bool:
    """Whether an archive_command is ours for this cluster, though perhaps written for another path of the program."""
    if _PUSH_COMMAND.search(command) is None:
        return False
    named = re.search(r"--cluster[ =]'?([^' ]+)", command)
    return named is None or named[1] == cluster


def judge_archive_command(command: str, wanted: str, cluster: str) -> CheckResult:
    if command == wanted:
        return good("archive_command", "is pghaven's")
    if is_own_command(command, cluster):
        return good("archive_command", "is pghaven's, in other words than init would write")
    if command == _DISABLED:
        return skip("archive_command", "archive_mode is off")
    if not command:
        return fail("archive_command", "is not set", f"Run: pghaven init {cluster} --apply")
    return fail(
        "archive_command",
        f'is not pghaven\'s: "{command}"',
        f"WAL goes elsewhere. To have it go to the repository: pghaven init {cluster} --apply",
    )


def judge_archiver(facts: ServerFacts, waiting: int | None) -> CheckResult:
    archiver = facts.archiver
    behind = f"; {count_files(waiting)}" if waiting else ""
    if archiver.is_failing and archiver.last_failed_time is not None:
        ago = render_duration(max(0.0, (facts.probed - archiver.last_failed_time).total_seconds()))
        return fail(
            "archiver",
            f"the last attempt failed, {ago} ago, for {archiver.last_failed_name} "
            f"({archiver.failed_count} failures){behind}",
            "The server's log shows what archive_command said. Until it works, pg_wal grows.",
        )
    if archiver.last_archived_time is None:
        return good("archiver", f"has archived nothing yet{behind}")
    ago = render_duration(max(0.0, (facts.probed - archiver.last_archived_time).total_seconds()))
    return good("archiver", f"archived {archiver.last_archived_name} {ago} ago{behind}")


def judge_backlog(
    name: str, cluster: str, missed: Behind | None, behind_bytes: int | None, segment_size: int
) -> CheckResult:
    """What one repository lacks of the WAL that the server has finished. ``missed`` is what this host has noted;
    ``behind_bytes`` is None when it holds nothing of the server's timeline."""
    if missed is not None:
        count = len(missed.names)
        text = f"{count} WAL file{'s' if count != 1 else ''} missed since {render_time(missed.since)}: {missed.reason}"
        return warn(name, text, f"When it is back: pghaven wal refill {cluster}")
    if behind_bytes is None:
        return good(name, "it holds nothing of this timeline yet")
    text = f"{render_size(behind_bytes)} of WAL are not in it yet"
    if behind_bytes > _BACKLOG_SEGMENTS_WARNED * segment_size:
        return warn(name, text, "Is the repository slow? Watch whether it falls. pghaven agent archives ahead.")
    return good(name, text)


def judge_newest_backup(cluster: str, entries: Sequence[BackupEntry], now: datetime) -> CheckResult:
    """``entries`` are the committed backups of this lineage, oldest first."""
    if not entries:
        return warn("backup", "there is none yet", f"Run: pghaven backup {cluster}")
    newest = entries[-1]
    stopped = parse_time_utc(newest.summary["stopped_at"])
    age = max(now - stopped, timedelta(0))
    text = f"{newest.label} is {render_duration(age.total_seconds())} old ({render_time(stopped)})"
    if newest.summary.get("bad_pages"):
        return warn(
            "backup",
            f"{text}, and holds {newest.summary['bad_pages']} damaged pages",
            f"`pghaven list {cluster}` shows which backups are whole; keep one. The server's own data is damaged.",
        )
    if age > BACKUP_AGE_WARNED:
        return warn("backup", text, f"A restore replays all WAL since then. Run: pghaven backup {cluster}")
    return good("backup", text)


def judge_repository_space(free_bytes: int | None, entries: Sequence[BackupEntry], name: str) -> CheckResult:
    if free_bytes is None:
        return skip(name, "free space is not told by this store")
    last = int(entries[-1].summary["stored_bytes"]) if entries else 0
    if free_bytes < last:
        return warn(
            name,
            f"{render_size(free_bytes)} free, less than the last backup took ({render_size(last)})",
            "Make room before the next backup.",
        )
    return good(name, f"{render_size(free_bytes)} free")


def judge_wal_space(free_bytes: int | None, facts: ServerFacts) -> CheckResult:
    """``free_bytes`` where pg_wal lies; None when this host may not look."""
    if free_bytes is None:
        return skip("pg_wal space", "cannot look at the data directory from here")
    wanted = max(_SEGMENTS_OF_ROOM * facts.wal_segment_size, int(facts.settings.get("max_wal_size", "0")) << 20)
    if free_bytes < wanted:
        return warn(
            "pg_wal space",
            f"{render_size(free_bytes)} free, wanted are {render_size(wanted)}",
            "When it is full the server stops. Make room, or lower max_wal_size.",
        )
    return good("pg_wal space", f"{render_size(free_bytes)} free")


def judge_standby_archive(replayed: Lsn, archived_end: Lsn | None, wal_segment_size: int) -> CheckResult | None:
    """On a standby: whether the archive keeps up with what the primary has sent. None when it does."""
    if archived_end is None or replayed - archived_end <= _SEGMENTS_BEHIND * wal_segment_size:
        return None
    behind = render_size(replayed - archived_end)
    return warn(
        "WAL round trip",
        f"the archive ends at {archived_end}, {behind} behind what this standby has replayed",
        "Run pghaven check on the primary: its archiving may have stopped.",
    )


def judge_old_settings(settings: Mapping[str, str], old_files: Sequence[str]) -> list[CheckResult]:
    """Settings and files that old recipes left behind and that do nothing, or nothing good, today."""
    found = [
        (name, f'{name} = "{settings[name]}"')
        for name, harmless in _DEFAULTS_OF_OLD.items()
        if settings.get(name, "") not in harmless and name in settings
    ]
    found += [(name, f"the data directory has a file {name}") for name in old_files]
    results = []
    for name, text in found:
        recipe = OLD_RECIPES[name]
        results.append(
            warn("old settings", f"{text}: gone since PostgreSQL {recipe.gone_since}", f"Today: {recipe.instead}.")
        )
    return results or [good("old settings", "none left over")]


def list_old_files() -> tuple[str, ...]:
    """Names of files in a data directory that old recipes made."""
    return tuple(name for name in OLD_RECIPES if name.startswith("recovery."))
