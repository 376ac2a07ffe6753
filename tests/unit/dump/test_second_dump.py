"""What a second dump of a changed table costs, without a server."""

from __future__ import annotations

import random
from pathlib import Path

from blake3 import blake3

from pghaven.dump.earlier import EarlierReader, cut_out_file
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


def change(rows: list[bytes], dice: random.Random) -> list[bytes]:
    """Rows gone, changed at either end, and written elsewhere; some many times over, some in another order."""
    changed: list[bytes] = []
    for row in rows:
        chance = dice.random()
        if chance < 0.01:
            continue
        if chance < 0.02:
            row = row[:-2] + b"!\n" if dice.random() < 0.5 else b"+" + row[1:]
        changed.append(row)
        if chance > 0.995:
            changed += [dice.choice(rows), b"the same\n"]
    for _ in range(3):
        at, end = sorted(dice.randrange(len(changed)) for _ in range(2))
        at = max(at, end - 2000)
        moved, changed[at:end] = changed[at:end], []
        at = dice.randrange(len(changed))
        changed[at:at] = moved
    return changed


def test_whatever_changed_dump_after_dump_is_put_together_as_it_was(tmp_path: Path) -> None:
    repository = make_repository(MemoryStore())
    manifest = take_backup(repository, make_source(tmp_path, salt=1, big=False), BackupOrder(number=1))
    dice = random.Random(7)
    tables = {
        "short": [b"%d\n" % (number % 900) for number in range(80_000)],
        "plain": [make_row(number, 0) for number in range(20_000)],
        "mixed": [b"%d\t%s\n" % (number, b"x%d," % number * dice.randrange(1, 60)) for number in range(9_000)],
        "wide": [b"%d\t%s\n" % (number, dice.randbytes(1500).hex().encode()) for number in range(700)],
    }
    catalog = BackupCatalog(repository, CLUSTER)
    for number in range(2, 6):
        content = {name: b"".join(rows) for name, rows in tables.items()}
        made = take_dump(repository, DumpOrder(backup=BackupOrder(number=number), like=manifest.facts, tables=content))
        dumped = catalog.load_manifest(catalog.list_committed(Purpose.DUMP)[-1])
        reader = EarlierReader(catalog.pack_place, dumped.packs)
        read = {}
        for at in range(len(dumped.files.size)):
            file = cut_out_file(dumped, at)
            read[dumped.files.path(at).decode()] = reader.read(file, 0, file.size)
        assert {path: read[path] for path in made} == made
        assert dumped.facts.stored_bytes < sum(map(len, made.values())) / (1 if number == 2 else 4)
        tables = {name: change(rows, dice) for name, rows in tables.items()}
