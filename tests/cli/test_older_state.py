"""A repository that is put back to an earlier state, and what the host that has seen a later one says of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pghaven.errors import CheckFailed, Refused
from tests.cli.site import NAME, Site
from tests.cli.test_keys import make_sealed

ONE_AT_ONCE = {"PGHAVEN_CLUSTER__MAIN__RETENTION__COUNT": "1", "PGHAVEN_CLUSTER__MAIN__RETENTION__GRACE": "1ms"}
REFUSED = Refused.exit_status


def keep_copy(site: Site) -> Path:
    """The repository as it is now, as a snapshot would have it."""
    snapshot = site.place / "snapshot"
    subprocess.run(["cp", "-a", site.repository, snapshot], check=True)
    return snapshot


def put_back(site: Site, snapshot: Path) -> None:
    shutil.rmtree(site.repository)
    snapshot.rename(site.repository)


def test_an_older_state_is_told_and_nothing_expires_until_it_is_accepted(site: Site) -> None:
    site.set_up()
    for _ in range(2):
        site.ok("backup")
        site.archive_all()
    snapshot = keep_copy(site)
    newest = site.json("backup")["label"]
    site.archive_all()
    for _ in range(2):
        site.ok("expire", environment=ONE_AT_ONCE)
    assert site.json("status")["clusters"][0]["problems"] == []

    put_back(site, snapshot)
    (problem,) = [one for one in site.json("status", status=3)["clusters"][0]["problems"] if "older" in one["text"]]
    assert problem["level"] == "critical" and "pghaven repo accept main" in problem["hint"]
    assert "its collections count to 0, and had come to 2" in problem["text"]
    assert f'backup "{newest}" is not there, and nothing was collected since it was' in problem["text"]
    assert "it does not know that WAL of timeline 1 before" in problem["text"]
    assert "older state" in site.check(status=CheckFailed.exit_status)["repository"][1]
    assert site.error("expire", status=REFUSED, environment=ONE_AT_ONCE)["message"].startswith("nothing was expired: ")
    planned = site.json("restore", NAME, "--target-dir", str(site.target), "--dry-run", status=3)
    assert "older_state" in [one["code"] for one in planned["notices"]]

    shown = site.error("repo", "accept", "main", status=REFUSED)
    assert newest in shown["message"] and "repo accept main --yes" in shown["hint"]
    assert "no longer expected: of cluster" in site.ok("repo", "accept", "main", "--yes")
    assert "older state" not in site.run("status").out
    site.ok("backup")
    site.ok("expire", environment=ONE_AT_ONCE)


def test_keys_in_an_older_state_open_nothing_until_they_are_accepted(site: Site) -> None:
    make_sealed(site)
    snapshot = keep_copy(site)
    site.ok("repo", "key", "rotate")
    put_back(site, snapshot)
    error = site.error("list", status=REFUSED)
    assert "the keys of the repository" in error["message"]
    assert "are set 1, but this host has seen set 2" in error["message"]
    assert site.error("repo", "key", "rotate", status=REFUSED)["message"] == error["message"]
    assert "its keys are set 1" in site.ok("repo", "accept", "main", "--yes")
    site.ok("list")
