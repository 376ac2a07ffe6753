"""A restore over an existing directory: what it fetches, what it refuses, what becomes of what is not the backup's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pytest

from pghaven.errors import Locked, Refused
from pghaven.events import Event, Notice, ignore
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.pack import PackRef, load_pack_index
from pghaven.restore.execute import run_restore
from pghaven.restore.request import Existing, RestorePlan
from tests.support import walfile
from tests.support.overwriting import FIRST, MIB, MIXED, SECOND, SPACE, Ground, assert_as_fresh, describe, open_ground
from tests.support.synthetic import (
    CLUSTER,
    CONTROL,
    PAGE,
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    TABLESPACE_OID,
    make_segment,
    make_settings,
    plan,
)


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with open_ground() as made:
        yield made


@pytest.fixture
def target(ground: Ground) -> Iterator[Path]:
    """What a restore of the first backup left."""
    with ground.target(FIRST.label) as made:
        yield made


def plan_delta(ground: Ground, label: str, target: Path, **options: bool) -> tuple[RestorePlan, Existing]:
    made = plan(ground.repository, label, target, delta=True, **options)
    assert made.existing is not None
    return made, made.existing


def segment_name(number: int) -> str:
    return str(SegmentName(timeline=Timeline(1), number=number, segment_size=SEGMENT_SIZE))


# -- what is fetched ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [FIRST.label, SECOND.label])
def test_where_nothing_differs_no_frame_is_fetched(ground: Ground, label: str) -> None:
    with ground.target(label) as target:
        ground.store.read_bytes = 0
        result = ground.carry_out(label, target)
        assert (result.written_bytes, result.fetched_bytes) == (0, 0)
        assert ground.store.read_bytes == sum(count_proofs(ground, pack) for pack in ground.manifests[label].packs)
        assert_as_fresh(ground, label, target)


def count_proofs(ground: Ground, pack: PackRef) -> int:
    """The bytes of a pack's index and cell hashes."""
    index = load_pack_index(BackupCatalog(ground.repository, CLUSTER).pack_place, pack)
    return pack.tail_bytes + index.cells_length


def test_pages_of_many_backups_are_proven_page_by_page(ground: Ground) -> None:
    """What cannot be is not a page: a part of an odd file in a cell of whose rest nothing is known."""
    with ground.target(MIXED.label) as target:
        files = ground.manifests[MIXED.label].files
        odd = sum(size for size in files.size.tolist() if size % PAGE)
        result = ground.carry_out(MIXED.label, target)
        assert result.written_bytes <= odd
        assert_as_fresh(ground, MIXED.label, target)


def test_one_wrong_page_costs_one_frame(ground: Ground, target: Path) -> None:
    number, path = find_file(ground, "base/5/30000")
    content = bytearray((target / path).read_bytes())
    content[MIB + 5 * PAGE + 1] ^= 1
    (target / path).write_bytes(content)
    frames = list_frames(ground, number)
    result = ground.carry_out(FIRST.label, target)
    assert result.written_bytes == PAGE
    assert result.fetched_bytes == frames[1]
    assert_as_fresh(ground, FIRST.label, target)


def test_a_missing_file_costs_its_frames_and_no_other(ground: Ground, target: Path) -> None:
    number, path = find_file(ground, "base/5/30000")
    (target / path).unlink()
    result = ground.carry_out(FIRST.label, target)
    assert result.written_bytes == 3 * MIB
    assert result.fetched_bytes == sum(list_frames(ground, number))
    assert_as_fresh(ground, FIRST.label, target)


def find_file(ground: Ground, path: str) -> tuple[int, str]:
    files = ground.manifests[FIRST.label].files
    (number,) = [n for n in range(len(files.names)) if files.path(n) == path.encode()]
    return number, path


def list_frames(ground: Ground, number: int) -> list[int]:
    """The stored lengths of the frames that hold this file, which is alone in them."""
    manifest = ground.manifests[FIRST.label]
    first = int(manifest.block_map.runs_of_file[:number].sum())
    assert manifest.block_map.runs_of_file[number] == 1
    pack = manifest.packs[int(manifest.block_map.pack[first])]
    index = load_pack_index(BackupCatalog(ground.repository, CLUSTER).pack_place, pack)
    offset, length = int(manifest.block_map.offset[first]), int(manifest.block_map.length[first])
    return [
        stored
        for start, stored in zip(index.plain_offsets, index.stored_lengths, strict=False)
        if offset <= start < offset + length
    ]


def test_damaged_cell_hashes_are_told_and_everything_is_fetched(ground: Ground, target: Path) -> None:
    """The pages themselves are whole: a restore must not fail for what it can do without."""
    place = BackupCatalog(ground.repository, CLUSTER).pack_place
    ref = max(ground.manifests[FIRST.label].packs, key=lambda pack: pack.size_bytes)
    index = load_pack_index(place, ref)
    name = place.name(ref.label, ref.id)
    whole = ground.store.read(name)
    broken = bytearray(whole)
    broken[index.stored_offsets[-1]] ^= 1
    ground.store.delete(name)
    ground.store.create(name, (bytes(broken),))
    try:
        told: list[Event] = []
        made, _ = plan_delta(ground, FIRST.label, target)
        result = run_restore(made, make_settings(ground.repository), told.append)
    finally:
        ground.store.delete(name)
        ground.store.create(name, (whole,))
    assert [event.code for event in told if isinstance(event, Notice)] == ["cells"]
    assert result.fetched_bytes == sum(index.stored_lengths)
    assert_as_fresh(ground, FIRST.label, target)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_without_delta_an_existing_directory_is_refused(ground: Ground, target: Path) -> None:
    with pytest.raises(Refused, match="not empty"):
        plan(ground.repository, FIRST.label, target)


def reseal(offset: int, change: int) -> bytes:
    """The cluster's pg_control with one byte changed and a right checksum."""
    control = bytearray(CONTROL)
    control[offset] ^= change
    control[288:292] = google_crc32c.value(bytes(control[:288])).to_bytes(4, "little")
    return bytes(control)


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (reseal(0, 1), "is of another cluster: its system identifier"),
        (reseal(12, 1), "of another major version"),
        (CONTROL[:100] + b"x" + CONTROL[101:], "cannot be proven to be this cluster's"),
        (b"", "cannot be proven to be this cluster's"),
    ],
)
def test_a_directory_that_is_not_this_cluster_s_is_refused(
    ground: Ground, target: Path, control: bytes, message: str
) -> None:
    (target / "global" / "pg_control").write_bytes(CONTROL)
    plan_delta(ground, FIRST.label, target)
    (target / "global" / "pg_control").write_bytes(control)
    with pytest.raises(Refused, match=message):
        plan_delta(ground, FIRST.label, target)


def test_a_directory_without_proof_of_whose_it_is_is_refused(ground: Ground, target: Path) -> None:
    (target / "global" / "pg_control").unlink()
    (target / "pghaven.restore.json").unlink()
    with pytest.raises(Refused, match="not empty"):
        plan(ground.repository, FIRST.label, target, delta=True)


def test_a_linked_pg_control_proves_nothing(ground: Ground, target: Path) -> None:
    (target / "global" / "pg_control").rename(target.parent / "other")
    (target / "global" / "pg_control").symlink_to(target.parent / "other")
    with pytest.raises(Refused, match="cannot be proven"):
        plan_delta(ground, FIRST.label, target)


def test_two_restores_of_one_directory_do_not_meet(ground: Ground, target: Path) -> None:
    made, _ = plan_delta(ground, FIRST.label, target)
    again, _ = plan_delta(ground, FIRST.label, target)

    def try_the_other(event: Event) -> None:
        with pytest.raises(Locked, match="another restore is at work"):
            run_restore(again, make_settings(ground.repository), ignore)

    run_restore(made, make_settings(ground.repository), try_the_other)


# -- tablespaces -------------------------------------------------------------------------------------------------------


def test_a_tablespace_that_lies_elsewhere_than_planned_is_not_guessed_at(ground: Ground, target: Path) -> None:
    planned = Path(f"{target}-{TABLESPACE_OID}")
    elsewhere = target.parent / "elsewhere"
    planned.rename(elsewhere)
    (target / SPACE).unlink()
    (target / SPACE).symlink_to(elsewhere)
    planned.mkdir()
    (planned / "theirs").write_text("keep")
    with pytest.raises(Refused, match="which is not empty") as refusal:
        plan_delta(ground, FIRST.label, target)
    assert f"={elsewhere}" in str(refusal.value.hint)
    (planned / "theirs").unlink()
    before = sorted(elsewhere.rglob("*"))
    ground.carry_out(FIRST.label, target)
    assert_as_fresh(ground, FIRST.label, target)
    assert sorted(elsewhere.rglob("*")) == before


def test_a_tablespace_made_after_the_backup_loses_its_link_and_nothing_else(ground: Ground, target: Path) -> None:
    newer = target.parent / "newer"
    (newer / "PG_17_202406281" / "5").mkdir(parents=True)
    (newer / "PG_17_202406281" / "5" / "16600").write_text("keep")
    (target / "pg_tblspc" / "16600").symlink_to(newer)
    _, existing = plan_delta(ground, FIRST.label, target)
    assert existing.removed == (
        "backup_label",
        "pg_tblspc/16600",
        "postgresql.auto.conf",
        "recovery.signal",
    )
    ground.carry_out(FIRST.label, target)
    assert_as_fresh(ground, FIRST.label, target)
    assert (newer / "PG_17_202406281" / "5" / "16600").read_text() == "keep"


# -- what is somebody else's -------------------------------------------------------------------------------------------

FOREIGN = ("thesis.txt", "log/server.log", "base/5/16384.bak", "base/16999/notes", f"{SPACE}/PG_14_202107181/5/16384")


def test_what_is_foreign_is_named_and_left_alone(ground: Ground, target: Path) -> None:
    for name in FOREIGN:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("mine")
    (target / "base" / "16999" / "16384").write_text("PostgreSQL's")
    made, existing = plan_delta(ground, FIRST.label, target)
    assert set(existing.foreign) == {
        "thesis.txt",
        "log",
        "base/5/16384.bak",
        "base/16999/notes",
        f"{SPACE}/PG_14_202107181",
    }
    assert "base/16999/16384" in existing.removed
    assert any(notice.code == "foreign" and "thesis.txt" in notice.text for notice in made.notices)
    ground.carry_out(FIRST.label, target)
    assert [(target / name).read_text() for name in FOREIGN] == ["mine"] * len(FOREIGN)
    assert not (target / "base" / "16999" / "16384").exists()
    theirs = {str(one) for name in FOREIGN for one in (Path(name), *Path(name).parents)}
    assert_as_fresh(ground, FIRST.label, target, foreign=frozenset(theirs - describe(ground.fresh[FIRST.label]).keys()))


@pytest.mark.parametrize("name", ["base/5/16384", "pg_xact", SPACE])
def test_what_is_foreign_and_in_the_way_stops_it_unless_it_may_be_removed(
    ground: Ground, target: Path, name: str
) -> None:
    path = target / name
    if name == SPACE:
        shutil.rmtree(f"{target}-{TABLESPACE_OID}")
    if path.is_symlink() or path.is_file():
        path.unlink()
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "mine").write_text("mine")
        (path / "link").symlink_to(target.parent)
    else:
        path.rename(target.parent / "away")
        path.write_text("mine")
    with pytest.raises(Refused, match="in the way") as refusal:
        plan_delta(ground, FIRST.label, target)
    assert name in refusal.value.message
    _, existing = plan_delta(ground, FIRST.label, target, remove_foreign=True)
    assert existing.in_the_way == (name,)
    ground.carry_out(FIRST.label, target, remove_foreign=True)
    assert_as_fresh(ground, FIRST.label, target)


# -- WAL ---------------------------------------------------------------------------------------------------------------


def test_wal_that_is_nowhere_else_is_moved_beside_the_target(ground: Ground, target: Path) -> None:
    place = target / "pg_wal"
    archived, other, beyond = segment_name(4), segment_name(5), segment_name(90)
    (place / archived).write_bytes(make_segment(4))
    (place / other).write_bytes(make_segment(5)[:-1] + b"x")
    (place / beyond).write_bytes(make_wal(90, 90))
    (place / segment_name(91)).write_bytes(make_wal(91, 3))  # recycled: prepared for use, with what it held before
    (place / segment_name(92)).write_bytes(bytes(SEGMENT_SIZE))
    (place / "00000002.history").write_text("1\t0/5000000\tno recovery target specified\n")
    (place / "mine.txt").write_text("mine")
    made, existing = plan_delta(ground, FIRST.label, target)
    assert set(existing.saved_wal) == {other, beyond, "00000002.history"}
    assert existing.foreign == ("pg_wal/mine.txt",)
    (notice,) = [one for one in made.notices if one.code == "saved_wal"]
    assert existing.saved_wal_directory in notice.text
    assert f"wal push {place}/" in str(notice.hint)
    run_restore(made, make_settings(ground.repository), ignore)
    saved = Path(existing.saved_wal_directory)
    assert {path.name for path in saved.iterdir()} == set(existing.saved_wal)
    assert (saved / other).read_bytes() == make_segment(5)[:-1] + b"x"
    assert {path.name for path in place.iterdir()} == {"archive_status", "mine.txt"}


def make_wal(named: int, written: int) -> bytes:
    """A segment called ``named`` whose pages are those of ``written``."""
    name = walfile.segment_name(written, segment_size=SEGMENT_SIZE)
    assert str(walfile.segment_name(named, segment_size=SEGMENT_SIZE)) == segment_name(named)
    return walfile.make_segment(name, system_identifier=SYSTEM_IDENTIFIER)


def test_wal_behind_a_link_stays_where_it_is(ground: Ground, target: Path) -> None:
    """pg_wal on a disk of its own: the link goes, its WAL is left there, all of it."""
    elsewhere = target.parent / "wal"
    (target / "pg_wal").rename(elsewhere)
    (target / "pg_wal").symlink_to(elsewhere)
    (elsewhere / segment_name(4)).write_bytes(make_segment(4))
    _, existing = plan_delta(ground, FIRST.label, target)
    assert existing.replaced == ("pg_wal",)
    ground.carry_out(FIRST.label, target)
    assert (elsewhere / segment_name(4)).read_bytes() == make_segment(4)
    assert_as_fresh(ground, FIRST.label, target)


# -- going on ----------------------------------------------------------------------------------------------------------


def test_the_plan_file_says_whose_an_unfinished_directory_is(ground: Ground, target: Path) -> None:
    (target / "global" / "pg_control").unlink()
    _, existing = plan_delta(ground, SECOND.label, target)
    assert existing.is_unfinished
    body = json.loads((target / "pghaven.restore.json").read_text())
    (target / "pghaven.restore.json").write_text(json.dumps({**body, "system_identifier": "1"}))
    with pytest.raises(Refused, match="another cluster"):
        plan_delta(ground, SECOND.label, target)


def test_an_unfinished_restore_is_gone_on_with_and_fetches_only_what_is_missing(ground: Ground, target: Path) -> None:
    (target / "global" / "pg_control").unlink()
    (target / "base" / "5" / "30000").unlink()
    made = plan(ground.repository, FIRST.label, target)
    assert made.resumes
    result = run_restore(made, make_settings(ground.repository), ignore)
    assert 3 * MIB <= result.written_bytes <= 3 * MIB + PAGE
    assert_as_fresh(ground, FIRST.label, target)


def test_an_unfinished_restore_of_another_backup_is_gone_on_with_only_by_delta(ground: Ground, target: Path) -> None:
    (target / "global" / "pg_control").unlink()
    with pytest.raises(Refused, match="unfinished restore of backup"):
        plan(ground.repository, SECOND.label, target)
    ground.carry_out(SECOND.label, target)
    assert_as_fresh(ground, SECOND.label, target)
