"""Supported versions and the numbers that tell them apart."""

from __future__ import annotations

import pytest

from pghaven.errors import ServerUnsuitable
from pghaven.postgres.version import (
    SUPPORTED,
    find_by_control,
    find_by_major,
    find_by_wal_magic,
    require_supported,
    supported_majors,
)


def test_each_supported_version_is_found_by_each_of_its_numbers() -> None:
    for version in SUPPORTED:
        assert find_by_major(version.major) is version
        assert find_by_wal_magic(version.wal_magic) is version
        assert find_by_control(version.control_version, version.catalog_version) is version
        assert require_supported(version.major * 10000 + 7) is version


def test_versions_of_one_control_version_are_told_apart_by_the_catalog() -> None:
    assert [str(find_by_control(1300, catalog)) for catalog in (202209061, 202307071)] == ["15", "16"]


def test_numbers_of_no_supported_version_find_nothing() -> None:
    assert find_by_major(14) is None
    assert find_by_wal_magic(0xD10D) is None
    assert find_by_control(1300, 202107181) is None
    assert find_by_control(1800, 202505281) is None


@pytest.mark.parametrize(
    ("number", "name"), [(140012, "14"), (190000, "19"), (90624, "9.6"), (90100, "9.1"), (100023, "10")]
)
def test_other_servers_are_refused_by_name(number: int, name: str) -> None:
    with pytest.raises(ServerUnsuitable) as caught:
        require_supported(number)
    assert caught.value.message == f"PostgreSQL {name} is not supported"
    assert caught.value.hint == "Supported major versions are 15, 16, 17 and 18."


def test_supported_versions_are_listed_oldest_first() -> None:
    assert supported_majors() == "15, 16, 17 and 18"


def test_wal_summaries_came_with_17() -> None:
    assert [version.major for version in SUPPORTED if version.has_wal_summaries] == [17, 18]
