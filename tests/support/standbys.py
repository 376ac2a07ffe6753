"""A protected primary and standbys that the command line makes of it, all on one host.

The one idea: every server but the first one has its socket in one directory and a port of its own, as the command line
was told; it is asked over that, whoever started it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pghaven.server.instance import Instance, StopMode
from pghaven.server.postmaster import is_running
from tests.cli.site import NAME, Site
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.support.places import end_servers_below, plain_user
from tests.support.waiting import wait_until


class Follower:
    """A server that a command has made."""

    def __init__(self, site: StandbySite, data_directory: Path, port: int) -> None:
        self.data_directory = data_directory
        self.conninfo = f"host={site.sockets} port={port} user=postgres dbname=postgres"
        self.port = port
        self._programs = site.cluster.programs

    @property
    def instance(self) -> Instance:
        log = str(self.data_directory / "pghaven.recovery.log")
        return Instance(str(self.data_directory), self._programs, log_path=log, os_user=plain_user().name)

    def value(self, query: str, *parameters: object) -> Any:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            row = cursor.fetchone() if cursor.description is not None else None
            return None if row is None else row[0]

    def wait_for(self, query: str, *parameters: object) -> Any:
        return wait_until(lambda: self.value(query, *parameters), query)

    def rows(self) -> list[int]:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            return [value for (value,) in connection.execute(b"SELECT a FROM t ORDER BY a").fetchall()]

    def wait_rows(self, *rows: int) -> None:
        wait_until(lambda: self.rows() == list(rows), f"rows {rows}")

    def stop(self, mode: StopMode = "fast") -> None:
        self.instance.stop(mode)

    def is_running(self) -> bool:
        return is_running(str(self.data_directory)) is not None


class StandbySite(Site):
    """``protect`` first: a primary with a table, archived and backed up."""

    def __init__(self, cluster: TestCluster, command: PghavenCommand, place: Path) -> None:
        super().__init__(cluster, command, place)
        self.port = 5500

    @property
    def environment(self) -> Mapping[str, str]:
        """The servers of the wheels load their receiver's libpq from beside them."""
        return {"LD_LIBRARY_PATH": str(Path(self.cluster.programs.bin_dir).parent / "lib")}

    def protect(self) -> None:
        self.cluster.append_conf(log_replication_commands="on")
        self.set_up()
        self.cluster.sql("CREATE TABLE t (a int)")
        self.cluster.sql("INSERT INTO t VALUES (1)")
        self.ok("backup")

    def standby(self, *words: str, status: int = 0) -> dict[str, Any]:
        """What a command of the group shows as JSON."""
        return self.json("standby", *words, status=status, environment=self.environment)

    def refuse(self, *words: str, status: int) -> dict[str, str]:
        """The error of a command of the group."""
        return self.error("standby", *words, status=status, environment=self.environment)

    def create(self, name: str, *options: str, status: int = 0) -> Follower:
        """A standby that was started."""
        self.port += 1
        words = ("--data", str(self.place / name), "--port", str(self.port), "--start", *options)
        self.standby("create", NAME, *words, status=status)
        return Follower(self, self.place / name, self.port)

    def follow_the_first(self) -> Follower:
        """The first server, once a command has started it again."""
        return Follower(self, self.cluster.data_directory, 5432)


@contextmanager
def standby_site(cluster: TestCluster, command: PghavenCommand, place: Path) -> Iterator[StandbySite]:
    """A protected primary; in the end no server that came of it runs any more."""
    made = StandbySite(cluster, command, place)
    made.protect()
    try:
        yield made
    finally:
        end_servers_below(place)
        end_servers_below(cluster.directory)
