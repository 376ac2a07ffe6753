"""The contract of the hooks: what Patroni passes, what their exit statuses say, how long they take."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ha.called import PATRONI_ENVIRONMENT, call_hook, replica_words
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.places import copy_tree, own
from tests.support.protected import Protected
from tests.support.waiting import PATIENCE_SECONDS, wait_until


class Shop(Protected):
    """A primary with a backup, and the configuration of a second member of the cluster."""

    def __init__(self, cluster: TestCluster, command: PghavenCommand, place: Path) -> None:
        super().__init__(cluster, command, place)
        self.member = place / "member"
        self.member_config = place / "member.toml"
        self.write_member_config()

    def write_member_config(self, url: str | None = None) -> None:
        self.member_config.write_text(
            f'[repository.main]\nurl = "{url or self.url}"\n\n[cluster.main]\ndata_directory = "{self.member}"\n'
            f'state_directory = "{self.place}/state"\n'
        )
        own(self.member_config)

    def fill(self) -> None:
        self.cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i")
        self.backup()
        self.cluster.sql("INSERT INTO t SELECT i FROM generate_series(1001, 2000) i")
        self.settle()

    def start_member(self, make_cluster: ClusterFactory) -> TestCluster:
        member = make_cluster.adopt(self.member)
        member.append_conf(unix_socket_directories=str(member.socket_directory))
        member.start({"primary_conninfo": self.cluster.conninfo})
        return member


@pytest.fixture
def shop(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Shop:
    return Shop(make_cluster(), pghaven_command, server_path)


@pytest.fixture
def marked(shop: Shop) -> Iterator[Shop]:
    """With a directory of the same cluster in the member's place, and a mark by which it is known."""
    shop.fill()
    copy_tree(shop.cluster.data_directory, shop.member)
    for name in ("postmaster.pid", "postmaster.opts"):
        (shop.member / name).unlink(missing_ok=True)
    yield shop


def test_a_replica_is_built_with_whatever_words_patroni_appends(shop: Shop, make_cluster: ClusterFactory) -> None:
    shop.fill()
    done = call_hook(shop.command, shop.member_config, [*replica_words(shop.member), "--a_later_key=x"])
    assert done.returncode == 0, done.stderr
    assert "db1: restored backup" in done.stderr
    member = shop.start_member(make_cluster)
    member.wait_for("SELECT count(*) = 2000 FROM t")
    assert member.value("SELECT pg_is_in_recovery()")
    assert member.value("SHOW archive_mode") == "on"


def test_a_replica_keeps_what_is_there_and_the_same(marked: Shop, make_cluster: ClusterFactory) -> None:
    done = call_hook(marked.command, marked.member_config, replica_words(marked.member))
    assert done.returncode == 0, done.stderr
    assert " 0 B were there" not in done.stderr
    marked.start_member(make_cluster).wait_for("SELECT count(*) = 2000 FROM t")


def test_a_replica_waits_for_its_repository_and_its_directory_is_still_there(marked: Shop) -> None:
    """Patroni removes the directory when the hook fails, so an outage must not make it fail."""
    away = marked.repository_directory.with_name("away")
    marked.repository_directory.rename(away)
    line = [*marked.command.words, "--config", str(marked.member_config), "ha", "hook", *replica_words(marked.member)]
    log = marked.place / "hook.log"
    import subprocess

    from tests.support.places import child_identity, plain_user

    with log.open("wb") as out:
        process = subprocess.Popen(
            line, stderr=out, stdout=out, stdin=subprocess.DEVNULL, **child_identity(plain_user())
        )
    try:
        wait_until(lambda: "trying again" in log.read_text(), "the first failure")
        assert process.poll() is None
        assert (marked.member / "PG_VERSION").exists()
        away.rename(marked.repository_directory)
        assert process.wait(PATIENCE_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_configuration_that_is_wrong_is_waited_for_until_somebody_mends_it(marked: Shop) -> None:
    words = replica_words(marked.member)
    marked.member_config.write_text("[cluster.main]\nnonsense = 1\n")
    began = time.monotonic()
    done = call_hook(marked.command, marked.member_config, [*words[:4], "--patience", "2s", *words[4:]])
    assert done.returncode == 2
    assert time.monotonic() - began >= 2
    assert "trying again" in done.stderr


def test_what_cannot_pass_fails_at_once_and_loses_no_wal(shop: Shop) -> None:
    """Without any backup the next method has its turn; Patroni removes the directory, and its WAL lies beside it."""
    shop.cluster.append_conf(archive_command="false")
    shop.cluster.reload()
    unarchived = shop.cluster.switch_wal()
    shop.cluster.stop()
    copy_tree(shop.cluster.data_directory, shop.member)
    done = call_hook(shop.command, shop.member_config, replica_words(shop.member))
    assert done.returncode == 10, done.stderr
    shutil.rmtree(shop.member)  # as Patroni does
    (kept,) = shop.place.glob("member.pg_wal-*")
    assert (kept / unarchived).exists()


def test_a_replica_of_another_directory_is_refused(marked: Shop) -> None:
    done = call_hook(marked.command, marked.member_config, replica_words(marked.place / "elsewhere"))
    assert done.returncode == 2
    assert "data_directory" in done.stderr
    assert (marked.member / "global" / "pg_control").exists()


def test_a_first_member_is_made_of_a_backup_and_promotes_itself_at_its_target(
    shop: Shop, make_cluster: ClusterFactory
) -> None:
    """With keep_existing_recovery_conf Patroni starts what the hook leaves, and waits until it is a primary."""
    shop.cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i")
    shop.backup()
    lsn = str(shop.cluster.value("SELECT pg_current_wal_insert_lsn()"))
    shop.cluster.sql("INSERT INTO t SELECT i FROM generate_series(1001, 2000) i")
    shop.settle()
    words = ["bootstrap", "main", "--node", "db1", "--target-lsn", lsn]
    appended = ["--scope=shop", f"--datadir={shop.member}"]
    beyond = [*words[:-1], "F/0", *appended]
    assert call_hook(shop.command, shop.member_config, beyond).returncode not in (0, 2)
    assert not shop.member.exists()

    done = call_hook(shop.command, shop.member_config, [*words, *appended])
    assert done.returncode == 0, done.stderr
    member = make_cluster.adopt(shop.member)
    member.append_conf(unix_socket_directories=str(member.socket_directory))
    member.start()
    member.wait_for("SELECT NOT pg_is_in_recovery()")
    assert member.value("SELECT count(*) FROM t") == 1000
    assert member.value("SHOW archive_mode") == "off"  # a copy, until --archive says that it takes the original's place


def test_what_libpq_reads_never_reaches_a_hook(shop: Shop, make_cluster: ClusterFactory) -> None:
    """An inherited PGHOST or PGPASSWORD goes before what the configuration says."""
    assert {"PGPASSWORD", "PGHOST"} <= set(PATRONI_ENVIRONMENT)
    before = shop.cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
    words = ["role-change", "main", "--node", "db1", "on_role_change", "primary", "shop"]
    config = shop.config
    config.write_text(config.read_text().replace(f"host={shop.cluster.socket_directory} ", ""))
    done = call_hook(shop.command, config, words)  # asks libpq's default place: nobody is there
    assert done.returncode == 0
    assert '"::1"' not in done.stderr
    assert shop.cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())") == before


@pytest.mark.parametrize("words", [("on_role_change", "replica", "shop"), ("on_start", "primary", "shop"), ("x",), ()])
def test_a_callback_that_promotes_nobody_does_nothing(shop: Shop, words: tuple[str, ...]) -> None:
    done = call_hook(shop.command, shop.config, ["role-change", "main", "--node", "db1", *words])
    assert done.returncode == 0, done.stderr
    assert "first segment" not in done.stderr


def test_a_new_primary_ends_its_first_segment(shop: Shop) -> None:
    shop.cluster.sql("SELECT pg_switch_wal()")
    words = ["role-change", "main", "--node", "db1", "on_role_change", "primary", "shop"]
    done = call_hook(shop.command, shop.config, words)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "first segment" in line]
    name = line.split(": ")[-1].split()[0]
    wait_until(lambda: shop.archive.exists(name), f"{name} in the archive")


def test_before_a_promotion_nothing_can_hold_it_up(shop: Shop) -> None:
    """A store that hangs, no configuration at all, no data directory: 0, and it ends."""
    shop.fill()
    pipe = shop.place / "pipe"
    os.mkfifo(pipe)
    descriptor = shop.repository_directory / "pghaven.json"
    found = descriptor if descriptor.exists() else next(p for p in shop.repository_directory.iterdir() if p.is_file())
    found.unlink()
    os.mkfifo(found)
    own(found)
    for config in (shop.config, shop.place / "missing.toml", shop.member_config):
        words = ["pre-promote", "main", "--node", "db1", "--limit", "1s"]
        done = call_hook(shop.command, config, words, timeout=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stderr
