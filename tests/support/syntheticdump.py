"""An SQL dump in a repository, in the order of ``dump.session``, of files that no pg_dump wrote.

The one idea: what is stored and how is the real thing, workers, rows and manifest; where the rows come from is not.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from pghaven.backup.gather import Pieces
from pghaven.backup.results import ReadResult, WorkerPacks
from pghaven.dump.anchors import render_anchors
from pghaven.dump.assemble import Assembly
from pghaven.dump.facts import FACTS_FILE, DatabaseFacts, DumpFacts, TableFacts, render_facts
from pghaven.dump.origin import DumpOrigin
from pghaven.dump.spooled import SpooledFile
from pghaven.dump.worker import DumpPart, DumpWorkerSettings, open_dump_worker
from pghaven.events import ignore
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import Purpose, summarize
from pghaven.repository.manifest import BackupFacts, Manifest
from pghaven.repository.repository import Repository
from pghaven.units import render_time_utc
from tests.support.synthetic import START, SYSTEM_IDENTIFIER, BackupOrder, make_intent

DIRECTORY = "databases/16384"


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOrder:
    """``tables`` are rows by the table's name; ``like`` has the facts of a backup of the same cluster."""

    backup: BackupOrder
    like: BackupFacts
    tables: dict[str, bytes]


def take_dump(repository: Repository, order: DumpOrder) -> dict[str, bytes]:
    """A dump that goes on from the newest one there is; gives its files by their paths."""
    catalog = BackupCatalog(repository, order.backup.cluster)
    label = order.backup.label
    origin = DumpOrigin(catalog, SYSTEM_IDENTIFIER, ignore)
    parent = origin.entry.label if origin.entry is not None else None
    intent = replace(
        make_intent(order.backup), purpose=Purpose.DUMP, parent=parent, sources=(parent,) if parent is not None else ()
    )
    catalog.announce(label, intent)
    known = origin.known
    settings = DumpWorkerSettings(place=catalog.pack_place, label=label, level=3, known=known)
    worker = open_dump_worker(settings)
    worker.worker = 0
    moment = START + timedelta(days=order.backup.number)
    assembly = Assembly(known.packs if known is not None else (), moment)
    ours = Pieces()
    facts = []
    made: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as place:

        def store(path: str, content: bytes) -> SpooledFile:
            """As ``spool`` does it."""
            written = Path(place, path.replace("/", "-"))
            written.write_bytes(content)
            file = SpooledFile(number=assembly.add_file(path), name=path.rpartition("/")[2], path=str(written))
            file.take(memoryview(content))
            file.finish()
            made[path] = content
            if not origin.settle(file, ours):
                _take(assembly, worker(origin.make_range(file, 0, len(content), True)))
            assembly.note_hash(file.number, file.hash)
            return file

        store("global/globals.sql", b"CREATE ROLE keeper;\n")
        store(f"{DIRECTORY}/toc.dat", b"PGDMP is what a table of contents begins with\n")
        for number, (name, rows) in enumerate(order.tables.items()):
            file = store(f"{DIRECTORY}/{4000 + number}.dat", rows + b"\\.\n\n\n")
            facts.append(_describe(16400 + number, name, file))
        dumped = DumpFacts(server_version="17.6", program_version="17.6", options=(), databases=(_database(facts),))
        store(FACTS_FILE, render_facts(dumped))
        last = worker.close()
        _take(assembly, last)
    assembly.take(ReadResult(worker=0, read_bytes=0, pieces=ours.columns(), vanished=(), suspects=()))
    result = assembly.finish()
    backup_facts = replace(
        order.like,
        label=label,
        method="dump",
        changes="full" if parent is None else "rows",
        parent=parent,
        catalog_version=0,
        control_version=0,
        backup_label="",
        tablespaces=(),
        file_count=len(result.files.size),
        total_bytes=int(result.files.size.sum()),
        stored_bytes=result.written_bytes,
        owners=(("root", "root"),),
        links=(),
    )
    manifest = Manifest(
        facts=backup_facts,
        files=result.files,
        block_map=result.block_map,
        packs=result.packs,
        relations=b"",
        config_files=(),
        control=b"",
    )
    told = {"databases": ["shop"], "tables": len(facts), "rows": sum(one.rows for one in facts)}
    summary = summarize(backup_facts, "", "") | {"dump": {**told, "program_version": "17.6"}}
    catalog.commit(label, manifest, summary)
    return made


def _take(assembly: Assembly, result: DumpPart | WorkerPacks) -> None:
    assembly.take(result.result if isinstance(result, DumpPart) else result)


def _describe(oid: int, name: str, file: SpooledFile) -> TableFacts:
    return TableFacts(
        oid=oid,
        schema="public",
        name=name,
        file=file.name,
        rows=file.rows,
        size_bytes=file.done_bytes,
        hash=file.hash.hex(),
        sketch=b"".join(file.sketch).hex(),
        anchors=render_anchors(file.anchors),
    )


def _database(tables: list[TableFacts]) -> DatabaseFacts:
    return DatabaseFacts(
        oid=16384,
        name="shop",
        owner="keeper",
        encoding="UTF8",
        collate="C",
        ctype="C",
        locale_provider="c",
        locale="",
        tablespace="pg_default",
        lsn="0/1000000",
        taken_at=render_time_utc(START),
        extensions=(),
        roles=("keeper",),
        tablespaces=(),
        tables=tuple(tables),
    )
