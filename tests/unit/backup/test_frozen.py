"""Where a data directory lies, as it must be known before snapshots of it are taken."""

from __future__ import annotations

from pathlib import Path

from pghaven.backup.frozen import find_places


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
