"""``pghaven list``: the backups there are, without any server."""

from __future__ import annotations

from tests.cli.site import NAME, Site


def test_before_the_first_backup_the_list_says_how_to_take_one(site: Site) -> None:
    site.write_config()
    site.ok("init", NAME)
    assert site.ok("list") == "no backups yet; take one: pghaven backup main\n"
    empty: dict[str, list[str]] = {"backups": [], "dumps": [], "snapshots": []}
    assert site.json("list")["clusters"] == [{"cluster": "main", "repository": "main", **empty}]


def test_a_backup_is_one_line_under_its_titles(protected: Site) -> None:
    titles, first, *_ = protected.ok("list", NAME).splitlines()
    assert titles.split() == [
        *("backup", "state", "started", "took", "size", "stored", "changes", "timeline", "start", "LSN", "stop", "LSN"),
        *("from", "bad", "pages", "verified", "drilled"),
    ]
    assert first.split()[1] == "complete"
    assert first.split()[-4:] == ["primary", "0", "never", "never"]


def test_the_list_needs_no_server(protected: Site) -> None:
    environment = {"PGHAVEN_CLUSTER__MAIN__CONNINFO": "host=/nonexistent"}
    (cluster,) = protected.json("list", environment=environment)["clusters"]
    (backup, *_) = cluster["backups"]
    assert backup["state"] == "complete"
    assert backup["started_at"] < backup["stopped_at"]
    assert backup["reason"] is None


def test_a_cluster_nobody_has_registered_is_not_found(protected: Site) -> None:
    before = protected.config.read_text()
    protected.config.write_text(before + '\n[cluster.other]\ndata_directory = "/nowhere"\n')
    error = protected.error("list", "other", status=10)
    protected.config.write_text(before)
    assert error["message"] == f'cluster "other" is not registered in repository {protected.url}'
    assert error["hint"] == "Register it with: pghaven init other"


def test_a_cluster_that_is_not_configured_is_not_found(protected: Site) -> None:
    assert protected.error("list", "nobody", status=10)["code"] == "not_found"


def test_a_repository_that_is_away_is_told(protected: Site) -> None:
    environment = {"PGHAVEN_REPOSITORY__MAIN__URL": "file:///nonexistent/place"}
    error = protected.error("list", status=14, environment=environment)
    assert error["message"].startswith("could not open file:///nonexistent/place")
    assert "Is its file system mounted?" in error["hint"]
