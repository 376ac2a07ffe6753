"""``pghaven repo copy``: a second repository, and a restore from it when the first one is lost."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.cli.site import NAME, Site
from tests.cli.test_object_store import render_options
from tests.support.fixtures import ObjectServerFactory
from tests.support.places import own

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


@pytest.mark.pg
def test_a_directory_is_copied_to_a_sealed_object_store_and_lost(
    site: Site, object_server: ObjectServerFactory
) -> None:
    settings = object_server("seaweedfs").settings()
    key, apart = site.place / "away.key", site.place / "apart" / "recovery.key"

    def use_store(*names: str) -> None:
        section = f"[repository.{AWAY}]\nurl = {json.dumps(settings.url)}\n"
        site.write_config(section + render_options(settings, key_file=str(key)), repositories=[*names])

    use_store("main")
    site.set_up()
    site.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS i")
    label = site.json("backup")["label"]
    site.archive_all()
    copy = ("repo", "copy", NAME, "--from", "main", "--to", AWAY)
    assert site.error(*copy, status=10)["hint"].endswith(f"run pghaven init {NAME}.")

    use_store("main", AWAY)
    ended = site.run("init", NAME, "--apply", "--recovery-copy", str(apart))
    assert ended.status == 3, ended  # the recovery copy is in the same file system
    assert "created and sealed" in ended.out
    use_store("main")
    (first,) = site.json(*copy)["backups"]
    assert (first["label"], first["fate"]) == (label, "copied")

    site.cluster.sql("UPDATE t SET i = i + 1 WHERE i % 1000 = 0")
    second = site.json("backup")["label"]
    site.cluster.sql("INSERT INTO t VALUES (-1)")
    site.archive_all()
    again = site.json(*copy)
    assert [one["fate"] for one in again["backups"]] == ["there already", "copied"]
    assert again["backups"][1]["label"] == second
    assert again["backups"][1]["copied_bytes"] < first["copied_bytes"] / 2
    assert again["wal"]["copied"] > 0
    total = site.cluster.value("SELECT sum(i) FROM t")

    site.cluster.stop()  # and with its host go the directory and the key that was there
    shutil.rmtree(site.repository)
    key.unlink()
    use_store(AWAY)
    restore = ("restore", NAME, "--target-dir", str(site.target))
    assert str(key) in site.error(*restore, status=13)["message"]
    shutil.copy(apart, key)
    own(key)
    assert site.json("verify")["results"][0]["is_damaged"] is False
    with site.started() as shown:
        assert shown["plan"]["backup"] == again["backups"][1]["copy"]
        assert site.ask_restored("SELECT sum(i) FROM t") == total


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
