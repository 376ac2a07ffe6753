"""Links laid into the target before and while a restore runs: nothing they lead to is read, written or removed.

A restore that runs as root gives directories to the server's user as soon as they are made, so that user, or whoever
took it over, can exchange them for links while root goes on writing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pghaven.errors import PghavenError, Refused
from pghaven.events import Event, Listener, Progress, ignore
from pghaven.postgres.recovery import RecoveryTarget, TargetKind
from pghaven.repository.manifest import ConfigFile
from pghaven.restore.execute import run_restore
from pghaven.restore.plan import plan_restore
from pghaven.restore.request import RestorePlan, RestoreRequest
from pghaven.store.memory import MemoryStore
from tests.support.places import make_directory, remove_directory
from tests.support.synthetic import (
    CLUSTER,
    TABLESPACE_OID,
    BackupOrder,
    SourceTree,
    assert_restored,
    make_repository,
    make_settings,
    make_source,
    take_backup,
)

CONFIG = ConfigFile(role="config", path="/etc/postgresql/postgresql.conf", mode=0o640, content=b"port = 1\n")
ORDER = BackupOrder(config_files=(CONFIG,))
HOLE_BYTES = 4 << 20  # of the big file


class Interrupted(MemoryStore):
    """Does something just before the first range of a pack is read: all directories are made then, and no file."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], None] | None = None

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        if "/packs/" in name and self.then is not None:
            then, self.then = self.then, None
            then()
        return super().read_range(name, offset, length)


class Stage:
    """A backup, a place for its target, and a tree outside that nobody may touch."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "source").mkdir()
        self.source: SourceTree = make_source(root / "source", big=True)
        self.store = Interrupted()
        self.repository = make_repository(self.store)
        take_backup(self.repository, self.source, ORDER)
        self.target = root / "target"
        self.space = root / "space"
        self.outside = root / "outside"
        (self.outside / "16400").mkdir(parents=True)
        for name in ("16384", "secret", "pg_control", "PG_VERSION"):
            (self.outside / name).write_text("keep")
        self.before = self.watch()

    def plan(self, space: Path | None = None, *, delta: bool = False) -> RestorePlan:
        request = RestoreRequest(
            cluster=CLUSTER,
            target_dir=str(self.target),
            target=RecoveryTarget(kind=TargetKind.IMMEDIATE),
            tablespace_mapping={self.source.tablespaces[0].path: str(space or self.space)},
            delta=delta,
        )
        return plan_restore(self.repository, request)

    def carry_out(self, plan: RestorePlan, listener: Listener = ignore) -> None:
        run_restore(plan, make_settings(self.repository), listener)

    def exchange(self, name: str, goal: Path) -> None:
        """Put a symbolic link in place of a directory of the target."""
        path = self.target / name
        if path.exists():
            path.rename(self.root / "moved away")
        path.symlink_to(goal)

    def watch(self) -> dict[str, tuple[object, ...]]:
        seen: dict[str, tuple[object, ...]] = {}
        for directory, names, files in os.walk(self.outside):
            for name in (*names, *files):
                path = Path(directory, name)
                found = path.lstat()
                seen[str(path)] = (found.st_ino, found.st_mode, found.st_uid, found.st_size, found.st_mtime_ns)
        return seen


@pytest.fixture
def stage() -> Iterator[Stage]:
    root = make_directory()
    yield Stage(root)
    remove_directory(root)


def test_without_links_it_is_restored(stage: Stage) -> None:
    stage.carry_out(stage.plan())
    assert_restored(stage.source, stage.target)


# -- before -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "global", "pg_tblspc", "PG_VERSION", "pghaven.config", "x"])
def test_a_link_in_the_target_makes_it_not_empty(stage: Stage, name: str) -> None:
    stage.target.mkdir()
    (stage.target / name).symlink_to(stage.outside)
    with pytest.raises(Refused, match="not empty"):
        stage.plan()


@pytest.mark.parametrize("name", ["base", "global", "pg_tblspc", "PG_VERSION", "base/5"])
def test_a_link_laid_between_plan_and_restore_stops_it(stage: Stage, name: str) -> None:
    plan = stage.plan()
    (stage.target / name).parent.mkdir(parents=True, exist_ok=True)
    (stage.target / name).symlink_to(stage.outside)
    with pytest.raises(PghavenError):
        stage.carry_out(plan)
    assert stage.watch() == stage.before


# -- while it runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "base/5", "pg_xact"])
def test_a_directory_exchanged_for_a_link_is_not_followed(stage: Stage, name: str) -> None:
    plan = stage.plan()
    stage.store.then = lambda: stage.exchange(name, stage.outside)
    with pytest.raises(PghavenError):
        stage.carry_out(plan)
    assert stage.watch() == stage.before
    assert not (stage.target / "global" / "pg_control").exists()


@pytest.mark.parametrize("name", ["PG_VERSION", "empty", "base/5/16384", "base/5/20000"])
@pytest.mark.parametrize("goal", ["secret", "new"])
def test_a_link_in_place_of_a_file_is_not_followed(stage: Stage, name: str, goal: str) -> None:
    plan = stage.plan()
    stage.store.then = lambda: (stage.target / name).symlink_to(stage.outside / goal)
    with pytest.raises(PghavenError):
        stage.carry_out(plan)
    assert stage.watch() == stage.before


@pytest.mark.parametrize("name", ["PG_VERSION", "empty"])
def test_a_hard_link_in_place_of_a_file_in_one_piece_is_not_written_to(stage: Stage, name: str) -> None:
    plan = stage.plan()
    stage.store.then = lambda: (stage.target / name).hardlink_to(stage.outside / "secret")
    with pytest.raises(Refused, match="exists already"):
        stage.carry_out(plan)
    assert (stage.outside / "secret").read_text() == "keep"


def test_a_hard_link_in_place_of_a_file_in_pieces_is_not_written_to(stage: Stage) -> None:
    plan = stage.plan()
    stage.store.then = lambda: (stage.target / "base/5/20000").hardlink_to(stage.outside / "secret")
    with pytest.raises(PghavenError):
        stage.carry_out(plan)
    assert (stage.outside / "secret").read_text() == "keep"


@pytest.mark.parametrize("name", ["global", "pg_tblspc", "pghaven.config"])
def test_the_last_steps_do_not_follow_links_either(stage: Stage, name: str) -> None:
    (stage.outside / "16400").rmdir()
    stage.before = stage.watch()

    def when_all_is_fetched(event: Event) -> None:
        if isinstance(event, Progress) and event.done_bytes == event.total_bytes - HOLE_BYTES:
            stage.exchange(name, stage.outside)

    with suppress(PghavenError, OSError):
        stage.carry_out(stage.plan(), when_all_is_fetched)
    assert (stage.target / name).is_symlink()
    assert stage.watch() == stage.before


def test_what_a_link_leads_to_is_not_read_into_the_configuration(stage: Stage) -> None:
    """As root it would give the server's user any file's contents."""
    plan = stage.plan()
    stage.store.then = lambda: (stage.target / "postgresql.auto.conf").symlink_to(stage.outside / "secret")
    try:
        stage.carry_out(plan)
    except PghavenError:
        return
    assert "keep" not in (stage.target / "postgresql.auto.conf").read_text()


# -- doing it over ------------------------------------------------------------------------------------------------


def interrupt(stage: Stage) -> None:
    """A restore that ends after its directories were made."""

    def fail() -> None:
        raise InterruptedError

    plan = stage.plan()
    stage.store.then = fail
    with pytest.raises(InterruptedError):
        stage.carry_out(plan)


def test_an_unfinished_restore_is_done_over(stage: Stage) -> None:
    interrupt(stage)
    plan = stage.plan()
    assert plan.resumes
    stage.carry_out(plan)
    assert_restored(stage.source, stage.target)


@pytest.mark.parametrize("name", ["base/5/link", "base/5/99999", "pg_xact"])
def test_a_link_in_an_unfinished_restore_stops_it_and_is_not_followed(stage: Stage, name: str) -> None:
    interrupt(stage)
    stage.exchange(name, stage.outside)
    with pytest.raises(Refused, match="not part of it"):
        stage.plan()
    assert (stage.target / name).is_symlink()
    assert stage.watch() == stage.before


def test_a_foreign_file_in_an_unfinished_restore_stops_it(stage: Stage) -> None:
    interrupt(stage)
    (stage.target / "base" / "mine").write_text("keep")
    with pytest.raises(Refused, match="not part of it"):
        stage.plan()
    assert (stage.target / "base" / "mine").read_text() == "keep"


def test_doing_it_over_never_empties_a_tablespace_it_did_not_fill(stage: Stage) -> None:
    """The mapping was forgotten the second time: the tablespace's own place, where the source lives, is named."""
    interrupt(stage)
    live = Path(stage.source.tablespaces[0].path)
    before = {path: path.read_bytes() for path in live.rglob("*") if path.is_file()}
    assert before
    with pytest.raises(Refused):
        stage.carry_out(stage.plan(space=live))
    assert {path: path.read_bytes() for path in live.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["backup_label", "recovery.signal", "pghaven.config"])
def test_what_is_in_the_way_of_the_last_steps_is_reported_as_ours(stage: Stage, name: str) -> None:
    """Somebody else writes into the target, or its disk fails: not a bug of the program."""
    plan = stage.plan()
    stage.store.then = lambda: (
        (stage.target / name).mkdir() if name != "pghaven.config" else _touch(stage.target / name)
    )
    with pytest.raises(PghavenError):
        stage.carry_out(plan)


def _touch(path: Path) -> None:
    path.write_text("")


def test_a_tablespace_is_linked_where_it_went(stage: Stage) -> None:
    stage.carry_out(stage.plan())
    assert os.readlink(stage.target / "pg_tblspc" / str(TABLESPACE_OID)) == str(stage.space)


# -- restoring over what is there ---------------------------------------------------------------------------------


@pytest.fixture
def spoilt(stage: Stage) -> Stage:
    """Restored, and then wrong in every file."""
    stage.carry_out(stage.plan())
    for name, content in stage.source.files.items():
        path = stage.target / name
        times = path.stat().st_mtime_ns
        path.write_bytes(bytes(byte ^ 1 for byte in content[:100]) + content[100:])
        os.utime(path, ns=(times, times))
    return stage


def test_a_spoilt_directory_is_restored_over(spoilt: Stage) -> None:
    spoilt.carry_out(spoilt.plan(delta=True))
    assert_restored(spoilt.source, spoilt.target)


@pytest.mark.parametrize("name", ["base", "base/5", "pg_xact", "pg_wal", "base/5/16384", "PG_VERSION", "empty"])
def test_links_that_lie_in_it_are_replaced(spoilt: Stage, name: str) -> None:
    spoilt.exchange(name, spoilt.outside)
    plan = spoilt.plan(delta=True)
    assert plan.existing is not None
    assert plan.existing.replaced == (name,)
    spoilt.carry_out(plan)
    assert_restored(spoilt.source, spoilt.target)
    assert spoilt.watch() == spoilt.before


@pytest.mark.parametrize("name", ["base", "base/5", "pg_xact", "base/5/16384", "base/5/20000", "PG_VERSION", "empty"])
@pytest.mark.parametrize("when", ["after the plan", "while it runs"])
def test_a_link_laid_later_stops_a_restore_over_a_directory(spoilt: Stage, name: str, when: str) -> None:
    plan = spoilt.plan(delta=True)
    if when == "after the plan":
        spoilt.exchange(name, spoilt.outside)
    else:
        spoilt.store.then = lambda: spoilt.exchange(name, spoilt.outside)
    with pytest.raises(PghavenError):
        spoilt.carry_out(plan)
    assert spoilt.watch() == spoilt.before
    assert not (spoilt.target / "global" / "pg_control").exists()


@pytest.mark.parametrize("name", ["base/5/16384", "base/5/20000", "PG_VERSION", "empty"])
def test_another_name_of_a_file_elsewhere_is_not_written_through(spoilt: Stage, name: str) -> None:
    secret = spoilt.outside / "secret"

    def link() -> None:
        (spoilt.target / name).unlink()
        (spoilt.target / name).hardlink_to(secret)

    plan = spoilt.plan(delta=True)
    spoilt.store.then = link
    with pytest.raises(PghavenError):
        spoilt.carry_out(plan)
    assert secret.read_text() == "keep"
    spoilt.carry_out(spoilt.plan(delta=True))
    assert_restored(spoilt.source, spoilt.target)
    assert secret.read_text() == "keep"


@pytest.mark.parametrize("name", ["global", "global/pg_control"])
def test_no_proof_is_taken_from_behind_a_link(spoilt: Stage, name: str) -> None:
    spoilt.exchange(name, spoilt.outside if name == "global" else spoilt.outside / "pg_control")
    with pytest.raises(Refused, match="cannot be proven"):
        spoilt.plan(delta=True)
