"""``pghaven repo copy``: a second repository, and a restore from it when the first one is lost."""

from __future__ import annotations

import json
import shutil

from tests.cli.site import NAME, Site

AWAY = "away"


def use(site: Site, *names: str) -> None:
    """Configure two repositories, and have the cluster keep its backups and WAL in these."""
    site.write_config(f"[repository.{AWAY}]\nurl = {json.dumps(f'file://{site.place / AWAY}')}", repositories=[*names])


def test_a_copy_is_restored_from_when_its_source_is_lost(site: Site) -> None:
    use(site, "main")
    site.set_up()
    site.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
    label = site.json("backup")["label"]
    site.archive_all()

    copy = ("repo", "copy", NAME, "--from", "main", "--to", AWAY, "--limit", "1GiB/s")
    refused = site.error(*copy, status=14)
    assert "--create" in refused["hint"]
    assert not (site.place / AWAY).exists()
    planned = site.ok(*copy, "--create", "--dry-run")
    assert "this is what would be done" in planned
    assert not (site.place / AWAY).exists()
    (first,) = site.json(*copy, "--create")["backups"]
    assert (first["label"], first["fate"]) == (label, "copied")
    assert first["copy"].startswith(f"{label}-")

    site.cluster.sql("INSERT INTO t SELECT generate_series(1001, 2000)")
    site.json("backup")
    site.cluster.sql("INSERT INTO t SELECT generate_series(2001, 3000)")
    site.archive_all()
    again = site.json(*copy)
    assert [one["fate"] for one in again["backups"]] == ["there already", "copied"]
    assert again["backups"][1]["copied_bytes"] < first["copied_bytes"]  # what did not change is there
    assert again["wal"]["copied"] > 0
    assert [one["fate"] for one in site.json(*copy)["backups"]] == ["there already"] * 2

    site.cluster.stop()
    shutil.rmtree(site.repository)
    use(site, AWAY)
    assert [one["state"] for one in site.json("list")["clusters"][0]["backups"]] == ["complete"] * 2
    assert site.json("verify")["results"][0]["is_damaged"] is False
    with site.started("--backup", label) as shown:
        assert shown["plan"]["backup"] == first["copy"]
        assert site.ask_restored("SELECT count(*) FROM t") == 3000


def test_what_is_damaged_is_named_and_ends_with_its_status(site: Site) -> None:
    use(site, "main")
    site.set_up()
    label = site.json("backup")["label"]
    pack = next(one for one in (site.repository / "clusters" / NAME / "packs").rglob("*") if one.is_file())
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    copy = ("repo", "copy", NAME, "--from", "main", "--to", AWAY, "--create")
    ended = site.run(*copy)
    assert ended.status == 16, ended
    assert pack.name in ended.out and label in ended.out
    use(site, AWAY)
    assert {one["state"] for one in site.json("list")["clusters"][0]["backups"]} == {"given up"}


def test_names_that_are_not_there_or_are_the_same_are_told(site: Site) -> None:
    use(site, "main")
    assert "Name two." in site.error("repo", "copy", NAME, "--from", "main", "--to", "main", status=2)["hint"]
    told = site.error("repo", "copy", NAME, "--from", "main", "--to", "nowhere", status=10)
    assert AWAY in told["hint"]


def test_only_a_directory_is_made_into_a_repository_in_passing(site: Site) -> None:
    site.write_config(f'[repository.{AWAY}]\nurl = "sftp://nobody@127.0.0.1:1/x"', repositories=["main"])
    site.set_up()
    told = site.error("repo", "copy", NAME, "--from", "main", "--to", AWAY, "--create", status=2)
    assert "pghaven init" in told["hint"]
