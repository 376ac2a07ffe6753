"""A repository behind an SFTP server, from nothing to a restored server, as users type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.journey import live_through
from tests.cli.site import NAME, Site
from tests.support.places import own
from tests.support.sftpserver import SftpServer, running_server


def use_server(site: Site, server: SftpServer, directory: Path, **options: str) -> None:
    """Have the site's repository behind a server."""
    site.url = server.url(directory)
    site.write_config()
    ssh = {
        "identity_file": str(server.identity),
        "known_hosts_file": str(server.known_hosts),
        "ssh_config_file": "/dev/null",
        **options,
    }
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in ssh.items())
    site.config.write_text(site.config.read_text().replace("\n\n", f"\n{lines}\n", 1))
    own(site.config)


@pytest.mark.pg
def test_from_init_to_a_restored_server(site: Site, sftp_server: SftpServer) -> None:
    directory = sftp_server.make_directory() / "new" / "repository"
    use_server(site, sftp_server, directory)
    site.ok("init", NAME, "--apply", "--no-encryption")
    assert (directory / "pghaven.json").exists()
    live_through(site)


@pytest.mark.pg
def test_wal_waits_for_a_server_that_is_away_and_nothing_is_lost(site: Site) -> None:
    with running_server() as server:
        use_server(site, server, server.make_directory())
        site.set_up()
        server.stop()
        segment = site.cluster.switch_wal()
        failed = site.error("list", status=14)
        assert "Connection refused" in failed["message"]
        assert "Try it by hand: ssh " in failed["hint"]
        server.start()
        site.cluster.wait_archived(segment)
        assert site.json("list")


def test_a_host_key_that_is_not_known_is_told_with_the_command(site: Site, sftp_server: SftpServer) -> None:
    empty = site.place / "known_hosts"
    empty.write_text("")
    own(empty)
    use_server(site, sftp_server, sftp_server.make_directory(), known_hosts_file=str(empty))
    failed = site.error("init", NAME, "--no-encryption", status=13)
    assert "host key is not known" in failed["message"]
    assert f"-p {sftp_server.port}" in failed["hint"]
    assert empty.read_text() == ""


def test_what_is_for_other_stores_is_told_at_its_line(site: Site, sftp_server: SftpServer) -> None:
    use_server(site, sftp_server, sftp_server.make_directory(), region="eu")
    failed = site.error("list", status=2)
    assert '"region"' in failed["detail"]
