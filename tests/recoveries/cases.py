"""What may be wrong while a server recovers, and what must never come of it.

The one idea: a case says what is archived, what is then spoiled, and which rows a server that opens must have. Any
other rows are a loss that nobody was told of; a server that stops has lost nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.recoveries.recorded import HISTORY, LATE, ROWS, TAKEN_OVER, Recorded
from tests.recoveries.tools import Expected
from tests.support.httpproxy import FaultyProxy
from tests.support.places import own

OPENS, STOPS, WAITS = "opens", "stops", "waits"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One recovery that is about to begin. ``tool`` keeps its archive below ``place``; ``calls`` is the directory of
    what is to be done around the calls of the command."""

    tool: Any
    recorded: Recorded
    place: Path
    calls: Path
    proxy: FaultyProxy | None = None

    @property
    def victim(self) -> str:
        """The segment with the fourth row."""
        return self.recorded.segments[3]

    def around(self, before: str, after: str) -> None:
        """Have the servers' user do something before and after the command is called for the victim."""
        for moment, words in (("before", before), ("after", after)):
            (self.calls / f"{moment}-{self.victim}").write_text(f"{words}\n")


@dataclass(frozen=True, kw_only=True)
class Case:
    """``ends`` is how the recovery may end; one that opens has ``rows`` and no others. ``needs`` is what the tool must
    be able to, ``names`` what is archived, ``copies`` in how many repositories, ``settings`` what the server is told.
    ``mends`` is False where nothing is wrong that could be mended.
    """

    name: str
    says: str
    ends: str
    rows: tuple[int, ...] = ROWS
    spoil: Callable[[Scene], None] = lambda _scene: None
    names: Callable[[Recorded], tuple[str, ...]] = lambda recorded: recorded.line
    expected: Callable[[Recorded], Expected] = lambda recorded: Expected(end=recorded.end)
    needs: frozenset[str] = frozenset()
    copies: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    signal: str = "recovery.signal"
    mends: bool = True
    absent: str | None = None
    """A file whose absence the command must have proven, with status 1."""


def _object(scene: Scene) -> Path:
    path: Path = scene.tool.object_of(scene.place, scene.victim)
    path.chmod(0o600)
    return path


def _remove(scene: Scene) -> None:
    _object(scene).unlink()


def _flip(scene: Scene, path: Path | None = None) -> None:
    path = path or _object(scene)
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(scene: Scene) -> None:
    path = _object(scene)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(scene: Scene) -> None:
    _object(scene).write_bytes(b"")


def _misdirect(scene: Scene) -> None:
    other = scene.tool.object_of(scene.place, scene.recorded.segments[2])
    _object(scene).write_bytes(other.read_bytes())


def _plant_foreign(scene: Scene) -> None:
    content = bytearray(scene.recorded.read(scene.victim))
    content[24:32] = (scene.recorded.identifier ^ 0xFF).to_bytes(8, "little")
    scene.tool.plant(scene.place, scene.victim, bytes(content), scene.recorded)


def _take_away(scene: Scene) -> None:
    vault = scene.tool.vault(scene.place)
    scene.around(f"mv {vault} {vault}.away", f"mv {vault}.away {vault}")


def _take_away_once(scene: Scene) -> None:
    _take_away(scene)
    (scene.calls / "once").touch()


def _leave_mount_point(scene: Scene) -> None:
    vault = scene.tool.vault(scene.place)
    scene.around(f"mv {vault} {vault}.away; mkdir {vault}", f"rmdir {vault}; mv {vault}.away {vault}")


def _forbid(scene: Scene) -> None:
    vault = scene.tool.vault(scene.place)
    scene.around(f"chmod 000 {vault}", f"chmod 755 {vault}")


def _hide_key(scene: Scene) -> None:
    scene.around(*scene.tool.hide_key(scene.place))


def _spoil_descriptor(scene: Scene) -> None:
    paths = " ".join(map(str, scene.tool.descriptors(scene.place)))
    scene.around(
        f"for i in {paths}; do cp -p $i $i.kept; chmod 600 $i; echo x >$i; done",
        f"for i in {paths}; do mv -f $i.kept $i; done",
    )


def _lose_first_and_a_segment(scene: Scene) -> None:
    second = scene.tool.vault(scene.place).with_name("repository2")
    for path in second.rglob(f"{scene.victim}*"):
        path.unlink()
    _take_away(scene)


def _damage_history(scene: Scene) -> None:
    _flip(scene, scene.tool.object_of(scene.place, HISTORY))


def _kill(scene: Scene) -> None:
    (scene.calls / f"kill-{scene.victim}").touch()


def _keep_part_at_the_end(scene: Scene) -> None:
    recorded = scene.recorded
    offset = recorded.fork % (1 << 20)
    scene.tool.put_part(scene.place, recorded.left, recorded.read(recorded.left)[:offset], recorded)


def _keep_part_in_the_middle(scene: Scene) -> None:
    _remove(scene)
    content = scene.recorded.read(scene.victim)
    scene.tool.put_part(scene.place, scene.victim, content[: len(content) // 2], scene.recorded)


def _strike(kind: str, **which: object) -> Callable[[Scene], None]:
    def spoil(scene: Scene) -> None:
        assert scene.proxy is not None
        scene.proxy.strike(kind, 1000, method="GET", contains=scene.victim, **which)  # type: ignore[arg-type]

    return spoil


def _over_the_fork(recorded: Recorded) -> Expected:
    end = recorded.end_of(recorded.heir[-1])
    return Expected(end=end, path=((1, "0/0", str(recorded.fork)), (2, str(recorded.fork), None)))


def _up_to_the_fork(recorded: Recorded) -> Expected:
    return replace(_over_the_fork(recorded), end=recorded.fork)


_LATEST = {"recovery_target_timeline": "latest"}

CASES = (
    Case(name="found", says="every file is there", ends=OPENS),
    Case(
        name="absent at the end",
        says="the archive ends, and no history file is there",
        ends=OPENS,
        settings=_LATEST,
        absent=HISTORY,
    ),
    Case(name="absent in the middle", says="one segment is missing, later ones are there", ends=STOPS, spoil=_remove),
    Case(name="wrong hash", says="one bit of a stored segment is another", ends=STOPS, spoil=_flip),
    Case(name="truncated", says="a stored segment is half as long", ends=STOPS, spoil=_truncate),
    Case(name="empty", says="a stored segment has no bytes", ends=STOPS, spoil=_empty),
    Case(name="misdirected", says="a segment's object holds the segment before", ends=STOPS, spoil=_misdirect),
    Case(
        name="other cluster",
        says="a segment is another system identifier's",
        ends=STOPS,
        spoil=_plant_foreign,
        needs=frozenset({"plant"}),
    ),
    Case(name="repository away", says="the archive is not there while it is asked for", ends=STOPS, spoil=_take_away),
    Case(name="not mounted", says="an empty mount point while it is asked for", ends=STOPS, spoil=_leave_mount_point),
    Case(name="forbidden", says="the archive may not be read while it is asked for", ends=STOPS, spoil=_forbid),
    Case(
        name="key missing",
        says="the key or passphrase is missing or wrong while it is asked for",
        ends=STOPS,
        spoil=_hide_key,
        needs=frozenset({"key"}),
    ),
    Case(
        name="descriptor",
        says="what the repository is described by is damaged while it is asked for",
        ends=STOPS,
        spoil=_spoil_descriptor,
        needs=frozenset({"key"}),
    ),
    Case(
        name="one of two down",
        says="the first of two repositories is down",
        ends=OPENS,
        spoil=_take_away,
        copies=2,
        needs=frozenset({"copies"}),
    ),
    Case(
        name="one down, one with a gap",
        says="the first of two repositories is down, and the second lacks a segment",
        ends=STOPS,
        spoil=_lose_first_and_a_segment,
        copies=2,
        needs=frozenset({"copies"}),
    ),
    Case(
        name="timeline switch",
        says="a standby took over, and all of its WAL is there",
        ends=OPENS,
        rows=(*ROWS, LATE, TAKEN_OVER),
        names=lambda recorded: (*recorded.line, HISTORY, *recorded.heir),
        expected=_over_the_fork,
        settings=_LATEST,
    ),
    Case(
        name="history damaged",
        says="one bit of the history file is another",
        ends=STOPS,
        rows=(*ROWS, LATE, TAKEN_OVER),
        spoil=_damage_history,
        names=lambda recorded: (*recorded.line, HISTORY, *recorded.heir),
        expected=_over_the_fork,
        settings=_LATEST,
    ),
    Case(
        name="left line",
        says="of the segment in which a standby took over only the old primary's copy is there",
        ends=OPENS,
        rows=(*ROWS, LATE),
        names=lambda recorded: (*recorded.line, HISTORY, recorded.left),
        expected=_up_to_the_fork,
        settings=_LATEST,
    ),
    Case(
        name="killed",
        says="the command is killed once",
        ends=STOPS,
        spoil=_kill,
    ),
    Case(
        name="standby",
        says="the archive is not there for one call of a standby",
        ends=WAITS,
        spoil=_take_away_once,
        signal="standby.signal",
        settings={"hot_standby": "on", "wal_retrieve_retry_interval": "100ms"},
    ),
    Case(
        name="part at the end",
        says="the last segment is there in part, from a receiver",
        ends=OPENS,
        rows=(*ROWS, LATE),
        spoil=_keep_part_at_the_end,
        expected=lambda recorded: Expected(end=recorded.fork),
        needs=frozenset({"partial"}),
    ),
    Case(
        name="part in the middle",
        says="a segment is there in part, and later ones are there",
        ends=STOPS,
        spoil=_keep_part_in_the_middle,
        needs=frozenset({"partial"}),
    ),
    Case(
        name="end not reached",
        says="the archive ends before the planned end",
        ends=STOPS,
        expected=lambda recorded: Expected(end=recorded.end_of(recorded.left)),
        mends=False,
        needs=frozenset({"plan"}),
    ),
    Case(
        name="spool full",
        says="the spool has room for one segment",
        ends=OPENS,
        needs=frozenset({"prefetch"}),
    ),
    Case(
        name="403",
        says="an object store forbids",
        ends=STOPS,
        needs=frozenset({"network"}),
        spoil=_strike("refused", status=403, code="AccessDenied"),
    ),
    Case(
        name="time-out",
        says="an object store does not answer",
        ends=STOPS,
        needs=frozenset({"network"}),
        spoil=_strike("hanging"),
    ),
    Case(
        name="503",
        says="an object store asks to slow down, for ever",
        ends=STOPS,
        needs=frozenset({"network"}),
        spoil=_strike("refused", status=503, code="SlowDown"),
    ),
    Case(
        name="cut off",
        says="an object store's answers end in the middle",
        ends=STOPS,
        needs=frozenset({"network"}),
        spoil=_strike("truncated"),
    ),
    Case(
        name="reset",
        says="connections to an object store are reset",
        ends=STOPS,
        needs=frozenset({"network"}),
        spoil=_strike("reset"),
    ),
)


def copy_archive(source: Path, target: Path) -> None:
    """With owners, which a plain copy would lose."""
    shutil.copytree(source, target, symlinks=True)
    for path in (target, *target.rglob("*")):
        own(path)
