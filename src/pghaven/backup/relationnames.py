"""The names of all relations, read while the workers read their files.

The one idea: the names are wanted in the manifest and for messages, never for what is copied, so nothing waits for
them; a thread asks the server, and its answer is taken at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

from pghaven.backup.damage import RelationKey, RelationNames
from pghaven.events import Event, Listener
from pghaven.repository.codec import Buffer
from pghaven.repository.manifest import render_relation
from pghaven.repository.manifest_columns import iter_lines
from pghaven.runtime.spill import Spool
from pghaven.server.connection import Connection
from pghaven.server.probe import Database
from pghaven.server.relations import list_relations


class RelationReader(AbstractContextManager["RelationReader"]):
    """Reads in a thread of its own from the beginning of the block; leaving the block joins it."""

    def __init__(self, open_database: Callable[[str], Connection], databases: Sequence[Database]) -> None:
        self._open_database = open_database
        self._databases = databases
        self._events: list[Event] = []
        self._thread = ThreadPoolExecutor(1, "relations")
        self._future: Future[Spool] = self._thread.submit(self._read)

    def _read(self) -> Spool:
        lines = Spool()
        for one in list_relations(self._open_database, self._databases, self._events.append):
            row = (one.database_oid, one.database, one.tablespace_oid, one.filenode, one.schema, one.name, one.kind)
            lines.write(render_relation(row))
        return lines

    def finish(self, wanted: set[RelationKey], listener: Listener) -> tuple[Buffer, RelationNames]:
        """All names as lines of a manifest, and the wanted ones by their files. Raises what reading them did."""
        lines = self._future.result().view()
        for event in self._events:
            listener(event)
        names: RelationNames = {}
        for line in iter_lines(lines) if wanted else ():
            database_oid, database, tablespace_oid, filenode, schema, name, _ = json.loads(line)
            key = (tablespace_oid, database_oid, filenode)
            if key in wanted:
                names[key] = f"{database}.{schema}.{name}" if database else f"{schema}.{name}"
        return lines, names

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
