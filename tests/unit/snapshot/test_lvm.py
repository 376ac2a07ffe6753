"""LVM's commands and what they say, recorded from lvm2 2.03.16 over a volume group with a thin pool."""

from __future__ import annotations

import pytest

from pghaven.errors import NotFound, NotPermitted, ObjectExists, PghavenError, Refused, StoreFull
from pghaven.snapshot.lvm import (
    NoThinVolume,
    find_thin_volume,
    parse_volumes,
    render_create,
    render_mount,
    render_remove,
)
from pghaven.snapshot.programs import explain

_LISTED = """\
  {
      "report": [
          {
              "lv": [
                  {"vg_name":"tvg", "lv_name":"pg", "lv_attr":"Vwi-XXtz--", "origin":"", "pool_lv":"pool", \
"data_percent":"", "lv_size":"209715200", "lv_path":"/dev/tvg/pg"},
                  {"vg_name":"tvg", "lv_name":"pghaven-shop-20261129T093000Z-00ff", "lv_attr":"Vwi-XXtz--", \
"origin":"pg", "pool_lv":"pool", "data_percent":"", "lv_size":"209715200", \
"lv_path":"/dev/tvg/pghaven-shop-20261129T093000Z-00ff"},
                  {"vg_name":"tvg", "lv_name":"plain", "lv_attr":"-wi-XX----", "origin":"", "pool_lv":"", \
"data_percent":"", "lv_size":"41943040", "lv_path":"/dev/tvg/plain"},
                  {"vg_name":"tvg", "lv_name":"pool", "lv_attr":"twi-XXtz--", "origin":"", "pool_lv":"", \
"data_percent":"", "lv_size":"104857600", "lv_path":""}
              ]
          }
      ]
  }
"""


def test_thin_volumes_are_told_from_others_and_from_their_pool() -> None:
    found = parse_volumes(_LISTED)
    assert [(one.name, one.is_thin, one.origin) for one in found] == [
        ("pg", True, ""),
        ("pghaven-shop-20261129T093000Z-00ff", True, "pg"),
        ("plain", False, ""),
        ("pool", False, ""),
    ]
    assert found[1].path == "/dev/tvg/pghaven-shop-20261129T093000Z-00ff"
    assert (found[0].size_bytes, found[0].data_percent) == (209_715_200, None)


def test_an_empty_group_lists_nothing() -> None:
    assert (
        parse_volumes(
            '  {\n      "report": [\n          {\n              "lv": [\n              ]\n          }\n      ]\n  }\n'
        )
        == ()
    )


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('  Logical Volume "x" already exists in volume group "tvg"', ObjectExists),
        ('  Failed to find logical volume "tvg/none"', NotFound),
        ("  /run/lock/lvm/P_global:aux: open failed: Permission denied", NotPermitted),
        (
            "  Cannot create new thin volume, free space in thin pool tvg/pool reached threshold.",
            StoreFull,
        ),
        ("  Can't create thin without using device-mapper kernel driver.", Refused),
    ],
)
def test_what_lvm_complains_of_is_sorted_by_what_it_means(said: str, kind: type[PghavenError]) -> None:
    error = explain("take a snapshot", ("lvcreate",), said)
    assert type(error) is kind
    assert said.strip() in error.message


def test_a_snapshot_is_thin_and_active_after_a_restart() -> None:
    assert render_create("tvg", "pg", "pghaven-x") == (
        *("lvcreate", "--snapshot", "--setactivationskip", "n"),
        *("--name", "pghaven-x", "tvg/pg"),
    )


def test_nothing_of_others_is_removed() -> None:
    assert render_remove("tvg", "pghaven-x") == ("lvremove", "--yes", "tvg/pghaven-x")
    with pytest.raises(Refused, match="not a snapshot of ours"):
        render_remove("tvg", "pg")


def test_xfs_is_mounted_beside_the_one_it_was_taken_of() -> None:
    volume = parse_volumes(_LISTED)[1]
    assert render_mount(volume, "xfs", "/run/x", is_read_only=True)[3:5] == ("-o", "ro,nouuid")
    assert render_mount(volume, "ext4", "/run/x", is_read_only=False) == ("mount", "-t", "ext4", volume.path, "/run/x")


def test_a_device_that_is_none_of_lvm_is_told_without_asking_it() -> None:
    found = find_thin_volume("/dev/null")
    assert isinstance(found, NoThinVolume)
    assert "no LVM volume" in found.reason
