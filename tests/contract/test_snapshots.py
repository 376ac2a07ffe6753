"""What every driver of file-system snapshots promises, on the real thing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pghaven.errors import NotFound, NotPermitted, ObjectExists, Refused, StoreFull
from pghaven.snapshot.driver import Driver, Volume
from pghaven.snapshot.find import find_volume, get_driver
from pghaven.snapshot.programs import run as run_program
from tests.support.snapshotting import ALL_KINDS, Ground, run, snapshotting

_NAME = "pghaven-shop-20260101T000000Z-00ff"


@pytest.fixture(scope="module", params=ALL_KINDS)
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with snapshotting(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture
def volume(ground: Ground) -> Volume:
    made = ground.make_volume(f"pg{len(os.listdir(ground.root))}")
    (Path(made.root) / "data").mkdir()
    (Path(made.root) / "data" / "file").write_bytes(b"before")
    return made


@pytest.fixture
def driver(ground: Ground) -> Driver:
    return get_driver(ground.kind)


def _read(driver: Driver, volume: Volume, name: str = _NAME) -> bytes:
    with driver.reading(volume, name) as place:
        return (Path(place) / "data" / "file").read_bytes()


def test_a_volume_is_found_by_any_directory_on_it(ground: Ground, volume: Volume, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(Path(volume.root) / "data")
    assert find_volume(str(link)) == volume
    assert volume.kind == ground.kind
    assert os.path.dirname(volume.root) == str(ground.root)


def test_a_snapshot_stays_as_it_was_while_its_volume_goes_on(driver: Driver, volume: Volume) -> None:
    driver.create(volume, _NAME)
    file = Path(volume.root) / "data" / "file"
    file.write_bytes(b"after")
    (Path(volume.root) / "data" / "new").touch()
    assert _read(driver, volume) == b"before"
    with driver.reading(volume, _NAME) as place:
        assert sorted(os.listdir(f"{place}/data")) == ["file"]
    assert file.read_bytes() == b"after"


def test_times_and_owners_are_those_of_the_files(driver: Driver, volume: Volume) -> None:
    file = Path(volume.root) / "data" / "file"
    os.chown(file, 1234, 4321)
    there = file.stat()
    driver.create(volume, _NAME)
    with driver.reading(volume, _NAME) as place:
        found = os.stat(f"{place}/data/file")
    assert (found.st_uid, found.st_gid, found.st_mode, found.st_size) == (1234, 4321, there.st_mode, there.st_size)
    # ZFS in user space keeps times in other units than the kernel asks for.
    assert abs(found.st_mtime_ns - there.st_mtime_ns) < 1_000_000_000
    assert found.st_ino == there.st_ino


def test_nobody_can_write_into_a_snapshot(driver: Driver, volume: Volume) -> None:
    driver.create(volume, _NAME)
    with driver.reading(volume, _NAME) as place, pytest.raises(OSError, match="Read-only"):
        Path(place, "data", "file").write_bytes(b"x")


def test_the_listing_names_what_is_there(driver: Driver, volume: Volume, ground: Ground) -> None:
    other = ground.make_volume("other")
    assert driver.list(volume) == ()
    driver.create(volume, _NAME)
    driver.create(volume, "pghaven-z")
    driver.create(other, "pghaven-c")
    assert [one.name for one in driver.list(volume)] == [_NAME, "pghaven-z"]
    driver.remove(volume, _NAME)
    assert [one.name for one in driver.list(volume)] == ["pghaven-z"]


def test_a_name_is_taken_once(driver: Driver, volume: Volume) -> None:
    driver.create(volume, _NAME)
    with pytest.raises(ObjectExists):
        driver.create(volume, _NAME)
    assert [one.name for one in driver.list(volume)] == [_NAME]


def test_what_is_not_there_is_not_found(driver: Driver, volume: Volume, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        driver.remove(volume, _NAME)
    with pytest.raises(NotFound), driver.reading(volume, _NAME):
        pass
    with pytest.raises(NotFound):
        driver.clone(volume, _NAME, str(Path(volume.root).parent / "clone"))
    with pytest.raises(NotFound):
        driver.remove_clone(volume, str(tmp_path / "nothing"))


def test_a_clone_is_written_without_touching_anything_else(driver: Driver, volume: Volume, ground: Ground) -> None:
    driver.create(volume, _NAME)
    place = ground.root / "a clone of it"
    driver.clone(volume, _NAME, str(place))
    (place / "data" / "file").write_bytes(b"clone")
    (place / "data" / "more").touch()
    assert _read(driver, volume) == b"before"
    assert (Path(volume.root) / "data" / "file").read_bytes() == b"before"
    with pytest.raises(ObjectExists):
        driver.clone(volume, _NAME, str(place))
    driver.remove_clone(volume, str(place))
    assert not place.exists()
    driver.remove(volume, _NAME)
    assert driver.list(volume) == ()


def test_a_place_with_a_like_name_costs_no_clone(driver: Driver, volume: Volume, ground: Ground) -> None:
    driver.create(volume, _NAME)
    one, other = ground.root / "my clone", ground.root / "my_clone"
    driver.clone(volume, _NAME, str(one))
    (one / "data" / "file").write_bytes(b"mine")
    with suppress(ObjectExists):
        driver.clone(volume, _NAME, str(other))
        driver.remove_clone(volume, str(other))
    with pytest.raises(NotFound):
        driver.remove_clone(volume, str(other))
    assert (one / "data" / "file").read_bytes() == b"mine"
    driver.remove_clone(volume, str(one))


def test_what_is_no_clone_of_the_volume_is_never_removed_as_one(driver: Driver, volume: Volume, ground: Ground) -> None:
    """Whatever name is given by mistake: what else lies there, a clone of something else, the volume itself."""
    stranger = ground.make_volume("stranger")
    (Path(stranger.root) / "file").write_bytes(b"precious")
    driver.create(volume, _NAME)
    driver.create(stranger, _NAME)
    of_stranger = ground.root / "of-stranger"
    driver.clone(stranger, _NAME, str(of_stranger))
    for place in (stranger.root, str(of_stranger), volume.root):
        with pytest.raises((NotFound, Refused)):
            driver.remove_clone(volume, place)
    assert (of_stranger / "file").read_bytes() == (Path(stranger.root) / "file").read_bytes() == b"precious"
    assert (Path(volume.root) / "data" / "file").exists()
    driver.remove_clone(stranger, str(of_stranger))


def test_a_program_that_is_not_there_says_nothing_of_what_is() -> None:
    """As a NotFound it would be taken for a snapshot that is gone, whose record can go too."""
    with pytest.raises(Refused, match="there is no program"):
        run_program("list the snapshots", "pghaven-no-such-program")


def test_two_read_one_snapshot_at_once(driver: Driver, volume: Volume) -> None:
    driver.create(volume, _NAME)
    with driver.reading(volume, _NAME) as first, driver.reading(volume, _NAME) as second:
        assert Path(first, "data", "file").read_bytes() == Path(second, "data", "file").read_bytes() == b"before"
    driver.remove(volume, _NAME)


def test_a_reader_that_was_killed_is_in_nobodys_way(driver: Driver, volume: Volume) -> None:
    driver.create(volume, _NAME)
    child = os.fork()
    if child == 0:
        driver.reading(volume, _NAME).__enter__()
        os._exit(0)
    os.waitpid(child, 0)
    assert _read(driver, volume) == b"before"
    driver.remove(volume, _NAME)
    assert driver.list(volume) == ()


def test_a_snapshot_in_use_by_a_clone_is_told_or_independent(driver: Driver, volume: Volume, ground: Ground) -> None:
    driver.create(volume, _NAME)
    place = ground.root / "clone"
    driver.clone(volume, _NAME, str(place))
    if ground.kind == "zfs":
        with pytest.raises(Refused, match="dependent clones"):
            driver.remove(volume, _NAME)
    else:
        driver.remove(volume, _NAME)
    assert (place / "data" / "file").read_bytes() == b"before"


def test_a_full_pool_is_said_to_be_full(ground: Ground, driver: Driver, volume: Volume) -> None:
    """The dataset may keep the pool's room for itself: the snapshot's own would be beyond it."""
    if ground.kind != "zfs":
        pytest.skip("only ZFS keeps room for a dataset; Btrfs has a test of its own")
    (Path(volume.root) / "file").write_bytes(os.urandom(150 << 20))
    run("zfs", "set", "refreservation=850M", volume.source)
    with pytest.raises(StoreFull) as raised:
        driver.create(volume, _NAME)
    assert raised.value.hint is not None
    assert "snapshot" in raised.value.hint
    run("zfs", "set", "refreservation=none", volume.source)


def test_a_full_btrfs_is_said_to_be_full_and_nothing_of_a_snapshot_or_clone_is_left(tmp_path: Path) -> None:
    """Data and metadata share what room there is, so that files can take all of it."""
    with snapshotting("btrfs", tmp_path, size_bytes=128 << 20) as full:
        driver, volume, clone = get_driver("btrfs"), full.make_volume("pg"), full.root / "clone"
        driver.create(volume, "pghaven-before")
        _fill(Path(volume.root))
        with pytest.raises(StoreFull, match="No space left") as raised:
            driver.create(volume, _NAME)
        assert raised.value.hint is not None and "snapshot remove" in raised.value.hint
        assert [one.name for one in driver.list(volume)] == ["pghaven-before"]
        with pytest.raises(StoreFull):
            driver.clone(volume, "pghaven-before", str(clone))
        assert not clone.exists()


def _fill(place: Path) -> None:
    for size in (1 << 20, 1 << 16, 1 << 12):
        with suppress(OSError):
            for number in range(1000):
                (place / f"{size}-{number}").write_bytes(os.urandom(size))


def test_a_user_without_the_right_is_told_which(driver: Driver, volume: Volume) -> None:
    assert _is_refused_nobody(lambda: driver.create(volume, _NAME))
    assert driver.list(volume) == ()


def test_a_user_who_may_not_look_is_told_so(driver: Driver, volume: Volume, ground: Ground) -> None:
    if ground.kind == "zfs":
        pytest.skip("ZFS lets everybody look")
    driver.create(volume, _NAME)
    assert _is_refused_nobody(lambda: driver.list(volume))


def _is_refused_nobody(act: Callable[[], object]) -> bool:
    """Whether a user without any rights is told that root may do it."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            act()
        except NotPermitted as error:
            os._exit(7 if error.hint is not None and "root" in error.hint else 8)
        finally:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_another_file_system_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="takes no snapshots") as raised:
        find_volume("/proc")
    assert "proc" in raised.value.message
