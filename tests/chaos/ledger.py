"""Clients that write all the time, to every node that takes it, and note each commit they were told of.

The one idea: a commit counts from the moment that the client was told, by the client's own clock; where in the WAL it
stands is asked in the same breath. A wait for a standby that was cancelled is told by the server as a warning only, so
warnings are listened to, and such commits are counted apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pghaven.postgres.lsn import Lsn
from tests.chaos.members import Cluster, Member

_PAUSE_SECONDS = 0.02
_AGAIN_SECONDS = 0.2
_WRITE = (
    "INSERT INTO ledger (id, padding) VALUES (%s, repeat(md5(random()::text), 8)) "
    "RETURNING pg_walfile_name(pg_current_wal_insert_lsn()), pg_current_wal_insert_lsn()::text"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """A commit that a client was told of. ``lsn`` is before its commit record, after all earlier ones of the client."""

    id: int
    node: str
    timeline: int
    lsn: Lsn
    asked_at: float
    at: float
    cancelled: bool


class Ledger:
    """``running`` is a block; two clients for each node, one of which loses patience."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._acks: list[Ack] = []
        self._next = 1
        self._threads: list[threading.Thread] = []

    def set_up(self) -> None:
        leader = self._cluster.find_leader()
        assert leader is not None
        with leader.connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS ledger (id bigint PRIMARY KEY, padding text)")

    def __enter__(self) -> Ledger:
        for member in self._cluster.members:
            for patience in (None, "2s"):
                thread = threading.Thread(target=self._write, args=(member, patience), daemon=True)
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def take(self) -> list[Ack]:
        """All acknowledged so far."""
        with self._lock:
            return list(self._acks)

    def forget(self, ids: Sequence[int]) -> None:
        """What was judged need not be judged again."""
        gone = set(ids)
        with self._lock:
            self._acks = [ack for ack in self._acks if ack.id not in gone]

    def _take_number(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _write(self, member: Member, patience: str | None) -> None:
        while not self._stop.is_set():
            try:
                self._write_on(member, patience)
            except (psycopg.Error, OSError):
                self._stop.wait(_AGAIN_SECONDS)

    def _write_on(self, member: Member, patience: str | None) -> None:
        warned: list[str] = []
        with member.connect() as connection:
            connection.add_notice_handler(lambda told: warned.append(told.sqlstate or ""))
            connection.execute(f"SET statement_timeout = '{patience or 0}'".encode())
            while not self._stop.wait(_PAUSE_SECONDS):
                if _is_in_recovery(connection):
                    self._stop.wait(_AGAIN_SECONDS)
                    continue
                warned.clear()
                number, asked_at = self._take_number(), time.monotonic()
                row: Any = connection.execute(_WRITE, (number,)).fetchone()
                at = time.monotonic()
                ack = Ack(
                    id=number,
                    node=member.name,
                    timeline=int(row[0][:8], 16),
                    lsn=Lsn.parse(row[1]),
                    asked_at=asked_at,
                    at=at,
                    cancelled="01000" in warned,
                )
                with self._lock:
                    self._acks.append(ack)


def _is_in_recovery(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    return bool(row and row[0])
