"""Names of objects: every store takes them, none is used twice."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pghaven.errors import UsageError
from pghaven.repository import layout
from pghaven.store.api import check_name

IDENTIFIER = 7711230948631765511
WAL_NAMES = [
    "00000001000000A300000042",
    "00000001000000A300000042.partial",
    "00000001000000A300000042.00000028.backup",
    "0000000A.history",
    "somebody.else",
]


PARTS = ["intent", "alive/00000001", "manifest", "decision", "retire/00000001", "fate/00000001", "hold/00000001"]
PARTS += ["release/00000001", "generations/00000001-20260301T140000Z-0002/manifest"]


def test_labels_of_one_second_are_in_the_order_in_which_they_were_made() -> None:
    moments = [datetime(2026, 3, 1, 13, 0, 0, microsecond, UTC) for microsecond in range(0, 1_000_000, 62_500)]
    labels = [layout.make_label(moment) for moment in [*moments, datetime(2026, 3, 1, 13, 0, 1, tzinfo=UTC)]]
    assert labels == sorted(labels)
    assert all(layout.MADE_LABEL.fullmatch(label) for label in labels)
    last = datetime(2026, 3, 1, 13, 0, 0, 999_999, UTC)
    assert layout.make_label(last).startswith("20260301T130000Z-f")
    assert len({layout.make_label(last) for _ in range(20)}) > 10, "two hosts may begin at one moment"


def all_names() -> list[str]:
    return [
        layout.DESCRIPTOR,
        layout.lineage_name("shop", IDENTIFIER),
        layout.pack_name("shop", "20260301T130000Z-0001", bytes(range(32))),
        *(layout.backup_object_name("shop", "20260301T130000Z-0001", part) for part in PARTS),
        *(layout.wal_object_name("shop", IDENTIFIER, name) for name in WAL_NAMES),
        *(layout.quarantine_name("shop", IDENTIFIER, name, "ab" * 32) for name in WAL_NAMES),
    ]


def test_every_store_takes_every_name() -> None:
    for name in all_names():
        assert check_name(name) == name


def test_no_two_names_differ_only_in_case() -> None:
    names = [name.lower() for name in all_names()]
    assert len(set(names)) == len(names)


def test_no_object_is_a_prefix_of_another() -> None:
    names = all_names()
    assert not [(one, other) for one in names for other in names if other.startswith(one + "/")]


@pytest.mark.parametrize(
    ("file_name", "place"),
    [
        ("00000001000000A300000042", "00000001/000000A3/00000001000000A300000042"),
        ("00000001000000A300000042.partial", "00000001/000000A3/00000001000000A300000042.partial"),
        ("00000001000000A300000042.00000028.backup", "00000001/000000A3/00000001000000A300000042.00000028.backup"),
        ("0000000A.history", "0000000A/0000000A.history"),
        ("somebody.else", "other/somebody.else"),
        ("0000000a.history", "other/0000000a.history"),
        ("0000000A.history.bak", "other/0000000A.history.bak"),
    ],
)
def test_wal_lies_by_timeline_and_four_gibibytes(file_name: str, place: str) -> None:
    assert layout.wal_object_name("shop", IDENTIFIER, file_name) == f"clusters/shop/wal/{IDENTIFIER}/{place}"


def test_prefixes_are_those_of_the_names() -> None:
    assert layout.wal_object_name("shop", 5, WAL_NAMES[0]).startswith(layout.wal_timeline_prefix("shop", 5, "00000001"))
    assert layout.wal_timeline_prefix("shop", 5, "00000001").startswith(layout.wal_prefix("shop", 5))
    assert layout.pack_name("shop", "x", bytes(32)).startswith(layout.packs_prefix("shop", "x"))
    assert layout.packs_prefix("shop", "x").startswith(layout.packs_prefix("shop"))
    assert layout.lineage_name("shop", 5).startswith(layout.lineages_prefix("shop"))
    assert layout.backup_object_name("shop", "x", "intent").startswith(layout.backups_prefix("shop"))
    assert layout.quarantine_name("shop", 5, "x", "ab" * 32).startswith(layout.quarantine_prefix("shop"))
    assert layout.packs_prefix("shop").startswith(layout.cluster_prefix("shop"))


@pytest.mark.parametrize("name", ["a", "shop-1", "0", "a" * 63, "db_2"])
def test_a_cluster_can_be_called(name: str) -> None:
    assert layout.check_cluster_name(name) == name


@pytest.mark.parametrize("name", ["", "Shop", "../x", "a/b", "-x", "_x", "a" * 64, "ä", "a b", "a\n", ".."])
def test_a_cluster_cannot_be_called(name: str) -> None:
    with pytest.raises(UsageError):
        layout.check_cluster_name(name)
