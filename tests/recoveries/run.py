"""One recovery: a copy of the base backup, a tool's archive spoiled as a case says, and a server that believes it.

The one idea: what counts is what the server did: it opened with these rows, it stopped, or it waits. When it stopped,
what was wrong is mended and it is started again: then nothing may be lost.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pghaven.server.postmaster import STATUS_READY
from tests.recoveries.cases import OPENS, STOPS, WAITS, Case, Scene, copy_archive
from tests.recoveries.recorded import Recorded
from tests.recoveries.tools import Pghaven, Tool
from tests.support.cluster import TestCluster
from tests.support.fixtures import ClusterFactory
from tests.support.httpproxy import FaultyProxy
from tests.support.places import copy_tree, own
from tests.support.waiting import wait_until

_CALLED = Path(__file__).with_name("called.sh")
_LIMIT_SECONDS = 240.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a recovery ended, with which rows, and the statuses of all calls. ``comes_back`` tells, where it stopped,
    whether it came to all rows when what was wrong had been mended."""

    end: str
    rows: tuple[int, ...]
    calls: tuple[tuple[str, int], ...]
    comes_back: bool | None = None
    log: str = ""

    def lost(self, case: Case) -> bool:
        """Whether it opened, or goes on, with anything but the rows there are."""
        return self.end != STOPS and self.rows != case.rows

    def fails(self, case: Case) -> bool:
        return self.end != case.ends or self.lost(case) or self.comes_back is False

    def statuses_of(self, name: str) -> list[int]:
        return [status for called, status in self.calls if called == name]


class Judge:
    """Runs cases with tools over what was recorded, below ``place``, which the servers' user owns."""

    def __init__(self, make_cluster: ClusterFactory, recorded: Recorded, place: Path) -> None:
        self._make_cluster = make_cluster
        self._recorded = recorded
        self._place = place
        self._archives: dict[tuple[Tool, int, tuple[str, ...]], Path] = {}
        self._count = 0

    def judge(self, case: Case, tool: Tool, proxy: FaultyProxy | None = None) -> Outcome:
        if isinstance(tool, Pghaven) and "prefetch" in case.needs:
            tool = replace(tool, prefetch="1MiB")
        self._count += 1
        place = self._place / f"r{self._count}"
        template = self._archive(case, tool)
        copy_archive(template, place)
        calls = self._prepare_calls(place)
        server = self._prepare(case, tool, place, calls)
        if proxy is not None:
            proxy.calm()
        case.spoil(Scene(tool=tool, recorded=self._recorded, place=place, calls=calls, proxy=proxy))
        try:
            outcome = self._recover(case, server, calls)
            if outcome.end == STOPS and case.mends:
                if proxy is not None:
                    proxy.calm()
                self._mend(template, place, calls)
                again = self._recover(replace(case, ends=OPENS), server, calls)
                came_back = again.end == OPENS and again.rows == case.rows
                outcome = replace(outcome, comes_back=came_back, log=outcome.log + again.log)
            return outcome
        finally:
            server.stop_and_remove()
            shutil.rmtree(place)

    def _archive(self, case: Case, tool: Tool) -> Path:
        """What the tool has archived for a case, spoiled by nothing."""
        names = case.names(self._recorded)
        key = (tool, case.copies, names)
        if key not in self._archives:
            place = self._place / f"a{len(self._archives)}"
            place.mkdir()
            own(place)
            tool.archive(self._recorded, place, names, case.copies)
            self._archives[key] = place
        return self._archives[key]

    @staticmethod
    def _prepare_calls(place: Path) -> Path:
        calls = place / "calls"
        calls.mkdir()
        own(calls)
        return calls

    def _prepare(self, case: Case, tool: Tool, place: Path, calls: Path) -> TestCluster:
        data = place / "recovered"
        copy_tree(self._recorded.base, data)
        (data / case.signal).touch()
        own(data / case.signal)
        command = tool.restore_command(place, data, case.expected(self._recorded))
        expanded = command.replace("%%", "\0").replace("%f", "$RC_FILE").replace("%p", "$RC_PATH").replace("\0", "%")
        (calls / "command").write_text(f"{expanded}\n")
        server = self._make_cluster.adopt(data, version=self._recorded.version)
        settings = {"archive_mode": "off", "hot_standby": "off", "recovery_target_timeline": "1", **case.settings}
        called = f"sh {shlex.quote(str(_script(self._place)))} {shlex.quote(str(calls))} %f %p"
        server.append_conf(**{**settings, "restore_command": called})
        return server

    @staticmethod
    def _mend(template: Path, place: Path, calls: Path) -> None:
        for path in [*calls.glob("before-*"), *calls.glob("after-*"), *calls.glob("kill-*")]:
            path.unlink()
        for path in place.glob("repository*"):
            shutil.rmtree(path)
        for path in template.glob("repository*"):
            copy_archive(path, place / path.name)

    def _recover(self, case: Case, server: TestCluster, calls: Path) -> Outcome:
        (calls / "calls").unlink(missing_ok=True)
        before = len(server.log())
        server.start(wait=False)
        with contextlib.suppress(AssertionError, TimeoutError):
            wait_until(lambda: _has_ended(server, case), "the end of recovery", _LIMIT_SECONDS)
        log = server.log()[before:]
        if server.instance.child_pid is None:
            return Outcome(end=STOPS, rows=(), calls=_read_calls(calls), log=log)
        running = server.instance.is_running()
        if running is None or (running.status != STATUS_READY and case.ends != WAITS):
            server.stop("immediate")
            return Outcome(end="hangs", rows=(), calls=_read_calls(calls), log=log)
        rows = tuple(value for (value,) in server.sql("SELECT a FROM t ORDER BY a"))
        end = WAITS if server.value("SELECT pg_is_in_recovery()") else OPENS
        if end != OPENS or case.signal == "standby.signal":
            server.stop("immediate")
        return Outcome(end=end, rows=rows, calls=_read_calls(calls), log=log)


def _has_ended(server: TestCluster, case: Case) -> bool:
    if server.instance.child_pid is None:
        return True
    running = server.instance.is_running()
    if running is None:
        return False
    if case.signal == "standby.signal":
        if running.status not in (STATUS_READY, "standby"):
            return False
        with contextlib.suppress(Exception):  # it is just stopping
            rows = tuple(value for (value,) in server.sql("SELECT a FROM t ORDER BY a"))
            return rows == case.rows or not server.value("SELECT pg_is_in_recovery()")
        return False
    return running.status == STATUS_READY


def _script(place: Path) -> Path:
    """A copy of the script that calls the command, where the servers' user can read it."""
    copied = place / "called.sh"
    if not copied.exists():
        shutil.copy(_CALLED, copied)
        copied.chmod(0o644)
    return copied


def _read_calls(calls: Path) -> tuple[tuple[str, int], ...]:
    path = calls / "calls"
    lines: Sequence[str] = path.read_text().splitlines() if path.exists() else ()
    return tuple((name, int(status)) for name, status in (line.split() for line in lines))
