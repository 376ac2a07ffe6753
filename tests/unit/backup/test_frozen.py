"""Where a data directory lies, as it must be known before snapshots of it are taken."""

from __future__ import annotations

from pathlib import Path

from pghaven.backup.frozen import find_places
from pghaven.backup.listing import Listing
from pghaven.instant.files import locate


def test_every_directory_of_the_servers_that_a_link_leads_to_is_found_and_no_other(tmp_path: Path) -> None:
    home, far = tmp_path / "main", tmp_path / "far"
    for directory in ("base/5", "global", "pg_tblspc", "pg_multixact/offsets", "log", "pg_xact"):
        (home / directory).mkdir(parents=True)
    links = {
        "base/16384": far / "database",
        "pg_multixact/members": far / "members",
        "pg_tblspc/16400": far / "space",
        "pg_tblspc/16400/PG_17_202406281/5": far / "deep",
        "pg_wal": far / "wal",
        "log/old": far / "old",
        "certificates": far / "certificates",
    }
    (far / "space" / "PG_17_202406281").mkdir(parents=True)
    for relative, place in links.items():
        place.mkdir(exist_ok=True)
        (home / relative).symlink_to(place)
    found = find_places(str(home))
    assert found.home == str(home)
    wanted = ("base/16384", "pg_multixact/members", "pg_tblspc/16400", "pg_tblspc/16400/PG_17_202406281/5")
    assert found.elsewhere == {relative: str(links[relative]) for relative in wanted}


def test_what_lies_elsewhere_within_what_lies_elsewhere_is_read_and_linked_where_it_is() -> None:
    moved = {"pg_tblspc/1": "/snap/space", "pg_tblspc/1/PG_17_1/5": "/snap/deep", "base/7": "/snap/seven"}
    listing = Listing(data_directory="/snap/main", elsewhere=moved)
    assert listing.place("pg_tblspc/1/PG_17_1/5/16384") == "/snap/deep/16384"
    assert listing.place("pg_tblspc/1/PG_17_1/6") == "/snap/space/PG_17_1/6"
    assert listing.place("base/70/1") == "/snap/main/base/70/1"
    assert locate("/clone", "pg_tblspc/1/PG_17_1/5", moved) == "/snap/space/PG_17_1/5"
    assert locate("/clone", "pg_tblspc/1", moved) == "/clone/pg_tblspc/1"
    assert locate("/clone", "base/7", moved) == "/clone/base/7"
