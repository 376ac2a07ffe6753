"""A receiver as it is run for people: a process of its own, by the server's user, beside a protected cluster."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.timeline import Timeline
from pghaven.repository.partials import find_newest_partial
from pghaven.server.identity import child_identity
from tests.support.cluster import TestCluster
from tests.support.places import plain_user
from tests.support.protected import Protected
from tests.support.waiting import PATIENCE_SECONDS, wait_until

SLOT = "pghaven"


class Receiving:
    """``spool`` lies in the site's place. What the receiver prints is in ``log``."""

    def __init__(self, site: Protected, conninfo: str | None = None, **options: str) -> None:
        self.site = site
        self.spool = site.place / "spool"
        self.log_path = site.place / "receiver.log"
        self._process: subprocess.Popen[bytes] | None = None
        lines = {"receive_spool": f'"{self.spool}"', "receive_interval": '"100ms"', **options}
        lines["receive_conninfo"] = f'"{conninfo or site.cluster.conninfo}"'
        with open(site.config, "a", encoding="utf-8") as file:
            file.write("".join(f"{name} = {value}\n" for name, value in lines.items()))

    def start(self, *options: str) -> None:
        words = [*self.site.command.words, "--config", str(self.site.config), "wal", "receive", *options]
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, **child_identity(plain_user()))

    def wait_for_stream(self, server: TestCluster | None = None) -> None:
        (server or self.site.cluster).wait_for(
            "SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'",
            SLOT,
        )

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        assert self._process is not None
        status, self._process = self._process.wait(PATIENCE_SECONDS), None
        return status

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def spooled(self) -> list[str]:
        return sorted(os.listdir(self.spool / "archive_status"))

    def wait_stored(self, lsn: Lsn, timeline: int = 1) -> None:
        """Until the repository has everything up to a position, in whole segments or as a partial."""
        archive = self.site.archive

        def is_stored() -> bool:
            partial = find_newest_partial(archive, Timeline(timeline))
            if partial is not None and partial.end_lsn >= lsn:
                return True
            return any(one.name.end_lsn >= lsn for one in archive.list_segments(Timeline(timeline)))

        wait_until(is_stored, f"WAL up to {lsn} of timeline {timeline} in the repository\n{self.log}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def receiving(site: Protected, conninfo: str | None = None, **options: str) -> Iterator[Receiving]:
    made = Receiving(site, conninfo, **options)
    try:
        yield made
    finally:
        made.kill()


def current_lsn(server: TestCluster) -> Lsn:
    return Lsn.parse(server.value("SELECT pg_current_wal_flush_lsn()::text"))


def burn(server: TestCluster, path: Path) -> None:
    """The server and everything it had, at once."""
    server.stop_and_remove()
    assert not path.exists()
