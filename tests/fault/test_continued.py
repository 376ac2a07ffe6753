"""Backups that were killed, and the ones after them: these go on from what was stored, as far as it proves itself."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pghaven.repository.container import FOOTER_BYTES
from pghaven.repository.entry import BackupState
from pghaven.repository.manifest import BackupFacts
from pghaven.repository.pack import PackRef
from tests.cli.running import clean_environment
from tests.support.commands import PghavenCommand
from tests.support.fixtures import ClusterFactory
from tests.support.protected import Protected
from tests.support.twins import assert_holds_all, assert_twin_of_full


@pytest.fixture
def site(make_cluster: ClusterFactory, pghaven_command: PghavenCommand, server_path: Path) -> Protected:
    summarizing = {"summarize_wal": "on"} if make_cluster.version >= 17 else {}
    made = Protected(make_cluster(conf={"autovacuum": "off", **summarizing}), pghaven_command, server_path)
    made.cluster.sql("CREATE TABLE t (i int, body text) WITH (fillfactor = 50)")
    made.cluster.sql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 40000) i")
    made.cluster.sql("VACUUM t")
    return made


def words_of(site: Protected, *words: str) -> list[str]:
    program = [sys.executable, "-m", "pghaven.cli.main", "--config", str(site.config), "--verbose"]
    return [*program, "backup", *words]


def back_up(site: Protected, *words: str) -> tuple[dict[str, Any], str]:
    """By the command line; what it gives, and what it says on the way."""
    command = [*words_of(site, *words), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), cwd="/", timeout=120)
    assert ended.returncode == 0, ended.stderr
    body: dict[str, Any] = json.loads(ended.stdout)
    return body, ended.stderr


def kill_when(site: Protected, said: str, *words: str, delay_seconds: float = 0) -> str | None:
    """A backup that is killed when it has said something, and maybe a while later; it never gets its WAL.

    Gives its label, if it came as far as having one.
    """
    before = {entry.label for entry in site.catalog.list_entries()}
    cluster = site.cluster
    cluster.append_conf(archive_command="false")
    cluster.reload()
    with subprocess.Popen(
        words_of(site, *words),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=clean_environment(),
        cwd="/",
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if said in line:
                break
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay_seconds)
        process.kill()
    cluster.append_conf(archive_command=site.archive_command())
    cluster.reload()
    cluster.wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'pghaven%%'")
    new = [entry for entry in site.catalog.list_entries() if entry.label not in before]
    assert {entry.state for entry in new} <= {BackupState.UNDECIDED}
    return new[-1].label if new else None


def kill_at_the_end(site: Protected, *words: str) -> str:
    """All its packs are stored then."""
    killed = kill_when(site, "stopping the backup", *words)
    assert killed is not None
    return killed


def packs_of(site: Protected, label: str) -> list[Path]:
    home = site.repository_directory / "clusters" / site.name / "packs" / label
    return sorted(path for path in home.rglob("*") if path.is_file())


def size_of(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def facts_of(site: Protected, label: str) -> BackupFacts:
    return site.catalog.load_manifest(site.catalog.find_entry(label)).facts


def test_full_backup_goes_on_from_what_a_killed_one_has_stored(site: Protected, make_cluster: ClusterFactory) -> None:
    killed = kill_at_the_end(site)
    stored = size_of(packs_of(site, killed))
    # One row, because a frame of the table in which anything has changed is stored whole.
    site.cluster.sql("UPDATE t SET body = 'since' WHERE i = 1")
    body, said = back_up(site)
    assert "going on from what interrupted backups have stored" in said
    assert killed in said
    assert body["changes"] == "full"
    assert body["stored_bytes"] < stored / 4
    assert body["reused_bytes"] > body["total_bytes"] / 2
    assert_twin_of_full(site, facts_of(site, body["label"]), make_cluster)
    # That one was finished, so it is a parent, and nobody looks further back.
    _, said = back_up(site)
    assert "going on from" not in said


def test_incremental_backup_goes_on_page_by_page(site: Protected, make_cluster: ClusterFactory) -> None:
    """Changed pages of many files share frames, and never the same pages the same frame again."""
    cluster = site.cluster
    site.backup()
    for method in ("lsn", "summaries") if cluster.version >= 17 else ("lsn",):
        cluster.sql("UPDATE t SET body = md5(body) WHERE i % 3 = 1")
        cluster.sql("VACUUM t")  # or the next reading would set hints on all these pages
        killed = kill_at_the_end(site, "--changes", method)
        stored = size_of(packs_of(site, killed))
        cluster.sql("UPDATE t SET body = 'since' WHERE i % 4000 = 2")
        body, said = back_up(site, "--changes", method)
        assert killed in said
        assert body["changes"] == method
        assert body["stored_bytes"] < stored / 4
        assert_holds_all(site, facts_of(site, body["label"]))


def test_packs_of_several_killed_backups_are_used_together(site: Protected) -> None:
    killed = [kill_at_the_end(site)]
    site.cluster.sql("CREATE TABLE more AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
    killed.append(kill_at_the_end(site))
    first, second = (size_of(packs_of(site, label)) for label in killed)
    assert second < first / 2
    body, said = back_up(site)
    assert all(label in said for label in killed)
    assert body["stored_bytes"] < (first + second) / 4
    assert {pack.label for pack in packs_named(site, body["label"])} == {*killed, body["label"]}
    assert_holds_all(site, facts_of(site, body["label"]))


def packs_named(site: Protected, label: str) -> Sequence[PackRef]:
    return site.catalog.load_manifest(site.catalog.find_entry(label)).packs


@pytest.mark.parametrize("how", ["index", "footer", "cut", "swap", "empty"])
def test_pack_whose_index_proves_nothing_is_passed_over(site: Protected, how: str) -> None:
    killed = [kill_at_the_end(site)]
    site.cluster.sql("CREATE TABLE more AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
    killed.append(kill_at_the_end(site))
    packs = [pack for label in killed for pack in packs_of(site, label)]
    contents = [bytearray(pack.read_bytes()) for pack in packs]
    if how == "swap":
        contents = contents[1:] + contents[:1]
    for pack, content in zip(packs, contents, strict=True):
        if how == "empty":
            content.clear()
        elif how == "cut":
            del content[-100:]
        elif how != "swap":
            content[-12 if how == "footer" else -FOOTER_BYTES - 20] ^= 1
        pack.chmod(0o640)
        pack.write_bytes(content)
    body, said = back_up(site)
    assert "going on from" not in said
    assert body["reused_bytes"] == 0
    assert {pack.label for pack in packs_named(site, body["label"])} == {body["label"]}
    assert_holds_all(site, facts_of(site, body["label"]))


@pytest.mark.slow
def test_backups_killed_at_random_moments_leave_nothing_wrong(
    seed: int, site: Protected, make_cluster: ClusterFactory
) -> None:
    """Again and again, until one gets through; what it comes to refer to is right whoever stored it."""
    chance = random.Random(seed)
    cluster = site.cluster
    for number in range(8):
        cluster.sql(f"UPDATE t SET body = md5(body) WHERE i % {chance.randint(2, 50)} = 1")
        for _ in range(chance.randint(1, 3)):
            step = chance.choice(["starting backup", "reading ", "stopping the backup"])
            kill_when(site, step, delay_seconds=chance.uniform(0, 0.5))
            cluster.sql(f"UPDATE t SET body = 'since' WHERE i % {chance.randint(500, 5000)} = 1")
        body, _ = back_up(site, *(["--full"] if number % 3 == 0 else []))
        assert_holds_all(site, facts_of(site, body["label"]))
    assert_twin_of_full(site, facts_of(site, body["label"]), make_cluster)
