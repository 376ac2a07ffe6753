"""Which files need not be opened: those that nobody can have written to since the parent looked at them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pghaven.backup.listing import Listing, ListingRules, list_data_directory
from pghaven.backup.untouched import MARGIN_SECONDS, FileStamps, HostNow, find_distrust, find_untouched, to_ns
from pghaven.repository.entry import BackupEntry, BackupState, Intent
from pghaven.runtime.whoami import ProcessIdentity
from pghaven.units import render_time_utc
from tests.support.waiting import wait_until

STARTED = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)
STOPPED = STARTED + timedelta(minutes=5)
REST_NS = to_ns(STARTED) - MARGIN_SECONDS * 10**9
"""The first moment at which a file has not come to rest before the parent."""
INTENT = Intent(
    who=ProcessIdentity(host="db1", boot_id="2f1a/4026531836", pid=4711, start="1"),
    started_at=STARTED,
    system_identifier=7,
    timeline=1,
    start_lsn="0/2000028",
    parent=None,
)
PARENT = BackupEntry(
    label="a",
    state=BackupState.COMMITTED,
    intent=INTENT,
    last_sign=None,
    summary={"stopped_at": render_time_utc(STOPPED)},
)
HOST = HostNow(boot_id=INTENT.who.boot_id, now=STOPPED + timedelta(hours=1), newest_ns=to_ns(STOPPED))


def stamps(size: list[int], mtime_ns: list[int]) -> FileStamps:
    return FileStamps(size=np.array(size, np.uint64), mtime_ns=np.array(mtime_ns, np.int64))


def judge(size: int = 8192, mtime_ns: int = REST_NS - 1, changed_ns: int | None = None) -> bool:
    """One file that the parent saw with 8192 bytes and as last written just before ``REST_NS``."""
    changed = np.array([mtime_ns if changed_ns is None else changed_ns], np.int64)
    then = stamps([8192], [REST_NS - 1])
    return bool(find_untouched(stamps([size], [mtime_ns]), changed, then, parent_started=STARTED)[0])


def test_file_that_rested_before_the_parent_and_looks_the_same_need_not_be_opened() -> None:
    assert judge()


def test_file_of_another_size_is_opened() -> None:
    assert not judge(size=16384)


@pytest.mark.parametrize("step", [1, -1, -(10**12)])
def test_file_with_another_time_than_the_parent_saw_is_opened(step: int) -> None:
    """Also an earlier one: a clock that was put back stamps what it writes now with a time long past."""
    assert not judge(mtime_ns=REST_NS - 1 + step)


def test_file_whose_inode_changed_later_is_opened_whatever_its_time_says() -> None:
    """``touch -d``, ``cp -p`` and a restore set the modification time; nobody can set the other."""
    assert not judge(changed_ns=REST_NS)
    assert judge(changed_ns=REST_NS - 1)


def test_file_written_in_the_margin_before_the_parent_is_opened() -> None:
    now = stamps([8192, 8192], [REST_NS - 1, REST_NS])
    assert find_untouched(now, now.mtime_ns, now, parent_started=STARTED).tolist() == [True, False]


def test_no_files_give_no_answer() -> None:
    nothing = stamps([], [])
    assert find_untouched(nothing, nothing.mtime_ns, nothing, parent_started=STARTED).tolist() == []


def test_time_stamps_of_this_boot_with_a_clock_that_went_on_are_trusted() -> None:
    assert find_distrust(PARENT, HOST) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"boot_id": "9c3b/4026531836"}, "before this one was last started"),
        ({"now": STOPPED - timedelta(seconds=1)}, "the clock was put back"),
        ({"newest_ns": to_ns(HOST.now) + MARGIN_SECONDS * 10**9 + 1}, "which is yet to come"),
    ],
)
def test_time_stamps_are_distrusted_with_a_reason(changes: dict[str, Any], said: str) -> None:
    assert said in (find_distrust(PARENT, replace(HOST, **changes)) or "")


def test_another_container_on_the_same_boot_is_the_same_host() -> None:
    assert find_distrust(PARENT, replace(HOST, boot_id="2f1a/4026532999")) is None


@pytest.mark.parametrize("parent", [replace(PARENT, intent=None), replace(PARENT, summary={})])
def test_parent_that_does_not_say_when_and_where_proves_nothing(parent: BackupEntry) -> None:
    assert find_distrust(parent, HOST) is not None


def test_nanoseconds_are_exact() -> None:
    assert to_ns(datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)) == 1772366400_123457_000


def list_files(root: Path) -> Listing:
    return list_data_directory(str(root), ListingRules(tablespace_oids=frozenset(), segment_blocks=131072))


def overwrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"new")


def overwrite_and_forge(path: Path) -> None:
    found = path.stat()
    overwrite(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def replace_by_copy(path: Path) -> None:
    found = path.stat()
    path.unlink()
    path.write_bytes(b"different content...")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("write", [overwrite, overwrite_and_forge, replace_by_copy])
def test_files_written_without_changing_size_are_opened(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """On a real file system: the parent begins long enough after the files came to rest."""
    for name in ("calm", "busy"):
        (tmp_path / name).write_bytes(b"the content it had..")
    before = list_files(tmp_path)
    started = datetime.fromtimestamp(max(before.changed_ns) / 1e9, UTC) + timedelta(seconds=MARGIN_SECONDS + 1)

    def find(listing: Listing) -> dict[bytes, bool]:
        now, then = (stamps(list(one.size), list(one.mtime_ns)) for one in (listing, before))
        changed = np.array(listing.changed_ns, np.int64)
        # The clock of the file system is not ours to move: what is written now counts as written at the parent's start.
        changed[changed > max(before.changed_ns)] += (MARGIN_SECONDS + 1) * 10**9
        untouched = find_untouched(now, changed, then, parent_started=started)
        return dict(zip(listing.names, untouched.tolist(), strict=True))

    assert find(before) == {b"busy": True, b"calm": True}
    newest = max(before.changed_ns)
    _wait_for_tick(tmp_path, newest)
    write(tmp_path / "busy")
    assert find(list_files(tmp_path)) == {b"busy": False, b"calm": True}


def _wait_for_tick(directory: Path, newest_ns: int) -> None:
    """Until the file system's clock has gone on: it is as coarse as the kernel's timer."""
    probe = directory.parent / "probe"

    def is_later() -> bool:
        probe.write_bytes(b"x")
        return probe.stat().st_mtime_ns > newest_ns

    wait_until(is_later, "the next tick of the file system's clock")
