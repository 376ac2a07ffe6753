"""A cluster with two repositories: what each command does when one of them is lost, down or damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cli.site import NAME, Site

AWAY = "away"


def use_both(site: Site) -> Path:
    """Have the cluster kept in two repositories; gives the second one's directory."""
    away = site.place / AWAY
    site.write_config(f"[repository.{AWAY}]\nurl = {json.dumps(f'file://{away}')}", repositories=["main", AWAY])
    site.set_up()
    return away


def copy(site: Site) -> None:
    site.ok("repo", "copy", NAME, "--from", "main", "--to", AWAY)


def damage_pack(repository: Path) -> str:
    """Change a byte of the first frame of the largest pack."""
    packs = [one for one in (repository / "clusters" / NAME / "packs").rglob("*") if one.is_file()]
    pack = max(packs, key=lambda one: one.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[40] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    return pack.name


def test_a_restore_takes_from_what_is_left_and_goes_on_when_that_is_damaged(site: Site) -> None:
    use_both(site)
    site.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS i")
    label = site.json("backup", "--repository", "main")["label"]
    copy(site)
    site.cluster.sql("INSERT INTO t SELECT generate_series(10001, 20000)")
    site.archive_all()
    site.cluster.stop()

    pack = damage_pack(site.repository)
    ended = site.run("restore", NAME, "--target-dir", str(site.target), "--start")
    try:
        assert ended.status == 3, ended
        assert f'the restore goes on from "{AWAY}"' in ended.err
        assert pack in ended.err
        assert f"main: has backup {label}" in ended.out
        assert site.ask_restored("SELECT count(*) FROM t") == 20000
    finally:
        site.remove_target()

    shutil.rmtree(site.repository)
    restore = ("restore", NAME, "--target-dir", str(site.target))
    try:
        shown = site.json(*restore, "--start", status=3)
        assert shown["recovery"]["state"] == "open"
        assert shown["plan"]["repository"] == AWAY
        chosen = {one["name"]: one["is_chosen"] for one in shown["plan"]["repositories"]}
        assert chosen == {"main": False, AWAY: True}
        assert site.ask_restored("SELECT count(*) FROM t") == 20000
    finally:
        site.remove_target()
    assert "mounted" in site.error(*restore, "--repository", "main", status=14)["hint"]


def test_lists_and_checks_go_on_without_a_repository_and_name_it(site: Site) -> None:
    use_both(site)
    label = site.json("backup", "--repository", "main")["label"]
    copy(site)
    assert [one["repository"] for one in site.json("list")["clusters"]] == ["main", AWAY]
    segment = site.archive_all()
    assert [one["repository"] for one in site.json("wal", "list")["archives"]] == ["main", AWAY]
    site.cluster.stop()
    shutil.rmtree(site.repository)
    shown = site.json("list", status=3)
    assert [one["repository"] for one in shown["clusters"]] == [AWAY]
    assert shown["clusters"][0]["backups"][0]["label"].startswith(label)
    assert "main" in shown["notices"][0]["text"]
    ended = site.run("wal", "list")
    assert ended.status == 3
    assert 'warning: repository "main" is left out: ' in ended.err
    shown = site.json("wal", "list", status=3)
    (archive,) = shown["archives"]
    assert archive["repository"] == AWAY
    # It goes on to the segment that the server finished when it stopped, if that came in time.
    held = [one for line in archive["timelines"] for one in line["ranges"]]
    assert any(one["first_segment"] <= segment <= one["last_segment"] for one in held)
    assert [one["code"] for one in shown["notices"]] == ["repository_failed"]
    for words in (("verify",), ("expire", "--dry-run")):
        shown = site.json(*words, status=3)
        assert [one["repository"] for one in shown["results"]] == [AWAY]
        assert "main" in shown["notices"][0]["text"]
        assert site.error(*words, "--repository", "main", status=14)["message"]
    shown = site.json("repo", "info", status=3)
    assert [one["repository"] for one in shown["repositories"]] == [AWAY]
    assert "main" in shown["notices"][0]["text"]
    states = site.json("status", status=3)["clusters"][0]["repositories"]
    assert [one["reachable"] for one in states] == [False, True]


def test_the_status_says_what_all_of_them_do_together_and_what_each_lacks(site: Site) -> None:
    away = use_both(site)
    first = site.json("backup")["label"]
    site.archive_all()
    (found,) = site.json("status")["clusters"]
    assert found["overall"]["lacks"] == []

    hidden = away.rename(site.place / "hidden")
    second = site.json("backup", status=3)["label"]
    site.cluster.stop()
    hidden.rename(away)
    (found,) = site.json("status", status=3)["clusters"]
    assert found["overall"]["end_in"] == "main"
    (lack,) = found["overall"]["lacks"]
    assert (lack["repository"], lack["backups"]) == (AWAY, [second])
    assert lack["wal_bytes"] > 0  # the backup waited for its own
    text = site.run("status").out
    assert f"not in {AWAY}:" in text and first not in text.partition("all repositories")[2], text

    shutil.rmtree(site.repository)
    (found,) = site.json("status", status=3)["clusters"]
    assert (found["overall"]["end_in"], found["overall"]["lacks"]) == (AWAY, [])
    shutil.rmtree(away)
    (found,) = site.json("status", status=3)["clusters"]
    assert found["overall"] is None
    assert "all repositories:  nothing can be restored" in site.run("status").out


def test_a_backup_goes_to_both_and_what_one_has_missed_is_made_up(site: Site) -> None:
    away = use_both(site)
    first = site.json("backup")
    assert [one["repository"] for one in first["repositories"]] == ["main", AWAY]
    assert first["repositories"][1]["label"].startswith(f"{first['label']}-")

    hidden = away.rename(site.place / "hidden")
    site.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
    second = site.json("backup", status=3)
    assert second["repositories"][1]["label"] is None
    (told,) = [one for one in second["notices"] if one["code"] == "repository_failed"]
    assert AWAY in told["text"] and "repo copy" in told["hint"]

    hidden.rename(away)
    third = site.json("backup")
    assert third["repositories"][1]["made_up"] == [second["label"]]
    lists = {one["repository"]: one["backups"] for one in site.json("list")["clusters"]}
    assert [one["state"] for one in lists["main"]] == [one["state"] for one in lists[AWAY]] == ["complete"] * 3
    assert not any(one["is_damaged"] for one in site.json("verify")["results"])

    hidden = site.repository.rename(site.place / "hidden")
    fourth = site.json("backup", status=3)
    assert [one["label"] for one in fourth["repositories"]] == [None, fourth["label"]]
    assert fourth["changes"] != "full"  # a copy is a parent like any backup
    hidden.rename(site.repository)

    fifth = site.json("backup")
    assert fifth["repositories"][0]["made_up"] == [fourth["label"]], "the first one gets what it has missed too"
    assert not fifth["repositories"][1]["made_up"]
    lists = {one["repository"]: one["backups"] for one in site.json("list")["clusters"]}
    assert [len(lists[name]) for name in ("main", AWAY)] == [5, 5]
    assert [one["made_up"] for one in site.json("backup")["repositories"]] == [[], []]


def test_a_backup_is_expired_by_name_and_brought_back_in_every_repository_that_has_it(site: Site) -> None:
    use_both(site)
    label = site.json("backup")["label"]
    only = site.json("backup", "--repository", "main")["label"]
    copied = {one["repository"]: one["backups"][0]["label"] for one in site.json("list")["clusters"]}
    assert copied[AWAY] != copied["main"] == label

    def states() -> dict[str, list[str]]:
        return {one["repository"]: [two["state"] for two in one["backups"]] for one in site.json("list")["clusters"]}

    shown = site.ok("expire", "--remove", copied[AWAY], "--dry-run")
    assert f"backup {label} of main in repository main would be expired by hand\n" in shown
    assert f"backup {copied[AWAY]} of main in repository {AWAY} would be expired by hand\n" in shown
    assert states() == {"main": ["complete"] * 2, AWAY: ["complete"]}
    site.ok("hold", copied[AWAY], "--repository", AWAY)
    assert "is held since" in site.error("expire", "--remove", label, status=12)["message"]
    assert states()["main"] == ["complete"] * 2
    site.ok("release", copied[AWAY], "--repository", AWAY)

    removed = site.json("expire", "--remove", label)
    assert [one["repository"] for one in removed["removals"]] == ["main", AWAY]
    assert states() == {"main": ["retired", "complete"], AWAY: ["retired"]}
    assert [one["repository"] for one in site.json("expire", "--undo", label)["undone"]] == ["main", AWAY]
    alone = site.json("expire", "--remove", only)
    assert [one["repository"] for one in alone["removals"]] == ["main"]
    assert [one["text"] for one in alone["notices"] if one["code"] == "not_there"] == [
        f'repository "{AWAY}" has no committed backup or dump of that label, nor a copy of it'
    ]
