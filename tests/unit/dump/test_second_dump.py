"""What a second dump of a changed table costs, without a server."""

from __future__ import annotations

import random
from pathlib import Path

from blake3 import blake3

from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import Purpose
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import CLUSTER, BackupOrder, make_repository, make_source, take_backup
from tests.support.syntheticdump import DumpOrder, take_dump


def make_row(number: int, value: int) -> bytes:
    return b"%d\t%d\t%s%s\n" % (number, value, blake3(b"%d" % number).hexdigest()[:32].encode(), b" " * 52)


def test_of_a_table_with_one_row_in_a_hundred_changed_less_than_a_twentieth_is_stored(tmp_path: Path) -> None:
    """Changed rows are written behind all others, as an UPDATE leaves them; manifest and records count too."""
    repository = make_repository(MemoryStore())
    manifest = take_backup(repository, make_source(tmp_path, salt=1, big=False), BackupOrder(number=1))
    dice = random.Random(1)
    changed = {number for number in range(60_000) if dice.random() < 0.01}
    first = [make_row(number, 0) for number in range(60_000)]
    second = [row for number, row in enumerate(first) if number not in changed]
    second += [make_row(number, 1) for number in sorted(changed)]
    seen: set[str] = set()
    sizes = []
    for number, rows in ((2, first), (3, second)):
        seen.update(info.name for info in repository.store.list("clusters/"))
        order = DumpOrder(backup=BackupOrder(number=number), like=manifest.facts, tables={"orders": b"".join(rows)})
        take_dump(repository, order)
        there = {info.name: info.size_bytes for info in repository.store.list("clusters/")}
        sizes.append(sum(size for name, size in there.items() if name not in seen))
    assert len(BackupCatalog(repository, CLUSTER).list_committed(Purpose.DUMP)) == 2
    assert sizes[1] < sizes[0] / 20, sizes
