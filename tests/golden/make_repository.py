"""Make the golden repository of the current format version.

    python -m tests.golden.make_repository

Only for a version that has not been released: the repository of one that has must be readable for ever, as it is.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.repository.descriptor import FORMAT_VERSION
from pghaven.repository.manifest import ConfigFile, Tablespace
from pghaven.repository.partials import Piece, put_piece
from pghaven.repository.repository import Repository
from pghaven.runtime.whoami import ProcessIdentity
from pghaven.store.open import create_root
from tests.support.keys import SealedSite, make_sealed
from tests.support.synthetic import (
    CONTROL,
    TABLESPACE_OID,
    BackupOrder,
    make_repository,
    make_segment,
    make_source,
    open_archive,
    take_backup,
)
from tests.support.syntheticdump import DumpOrder, take_dump

GOLDEN = Path(__file__).parent
Hashes = dict[str, dict[str, str]]
PIECES = ((0, 20_000), (20_000, 50_000))
WRITER = ProcessIdentity(host="db1", boot_id="f00d", pid=4711, start="123")
CONFIG = ConfigFile(role="config", path="/etc/postgresql/postgresql.conf", mode=0o640, content=b"port = 5433\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        pack("", Path(place), fill(make_repository(create_root(f"file://{place}"))), None)
    with tempfile.TemporaryDirectory() as place:
        site = make_sealed(create_root(f"file://{place}"))
        site.add("second")
        expected = fill(site.open(), then=lambda: rotate(site))
        pack("-sealed", Path(place), expected, site.key.render())


def rotate(site: SealedSite) -> Repository:
    site.rotate()
    return site.open()


def pack(what: str, root: Path, found: tuple[Hashes, Hashes], key: str | None) -> None:
    with zipfile.ZipFile(GOLDEN / f"repository-v{FORMAT_VERSION}{what}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(root))
    text = json.dumps({"files": found[0], "dumps": found[1], "key": key}, indent=1, sort_keys=True) + "\n"
    (GOLDEN / f"repository-v{FORMAT_VERSION}{what}.json").write_text(text, encoding="utf-8")


def fill(repository: Repository, then: Callable[[], Repository] | None = None) -> tuple[Hashes, Hashes]:
    """Two backups, WAL, quarantine, pieces and two dumps; gives the hash of every file that a restore, and that a
    dump must have, by label and path.

    ``then`` is called after the first backup, and gives the repository for what follows.
    """
    expected: Hashes = {}
    for number in (1, 2):
        order = BackupOrder(number=number, workers=number, identity=WRITER, config_files=(CONFIG,))
        with tempfile.TemporaryDirectory() as root:
            source = make_source(Path(root), salt=number, big=number == 2)
            tablespaces = (Tablespace(oid=TABLESPACE_OID, name="space", path="/srv/space"),)
            manifest = take_backup(repository, replace(source, tablespaces=tablespaces), order)
        label = manifest.facts.backup_label.encode()
        files = {**source.files, "global/pg_control": CONTROL, "backup_label": label}
        if then is not None and number == 1:
            repository = then()
        expected[order.label] = {name: blake3(content).hexdigest() for name, content in sorted(files.items())}
    dumps = {}
    for number in (3, 4):
        backup = BackupOrder(number=number, identity=WRITER)
        made = take_dump(repository, DumpOrder(backup=backup, like=manifest.facts, tables=make_tables(number)))
        dumps[backup.label] = {path: blake3(content).hexdigest() for path, content in sorted(made.items())}
    archive = open_archive(repository)
    archive.put("00000002.history", b"1\t0/600000\tno recovery target specified\n", {"host": "db2"})
    archive.put_quarantine("000000010000000000000007", make_segment(7), {"host": "db1"})
    segment = SegmentName(timeline=Timeline(1), number=6, segment_size=archive.segment_size)
    content = make_segment(6)
    for begin, end in PIECES:
        piece = Piece(segment=segment, receiver="0123abcd", begin=begin, end=end)
        put_piece(archive, piece, content[begin:end], {"host": "db1"})
    return expected, dumps


def make_tables(number: int) -> dict[str, bytes]:
    """Rows of two tables, some of which are others in each dump."""
    filler = b"filler " * 8
    rows = [b"%d\t%s%s\n" % (row, filler, blake3(b"%d" % row).hexdigest()[:6].encode()) for row in range(12_000)]
    for row in range(number, len(rows), 500):
        rows[row] = b"%d\tchanged\n" % row
    return {"orders": b"".join(rows), "few": b"1\tone\n2\ttwo\n"}


if __name__ == "__main__":
    main()
