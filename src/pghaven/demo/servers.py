"""The two servers of a demonstration: the shop's own, and the one that is restored beside it.

The one idea: both listen in one directory of sockets that nobody else can enter, on different ports, and on no network.
"""

from __future__ import annotations

import os
from typing import Final

from psycopg.conninfo import make_conninfo

from pghaven.demo.ground import ORIGINAL, RESTORED, Ground
from pghaven.demo.shop import DATABASE
from pghaven.postgres.recovery import quote_setting
from pghaven.server.connection import Connection, connect, server_errors
from pghaven.server.instance import Instance
from pghaven.server.scratch import find_launcher

ROLE: Final = "postgres"
_LOG_LINES: Final = 15
_PORTS: Final = {ORIGINAL: 5432, RESTORED: 5433}
_INITDB: Final = (
    *("-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C"),
    *("--data-checksums", "--no-sync", "--no-instructions"),
)
_SETTINGS: Final = {
    "listen_addresses": "",
    "shared_buffers": "128MB",
    "jit": "off",
    # A container's /dev/shm may be too small for the default.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class DemoServer:
    """One data directory of the demonstration; ``name`` is ``ORIGINAL`` or ``RESTORED``."""

    def __init__(self, ground: Ground, name: str, *, keep: bool) -> None:
        self.data_directory = ground.path(name)
        self.log_path = ground.path(f"{name}.log")
        self.port = _PORTS[name]
        self._ground = ground
        self._instance = Instance(
            self.data_directory,
            ground.programs,
            log_path=self.log_path,
            os_user=None if ground.user is None else ground.user.name,
            launcher=() if keep else find_launcher(),
        )

    def conninfo(self, database: str = DATABASE) -> str:
        return make_conninfo(host=self._ground.sockets, port=self.port, user=ROLE, dbname=database)

    def connect(self, database: str = DATABASE) -> Connection:
        return connect(self.conninfo(database))

    def create(self) -> None:
        """A new cluster with an empty database for the shop, running."""
        self._ground.make_directory(os.path.basename(self.data_directory))
        self._instance.initdb(_INITDB)
        self._configure()
        self._instance.start()
        with self.connect("postgres") as connection, server_errors(connection, "create a database"):
            connection.execute(f"CREATE DATABASE {DATABASE}")

    def _configure(self) -> None:
        listen = {"unix_socket_directories": self._ground.sockets, "port": str(self.port)}
        lines = [f"{name} = {quote_setting(value)}\n" for name, value in {**_SETTINGS, **listen}.items()]
        with open(f"{self.data_directory}/postgresql.conf", "a", encoding="utf-8") as file:
            file.writelines(["\n# Added by pghaven demo.\n", *lines])

    def read_log_tail(self) -> str:
        """Empty when nothing was printed."""
        return self._instance.read_log_tail(_LOG_LINES)

    def restart(self) -> None:
        self._instance.stop()
        self._instance.start()
