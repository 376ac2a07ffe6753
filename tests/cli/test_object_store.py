"""A repository in an object store, from nothing to a restored server, as users type it."""

from __future__ import annotations

import itertools
import json
import signal

import pytest

from pghaven.store.open import open_store
from pghaven.store.settings import StoreSettings
from tests.cli.journey import live_through
from tests.cli.site import NAME, Site
from tests.support.fixtures import ObjectServerFactory
from tests.support.httpproxy import Fault, proxying
from tests.support.moving import iter_command_lines
from tests.support.objectservers import SECRET_KEY, ObjectServer
from tests.support.places import own
from tests.support.waiting import PATIENCE_SECONDS

OPTIONS = ("endpoint", "region", "credentials_file", "ca_file")


@pytest.fixture
def server(object_server: ObjectServerFactory) -> ObjectServer:
    return object_server("seaweedfs")


def use_store(site: Site, settings: StoreSettings, **others: object) -> None:
    """Have the site's repository in an object store."""
    site.url = settings.url
    site.write_config()
    lines = render_options(settings, **others)
    site.config.write_text(site.config.read_text().replace("\n\n", f"\n{lines}\n", 1))
    own(site.config)


def render_options(settings: StoreSettings, **others: object) -> str:
    """The lines of a repository's section that follow its URL."""
    said = {name: value for name in OPTIONS if (value := getattr(settings, name)) is not None} | others
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in said.items())


@pytest.mark.pg
def test_from_init_to_a_restored_server(site: Site, server: ObjectServer) -> None:
    """Sealed, as repositories in object stores are unless somebody says otherwise."""
    use_store(site, server.settings())
    assert "would be sealed, but" in site.error("init", NAME, status=2)["message"]
    use_store(site, server.settings(), key_file=str(site.place / "main.key"))
    assert "--recovery-copy" in site.error("init", NAME, status=2)["hint"]
    cluster = site.cluster
    ended = site.run("init", NAME, "--apply", "--recovery-copy", str(site.place / "apart" / "recovery.key"))
    assert ended.status == 3, ended  # the same file system
    assert "created and sealed, cluster registered" in ended.out
    assert "tried: a taken name is not given again" in ended.out
    live_through(site)
    # Keys of the store are in no object, and neither in the server's log nor in what was shown.
    store = open_store(server.settings(url=site.url))
    for info in store.list(""):
        assert SECRET_KEY.encode() not in store.read(info.name)
    assert SECRET_KEY not in cluster.log() + ended.out + ended.err


@pytest.mark.pg
@pytest.mark.parametrize("name", ["azurite", "gcs"])
def test_from_init_to_a_restored_server_elsewhere(site: Site, object_server: ObjectServerFactory, name: str) -> None:
    """In the open, and from the command line alone."""
    settings = object_server(name).settings()
    cluster = site.cluster
    given = {"endpoint": settings.endpoint, "credentials_file": settings.credentials_file}
    site.ok(
        *("init", NAME, "--apply", "--no-encryption", "--repository", settings.url),
        *("--data-directory", str(cluster.data_directory), "--conninfo", cluster.conninfo),
        *[word for option, value in given.items() for word in ("--store-option", f"{option}={value}")],
    )
    live_through(site)


@pytest.mark.pg
def test_no_key_of_the_store_is_in_a_process_list(site: Site, server: ObjectServer) -> None:
    """While a backup with worker processes is at its work."""
    with proxying(server.port) as proxy:
        use_store(site, server.settings(endpoint=proxy.endpoint))
        site.set_up()
        proxy.strike("hanging", 20, method="PUT", contains="/packs/")
        words = ("--config", str(site.config), "backup")
        with site.start_words(*words) as process:
            try:
                assert proxy.is_hanging.wait(PATIENCE_SECONDS)
                lines = list(iter_command_lines())
            finally:
                process.kill()
                proxy.ends.set()
    assert any(site.config.name.encode() in line and b"backup" in line for line in lines)
    assert not any(SECRET_KEY.encode() in line for line in lines)


@pytest.mark.pg
@pytest.mark.parametrize("what", ["backup", "restore"])
def test_an_interrupt_ends_a_command_whose_transfers_hang(site: Site, server: ObjectServer, what: str) -> None:
    """All its workers wait for the store, which would be given two minutes; a later run is as if nothing had been."""
    target = ("--target-dir", str(site.target)) if what == "restore" else ()
    words = (what, NAME, *target)
    with proxying(server.port) as proxy:
        use_store(site, server.settings(endpoint=proxy.endpoint))
        site.set_up()
        if what == "restore":
            site.ok("backup")
            site.archive_all()
        proxy.strike("hanging", 100, method="PUT" if what == "backup" else "GET", contains="/packs/")
        with site.start_words("--config", str(site.config), *words) as process:
            assert proxy.is_hanging.wait(PATIENCE_SECONDS)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_SECONDS) == 18
        proxy.calm()
        assert site.run(*words).status == 0


@pytest.mark.pg
def test_a_store_in_trouble_costs_time_and_nothing_else(site: Site, server: ObjectServer) -> None:
    """Every few requests one meets a fault, while a backup is taken, WAL is pushed, and all of it is restored."""
    faults = itertools.cycle(
        [
            Fault(kind="lost"),
            Fault(kind="refused"),
            Fault(kind="truncated", method="GET"),
            Fault(kind="failed-late"),
            Fault(kind="reset"),
            Fault(kind="refused", status=429, code=""),
        ]
    )
    with proxying(server.port) as proxy:
        use_store(site, server.settings(endpoint=proxy.endpoint))
        cluster = site.cluster
        site.set_up()
        proxy.choose = lambda number: next(faults) if number % 5 == 0 else None
        cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS i")
        site.ok("backup")
        cluster.sql("INSERT INTO t VALUES (-1)")
        site.archive_all()
        site.ok("verify")
        total = cluster.value("SELECT sum(i) FROM t")
        cluster.stop()
        with site.started(PGHAVEN_CLUSTER__MAIN__PG_BIN=str(cluster.bin_dir)):
            assert site.ask_restored("SELECT sum(i) FROM t") == total
        assert len(proxy.asked) > 50


@pytest.mark.pg
def test_wal_get_takes_no_status_for_absence(site: Site, server: ObjectServer) -> None:
    with proxying(server.port) as proxy:
        use_store(site, server.settings(endpoint=proxy.endpoint), retry_timeout="1s")
        site.set_up()
        segment = site.archive_all()
        following = segment[:-8] + "000000F0"
        target = str(site.place / "wal")
        assert site.run("wal", "get", "--cluster", NAME, following, target).status == 1
        for fault in (
            Fault(kind="refused", status=404, code=""),
            Fault(kind="refused", status=403, code="AccessDenied"),
            Fault(kind="refused", status=503),
            Fault(kind="reset"),
        ):
            proxy.choose = lambda _number, fault=fault: fault  # type: ignore[misc]
            assert site.run("wal", "get", "--cluster", NAME, following, target).status > 125


def test_what_is_missing_is_told_at_init(site: Site, server: ObjectServer) -> None:
    use_store(site, server.settings(bucket="nowhere"))
    failed = site.error("init", NAME, "--no-encryption", status=14)
    assert 'there is no bucket "nowhere"' in failed["message"]
    use_store(site, server.settings(credentials_file=str(site.place / "none")))
    assert str(site.place / "none") in site.error("init", NAME, "--no-encryption", status=2)["message"]
    use_store(site, server.settings(credentials_file=server.reader_file))
    assert "AccessDenied" in site.error("init", NAME, "--no-encryption", status=13)["message"]


@pytest.mark.pg
def test_a_store_that_cannot_be_shared_is_told_and_used_only_when_somebody_says_so(
    site: Site, object_server: ObjectServerFactory
) -> None:
    moto = object_server("moto")
    with proxying(moto.port) as proxy:
        proxy.ignores_conditions = True
        settings = moto.settings(endpoint=proxy.endpoint)
        use_store(site, settings)
        failed = site.error("init", NAME, "--no-encryption", status=12)
        assert "lets a second writer replace an object" in failed["message"]
        assert "single_writer = true" in failed["hint"]
        use_store(site, settings, single_writer=True)
        site.set_up()
        site.ok("backup")
        site.archive_all()
        verdict, text = site.check(status=3)["store"]
        assert (verdict, "single_writer" in text) == ("WARNING", True)
        assert "single_writer" in site.run("status").out


def test_keys_are_taken_from_the_environment_and_never_shown(site: Site, server: ObjectServer) -> None:
    use_store(site, server.settings(credentials_file=None))
    keys = {"AWS_ACCESS_KEY_ID": "AKTESTS", "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    ended = site.run("init", NAME, "--no-encryption", "--verbose", environment=keys)
    assert ended.status == 3, ended
    assert "archiving would fail" in ended.err, "the server has no such environment"
    keys |= {"AWS_SECRET_ACCESS_KEY": f"{SECRET_KEY}2"}
    wrong = site.run("init", NAME, "--no-encryption", "--verbose", environment=keys)
    assert wrong.status == 13
    assert "SignatureDoesNotMatch" in wrong.err
    for text in (ended.out, ended.err, wrong.out, wrong.err, site.config.read_text()):
        assert SECRET_KEY not in text
