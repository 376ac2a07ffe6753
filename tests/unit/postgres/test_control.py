"""Control files that real servers of every supported version wrote, in several states, against pg_controldata.

``tests/golden/control`` holds the first 512 bytes of each (the rest is zero) beside what pg_controldata of the same
version printed, with TZ=UTC and LC_ALL=C.
"""

from __future__ import annotations

import struct
from datetime import datetime
from pathlib import Path

import pytest
from google_crc32c import value as crc32c

from pghaven.errors import Damaged, ServerUnsuitable
from pghaven.postgres.control import CONTROL_FILE_SIZE, ControlFile, DatabaseState, parse_control
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.version import SUPPORTED

GOLDEN = Path(__file__).parents[2] / "golden" / "control"
FILES = sorted(path.stem for path in GOLDEN.glob("*.bin"))


def read(stem: str) -> bytes:
    return (GOLDEN / f"{stem}.bin").read_bytes().ljust(CONTROL_FILE_SIZE, b"\0")


def read_printed(stem: str) -> dict[str, str]:
    lines = (GOLDEN / f"{stem}.txt").read_text().splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


def print_as_pg_controldata(control: ControlFile) -> dict[str, object]:
    def switch(value: bool) -> str:
        return "on" if value else "off"

    def moment(value: datetime) -> str:
        return value.strftime("%a %b %e %H:%M:%S %Y")

    redo_file = SegmentName.containing(
        control.checkpoint_timeline, control.checkpoint_redo_lsn, control.wal_segment_size
    )
    return {
        "pg_control version number": control.control_version,
        "Catalog version number": control.catalog_version,
        "Database system identifier": control.system_identifier,
        "Database cluster state": control.state,
        "pg_control last modified": moment(control.modified),
        "Latest checkpoint location": control.checkpoint_lsn,
        "Latest checkpoint's REDO location": control.checkpoint_redo_lsn,
        "Latest checkpoint's REDO WAL file": redo_file,
        "Latest checkpoint's TimeLineID": control.checkpoint_timeline,
        "Latest checkpoint's PrevTimeLineID": control.prev_timeline,
        "Latest checkpoint's full_page_writes": switch(control.full_page_writes),
        "Latest checkpoint's NextXID": f"{control.next_xid >> 32}:{control.next_xid & 0xFFFFFFFF}",
        "Latest checkpoint's oldestXID": control.oldest_xid,
        "Time of latest checkpoint": moment(control.checkpoint_time),
        "Minimum recovery ending location": control.min_recovery_point,
        "Min recovery ending loc's timeline": control.min_recovery_timeline or 0,
        "Backup start location": control.backup_start_lsn,
        "Backup end location": control.backup_end_lsn,
        "End-of-backup record required": "yes" if control.backup_end_required else "no",
        "wal_level setting": control.wal_level,
        "wal_log_hints setting": switch(control.wal_log_hints),
        "max_connections setting": control.max_connections,
        "max_worker_processes setting": control.max_worker_processes,
        "max_wal_senders setting": control.max_wal_senders,
        "max_prepared_xacts setting": control.max_prepared_transactions,
        "max_locks_per_xact setting": control.max_locks_per_transaction,
        "track_commit_timestamp setting": switch(control.track_commit_timestamp),
        "Database block size": control.block_size,
        "Blocks per segment of large relation": control.segment_blocks,
        "WAL block size": control.wal_block_size,
        "Bytes per WAL segment": control.wal_segment_size,
        "Data page checksum version": control.data_checksum_version,
    }


@pytest.mark.parametrize("stem", FILES)
def test_every_field_is_what_pg_controldata_prints(stem: str) -> None:
    printed = read_printed(stem)
    ours = {key: str(value) for key, value in print_as_pg_controldata(parse_control(read(stem))).items()}
    assert ours == {key: printed[key] for key in ours}


@pytest.mark.parametrize("stem", FILES)
def test_version_is_told_by_the_file(stem: str) -> None:
    version = parse_control(read(stem)).version
    assert version is not None
    assert str(version) == stem.partition("-")[0]


def test_there_is_a_file_of_every_version_in_every_state() -> None:
    states = ("before-backup-end", "in-production", "in-recovery", "shut-down")
    assert [f"{version}-{state}" for version in SUPPORTED for state in states] == FILES


def test_states_are_told_apart() -> None:
    assert parse_control(read("18-shut-down")).state.is_shut_down
    assert not parse_control(read("18-in-production")).state.is_shut_down
    assert parse_control(read("18-in-recovery")).state is DatabaseState.IN_ARCHIVE_RECOVERY
    assert parse_control(read("18-before-backup-end")).backup_end_required
    assert parse_control(read("18-shut-down")).min_recovery_timeline is None
    assert parse_control(read("18-shut-down")).has_data_checksums


@pytest.mark.parametrize("stem", FILES)
def test_every_flipped_bit_is_found(stem: str) -> None:
    intact = read(stem)
    parse_control(intact)
    size = 296 if stem.startswith("18") else 292
    for position in range(size):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << position % 8
        with pytest.raises((Damaged, ServerUnsuitable)):
            parse_control(damaged)


def test_a_mismatch_names_both_checksums() -> None:
    damaged = bytearray(read("17-shut-down"))
    damaged[40] ^= 1
    with pytest.raises(Damaged, match=r"global/pg_control: CRC is [0-9A-F]{8} but its contents give [0-9A-F]{8}"):
        parse_control(damaged)


@pytest.mark.parametrize("length", [0, 7, 291, 295])
def test_a_file_cut_short_is_damaged(length: int) -> None:
    parse_control(read("18-shut-down")[:296])
    with pytest.raises(Damaged, match=f"only {length} bytes"):
        parse_control(read("18-shut-down")[:length])


def reseal(stem: str, offset: int, content: bytes) -> bytes:
    data = bytearray(read(stem))
    data[offset : offset + len(content)] = content
    end = 292 if stem.startswith("18") else 288
    data[end : end + 4] = struct.pack("<I", crc32c(bytes(data[:end])))
    return bytes(data)


def test_unknown_control_version_names_the_supported_majors() -> None:
    with pytest.raises(ServerUnsuitable, match="control version 1201, which is not supported") as caught:
        parse_control(reseal("17-shut-down", 8, struct.pack("<I", 1201)))
    assert caught.value.hint == "Supported major versions are 15, 16, 17 and 18."


def test_unsupported_catalog_is_read_but_has_no_version() -> None:
    postgresql_14 = parse_control(reseal("15-shut-down", 12, struct.pack("<I", 202107181)))
    assert postgresql_14.version is None


def test_file_of_another_kind_of_machine_is_refused() -> None:
    with pytest.raises(ServerUnsuitable, match="big-endian machine"):
        parse_control(reseal("17-shut-down", 8, struct.pack(">I", 1700)))
    with pytest.raises(ServerUnsuitable, match="machine of another kind"):
        parse_control(reseal("17-shut-down", 208, struct.pack("<d", 1.5)))


@pytest.mark.parametrize(("offset", "what"), [(16, "state"), (48, "checkpoint's timeline"), (172, "wal_level")])
def test_impossible_values_under_a_valid_checksum_are_damage(offset: int, what: str) -> None:
    value = 0 if offset == 48 else 99
    with pytest.raises(Damaged, match="global/pg_control: "):
        parse_control(reseal("17-shut-down", offset, struct.pack("<I", value)))
