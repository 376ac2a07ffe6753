"""The fixtures tests ask for; loaded by ``tests/conftest.py``.

def test_something(pg_version, make_cluster):          # once for each of 15, 16, 17, 18
    cluster = make_cluster(conf={"wal_level": "logical"})
    assert cluster.value("SHOW wal_level") == "logical"

def test_once(make_cluster):                           # the newest version only
    primary = make_cluster()
    standby = make_cluster.standby_of(primary)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pghaven.server.identity import OsUser
from pghaven.server.programs import Programs
from tests.support import binaries, cluster, commands, places
from tests.support.cluster import Kind, TestCluster
from tests.support.objectservers import MissingProgram, ObjectServer, ObjectServers
from tests.support.sftpserver import SftpServer, running_server

REQUIRE_VARIABLE = "PGHAVEN_TEST_REQUIRE_ALL"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pg", metavar="MAJOR[,MAJOR…]", help="only these PostgreSQL versions (default: all supported)")
    parser.addoption("--seed", type=int, help="what random tests begin with (default: another number each time)")


def pytest_configure(config: pytest.Config) -> None:
    # A shell has what it starts in the background ignore interrupts, and all that this starts in turn; nohup hangups.
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(ignored) is signal.SIG_IGN:
            signal.signal(ignored, signal.default_int_handler if ignored is signal.SIGINT else signal.SIG_DFL)
    if places.SCRATCH_VARIABLE not in os.environ:
        # Workers of pytest-xdist inherit the variable and neither sweep nor remove.
        places.sweep_scratch()
        places.scratch()
        config.add_cleanup(places.remove_scratch)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pg_version" in metafunc.fixturenames:
        versions = wanted_versions(metafunc.config)
        if metafunc.definition.get_closest_marker("ends") is not None:
            versions = tuple(dict.fromkeys((versions[0], versions[-1])))
        metafunc.parametrize("pg_version", versions, indirect=True, ids=lambda major: f"pg{major}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "make_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.pg)


def wanted_versions(config: pytest.Config) -> tuple[int, ...]:
    """The major versions this run is to test, oldest first."""
    chosen = config.getoption("--pg")
    return binaries.MAJORS if chosen is None else tuple(int(major) for major in chosen.split(","))


@pytest.fixture
def pg_version(request: pytest.FixtureRequest) -> int:
    """Each supported major version in turn; also what ``make_cluster`` then makes."""
    return int(request.param)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What a random test begins with; a failure shows it."""
    given: int | None = request.config.getoption("--seed")
    chosen = secrets.randbelow(1 << 32) if given is None else given
    print(f"again with: --seed {chosen}")
    return chosen


class ClusterFactory:
    """Makes clusters that end with the test."""

    def __init__(self, version: int, cleanup: contextlib.ExitStack) -> None:
        self.version = version
        self._cleanup = cleanup

    def __call__(
        self,
        *,
        version: int | None = None,
        start: bool = True,
        conf: Mapping[str, str] | None = None,
        kind: Kind | None = None,
    ) -> TestCluster:
        """A fresh cluster. ``conf`` goes into its ``postgresql.conf``, ``kind`` is what ``initdb`` decides."""
        programs = require_programs(version or self.version)
        return self._kept(cluster.make_cluster(programs, kind or Kind(), start=start, conf=conf))

    def standby_of(self, primary: TestCluster, *, start: bool = True) -> TestCluster:
        """A streaming standby of a running cluster."""
        return self._kept(cluster.make_standby(primary, start=start))

    def adopt(self, data_directory: Path, *, version: int | None = None) -> TestCluster:
        """Drive the server of a data directory made by somebody else, such as a restored one. Not started."""
        return self._kept(cluster.adopt(data_directory, require_programs(version or self.version)))

    def _kept(self, made: TestCluster) -> TestCluster:
        self._cleanup.callback(made.stop_and_remove)
        return made


@pytest.fixture
def make_cluster(request: pytest.FixtureRequest) -> Iterator[ClusterFactory]:
    """Makes clusters of ``pg_version`` if the test has it, else of the newest version."""
    newest = wanted_versions(request.config)[-1]
    version = request.getfixturevalue("pg_version") if "pg_version" in request.fixturenames else newest
    with contextlib.ExitStack() as cleanup:
        yield ClusterFactory(version, cleanup)


@pytest.fixture
def pg_cluster(make_cluster: ClusterFactory) -> TestCluster:
    """A running cluster of ``pg_version`` or the newest version."""
    return make_cluster()


@pytest.fixture
def plain_user() -> OsUser:
    """The operating-system user servers run as."""
    return places.plain_user()


@pytest.fixture
def pghaven_command() -> commands.PghavenCommand:
    """A command line for pghaven that works inside ``archive_command``, whoever runs the server."""
    try:
        return commands.pghaven_command()
    except commands.Unreachable as error:
        return _give_up(f"the server's user cannot run pghaven: {error}")


@pytest.fixture
def server_path() -> Iterator[Path]:
    """An empty directory that the server's user owns, short enough for sockets; for archives, targets and the like."""
    path = places.make_directory()
    yield path
    places.remove_directory(path)


class ObjectServerFactory:
    """Hands out the object stores of this process; skips the test where one cannot be had, saying why."""

    def __init__(self, servers: ObjectServers) -> None:
        self._servers = servers

    def __call__(self, name: str) -> ObjectServer:
        try:
            return self._servers.get(name)
        except MissingProgram as missing:
            _give_up(str(missing))
            raise


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServerFactory]:
    """``object_server("seaweedfs")``: a server that starts when it is first asked for, and ends with the run."""
    servers = ObjectServers()
    yield ObjectServerFactory(servers)
    servers.stop()


def require_programs(version: int) -> Programs:
    """Skips the test where this version cannot be had, saying why; fails it where ``REQUIRE_VARIABLE`` is set."""
    found = binaries.find_binaries(version)
    if isinstance(found, binaries.Missing):
        _give_up(found.reason)
    assert isinstance(found, Programs)
    return found


def _give_up(reason: str) -> commands.PghavenCommand:
    if os.environ.get(REQUIRE_VARIABLE):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def sftp_server() -> Iterator[SftpServer]:
    """One server for all tests that do it no harm; each takes a directory of its own (``make_directory``)."""
    with running_server() as server:
        yield server
