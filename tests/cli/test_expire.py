"""``pghaven expire``, ``hold`` and ``release``, without any server."""

from __future__ import annotations

import re

import pytest

from tests.cli.site import NAME, Site

ONE = {"PGHAVEN_CLUSTER__MAIN__RETENTION__COUNT": "1"}
ONE_AT_ONCE = {**ONE, "PGHAVEN_CLUSTER__MAIN__RETENTION__GRACE": "1ms"}


def labels(site: Site) -> dict[str, str]:
    """The state of each backup, oldest first."""
    (cluster,) = site.json("list", NAME)["clusters"]
    return {one["label"]: one["state"] for one in cluster["backups"]}


def fill_segments(site: Site, count: int) -> None:
    for number in range(count):
        site.cluster.sql(f"CREATE TABLE t{number}_{len(labels(site))} AS SELECT generate_series(1, 1000)")
        site.archive_all()


def test_a_backup_expires_is_brought_back_held_released_and_at_last_removed(site: Site) -> None:
    """From three backups to one, and what is left restores."""
    site.set_up()
    for _ in range(3):
        site.ok("backup")
        fill_segments(site, 2)
    old, middle, new = labels(site)

    shown = site.ok("expire", "--dry-run", environment=ONE)
    assert labels(site) == dict.fromkeys((old, middle, new), "complete")
    done = site.ok("expire", environment=ONE)
    title = "cluster main, repository main"
    assert until_seconds(shown.removeprefix(f"{title}: nothing is changed, this is what would be done")) == (
        until_seconds(done.removeprefix(title))
    )
    assert re.search(rf"{old} .* expired  +not the newest\n", done)
    assert re.search(rf"{new} .* kept  +the newest\n", done)
    assert labels(site) == {old: "retired", middle: "retired", new: "complete"}
    assert "retired, removed after" in site.ok("list")

    ended = site.run("expire", "--undo", middle, environment=ONE)
    assert (ended.status, ended.out) == (0, f"backup {middle} of main is back\n")
    assert "the next pghaven expire will expire it again: not the newest" in ended.err
    # Backups of one second share more of their labels than the time.
    beginnings = (old[:length] for length in range(16, len(old) + 1))
    beginning = next(text for text in beginnings if not any(one.startswith(text) for one in (middle, new)))
    text = site.ok("hold", beginning, "--reason", "for the auditors")
    assert re.fullmatch(rf"backup {old} of main is held since .*: for the auditors\n", text)
    assert re.search(rf"{old}  complete, held since .*: for the auditors", site.ok("list"))

    # So short a grace may be over before the run that expires it collects, or not until the next run.
    runs = [site.json("expire", environment=ONE_AT_ONCE)["results"][0] for _ in range(2)]
    (result,) = [one for one in runs if one["removed"]["labels"]]
    assert result["removed"]["labels"] == [{"label": middle, "reason": "not the newest"}]
    assert [one["verdict"] for one in result["backups"]] == ["kept", "removed", "kept"]
    (wal,) = result["wal"]
    assert len(wal["spans"]) == 1
    assert wal["files"]
    assert wal["freed_bytes"] > 0
    assert labels(site) == {old: "complete", new: "complete"}
    site.ok("verify")
    (status,) = site.json("status")["clusters"]
    assert [(one["gaps"], len(one["windows"])) for one in status["repositories"]] == [([], 2)]

    text = site.ok("release", old, environment=ONE)
    assert text == f"backup {old} of main is no longer held; it goes with the next pghaven expire: not the newest\n"
    for _ in range(2):
        site.ok("expire", environment=ONE_AT_ONCE)
    assert labels(site) == {new: "complete"}
    error = site.error("hold", old, status=10)
    assert error["message"] == f'there is no backup "{old}" of cluster "main"'
    with site.started():
        assert site.ask_restored("SELECT count(*) FROM pg_class WHERE relname ~ '^t[01]_'") == 6


def until_seconds(text: str) -> str:
    """The seconds between a dry run and a run are none of what it shows."""
    return re.sub(r"until .* this brings", "until … this brings", text)


def test_without_a_policy_nothing_expires_and_it_says_so(protected: Site) -> None:
    text = protected.ok("expire")
    assert text == (
        "cluster main, repository main\n"
        "  nothing expires: no retention policy is configured\n"
        "    HINT:  Add a section [cluster.main.retention] to the configuration.\n"
    )
    (result,) = protected.json("expire", "--dry-run")["results"]
    assert result["refusal"] == {"rule": "no-policy", "text": "no retention policy is configured"}
    assert (result["is_done"], result["expired"], result["removed"]) == (False, [], None)


def test_the_last_backup_stays_whatever_the_policy(protected: Site) -> None:
    environment = {"PGHAVEN_CLUSTER__MAIN__RETENTION__WINDOW": "1ms"}
    (result,) = protected.json("expire", environment=environment)["results"]
    (backup,) = result["backups"]
    assert (backup["verdict"], backup["is_kept"], result["expired"]) == ("kept", True, [])


@pytest.mark.parametrize("words", [("expire", "--undo"), ("release",)])
def test_what_is_neither_expired_nor_held_is_told(protected: Site, words: tuple[str, ...]) -> None:
    (label,) = labels(protected)
    status = 10 if words[0] == "expire" else 12
    message = f'there is no backup "{label}" of cluster "main"' if status == 10 else f'backup "{label}" is not held'
    assert protected.error(*words, label, status=status)["message"] == message


@pytest.mark.parametrize(
    "words", [("--undo", "x", "--dry-run"), ("--undo", "x", "--remove", "y"), ("--give-up", "x", "--remove", "y")]
)
def test_what_does_not_go_together_is_told(protected: Site, words: tuple[str, ...]) -> None:
    error = protected.error("expire", *words, status=2)
    message = "of --undo, --give-up, --mend and --remove only one can be given, and only --remove with --dry-run"
    assert error["message"] == message


def test_a_backup_is_removed_by_its_name_and_brought_back(site: Site) -> None:
    """The last one, which no policy takes; it goes at last without a policy."""
    site.set_up()
    site.ok("backup")
    site.archive_all()
    (label,) = labels(site)
    shown = site.ok("expire", "--remove", label, "--dry-run", "--reason", "wrong disk", environment=ONE)
    assert labels(site) == {label: "complete"}
    done = site.ok("expire", "--remove", label, "--reason", "wrong disk", environment=ONE)
    assert until_seconds(done) == until_seconds(shown.replace("would be expired", "is expired"))
    assert f"backup {label} of main is expired by hand\n  the policy keeps it: the newest\n" in done
    assert "what is lost: it is the last backup of system" in done
    assert labels(site) == {label: "retired"}
    site.ok("expire", "--undo", label)
    removed = site.json("expire", "--remove", label, environment={"PGHAVEN_CLUSTER__MAIN__RETENTION__GRACE": "1ms"})
    (removal,) = removed["removals"]
    assert (removal["repository"], removal["removal"]["label"], removal["removal"]["is_done"]) == ("main", label, True)
    text = site.ok("expire")
    assert "nothing but what was expired by hand expires: no retention policy is configured\n" in text
    assert labels(site) == {}


def test_a_cluster_nobody_has_registered_is_not_found(site: Site) -> None:
    site.write_config()
    site.ok("init", NAME)
    site.write_config(text='[cluster.other]\ndata_directory = "/nowhere"\n')
    error = site.error("expire", "other", status=10, environment={"PGHAVEN_CLUSTER__OTHER__RETENTION__COUNT": "1"})
    assert error["message"] == f'cluster "other" is not registered in repository {site.url}'


def test_a_backup_of_which_nothing_can_be_read_is_given_up_with_the_command_that_expire_names(site: Site) -> None:
    site.set_up()
    site.ok("backup")
    site.archive_all()
    (old,) = labels(site)
    site.ok("backup")
    site.archive_all()
    for part in ("manifest", "decision"):
        path = site.repository / "clusters" / NAME / "backups" / old / part
        path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    ended = site.run("expire", environment=ONE)
    assert ended.status == 16
    assert f"pghaven expire {NAME} --give-up {old}" in ended.out
    text = site.ok("expire", NAME, "--give-up", old)
    assert text.startswith(f"backup {old} of {NAME} is given up")
    assert old not in labels(site)
    site.ok("expire", environment=ONE)
    assert not (site.repository / "clusters" / NAME / "backups" / old).exists()
