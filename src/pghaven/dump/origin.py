"""What a new dump goes on from: the newest one of the same cluster, if this host can read it.

The one idea: going on from an earlier dump only saves bytes. Whatever stands in the way of it is told, and the dump is
then simply stored whole.
"""

from __future__ import annotations

import os

from pghaven.backup.gather import KNOWN_PACKS, Pieces
from pghaven.dump.anchors import AnchorTable
from pghaven.dump.earlier import EarlierFile, cut_out_file
from pghaven.dump.facts import FACTS_FILE, parse_facts
from pghaven.dump.rows import find_alike
from pghaven.dump.small import list_dumped, read_small_file
from pghaven.dump.spooled import SpooledFile
from pghaven.dump.worker import SLACK_BYTES, RangeJob
from pghaven.errors import Damaged, ObjectMissing
from pghaven.events import Listener, Notice
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.blockmap import HOLE
from pghaven.repository.entry import BackupEntry, BackupState, Purpose
from pghaven.repository.evidence import Verdict, judge_backup, load_evidence
from pghaven.repository.known import KnownFrames, load_frames_of
from pghaven.repository.manifest import Manifest


class DumpOrigin:
    """``entry`` is the dump that is gone on from, None without one; ``known`` its frames."""

    def __init__(self, catalog: BackupCatalog, system_identifier: int, listener: Listener) -> None:
        self._catalog = catalog
        self._tell = listener
        self.entry: BackupEntry | None = None
        self.known: KnownFrames | None = None
        self._manifest: Manifest | None = None
        self._by_hash: dict[tuple[bytes, int], int] = {}
        self._by_row: dict[bytes, list[int]] = {}
        self._files: dict[int, EarlierFile] = {}
        self._earlier: dict[int, tuple[int | None, int]] = {}
        self._anchors = AnchorTable(())
        if not catalog.repository.keyring.can_read:
            text = "this host cannot read what it stored before, so the dump is stored whole"
            listener(Notice(level="info", code="dump_whole", text=text))
            return
        results = load_evidence(catalog.repository, catalog.cluster).results
        for entry in reversed(catalog.list_committed(Purpose.DUMP)):
            if entry.intent is None or entry.intent.system_identifier != system_identifier:
                continue
            if not list_dumped(entry):
                continue  # roles and tablespaces alone
            manifest_hash = catalog.find_manifest(entry)[1]
            if judge_backup(results, entry.label, manifest_hash).verdict is Verdict.DAMAGED:
                self._pass_over(entry, "it was found damaged")
            elif self._load(entry):
                return

    def _pass_over(self, entry: BackupEntry, reason: str, hint: str | None = None) -> None:
        text = f'dump "{entry.label}" is not gone on from: {reason}'
        self._tell(Notice(level="warning", code="damaged_dump", text=text, hint=hint))

    def _load(self, entry: BackupEntry) -> bool:
        """Whether it can be gone on from: all that it refers to must be there, for the new one will refer to it too."""
        try:
            manifest = self._catalog.load_manifest(entry)
            facts = parse_facts(read_small_file(self._catalog, manifest, FACTS_FILE))
            self.known = load_frames_of(self._catalog.pack_place, manifest.packs)
        except (Damaged, ObjectMissing) as error:
            self._pass_over(entry, error.message, error.hint)
            return False
        self.entry, self._manifest = entry, manifest
        hashes = manifest.files.content_hash
        numbers, anchors = {}, []
        for number in range(len(manifest.files.size)):
            numbers[os.fsdecode(manifest.files.path(number))] = number
            self._by_hash[hashes[number].tobytes(), int(manifest.files.size[number])] = number
        for database in facts.databases:
            for table in database.tables:
                table_number = numbers.get(f"{database.directory}/{table.file}")
                if table_number is None:
                    continue
                sketch = bytes.fromhex(table.sketch)
                for at in range(0, len(sketch), 8):
                    self._by_row.setdefault(sketch[at : at + 8], []).append(table_number)
                anchors.append((table_number, table.anchors))
        self._anchors = AnchorTable(anchors)
        return True

    def confirm(self) -> None:
        """After the intent is written: whether what it names is still there to stay, and as it is by now."""
        if self.entry is None:
            return
        entry = self._catalog.read_entry(self.entry.label)
        if entry.state not in (BackupState.COMMITTED, BackupState.RETIRED):
            self._tell(Notice(level="info", code="dump_whole", text=f'dump "{entry.label}" is being removed'))
            self._forget()
            return
        if self._catalog.find_manifest(entry) != self._catalog.find_manifest(self.entry):
            self._forget()
            self._load(entry)

    def _forget(self) -> None:
        self.entry = self.known = self._manifest = None
        for table in (self._by_hash, self._by_row, self._files):
            table.clear()
        self._anchors = AnchorTable(())

    # -- files ------------------------------------------------------------------------------------------------------

    def settle(self, file: SpooledFile, pieces: Pieces) -> bool:
        """Whether the whole file is stored already; then its pieces are those."""
        number = self._by_hash.get((file.hash, file.done_bytes))
        if number is None:
            return False
        old = self._file(number)
        for begin, length, pack, offset in zip(old.begin, old.length, old.pack, old.offset, strict=True):
            place = (HOLE, 0) if pack == HOLE else (KNOWN_PACKS + int(pack), int(offset))
            pieces.add(file.number, int(begin), int(length), place)
        return True

    def make_range(self, file: SpooledFile, offset: int, length: int, is_last: bool) -> RangeJob:
        """The job of a part of a file, with what it was before where that is known."""
        number, moved, pairs = self._find_earlier(file, offset, offset + length)
        old: EarlierFile | None = None
        anchors: list[tuple[int, int]] = []
        if number is not None:
            first, last = offset + moved - SLACK_BYTES, offset + length + moved + SLACK_BYTES
            old = self._file(number).near(first, last)
            for at, there in pairs:
                if max(first, anchors[-1][1] if anchors else first) < there <= last:
                    anchors.append((at - offset, there))
        return RangeJob(
            file.number,
            file.names,
            offset,
            length,
            is_last,
            old=old,
            moved=moved,
            anchors=tuple(anchors),
            cuts=file.cuts,
        )

    def _find_earlier(self, file: SpooledFile, offset: int, end: int) -> tuple[int | None, int, list[tuple[int, int]]]:
        """The earlier file that has what is here, how much farther on it lies there, and rows of which both have one.

        By anchors; where there are none, as it was for what came before, or by the table's first rows.
        """
        pairs: dict[int, list[tuple[int, int]]] = {}
        for row, at in reversed(file.anchors):
            if at < offset:
                break
            if at <= end:
                for number, there in self._anchors.find(row):
                    pairs.setdefault(number, []).append((at, there))
        if pairs:
            best = max(pairs, key=lambda number: (len(pairs[number]), -number))
            found = sorted(pairs[best])
            moves = sorted(there - at for at, there in found)
            self._earlier[file.number] = best, found[-1][1] - found[-1][0]
            return best, moves[len(moves) // 2], found
        if file.number not in self._earlier:
            self._earlier[file.number] = find_alike(file.sketch, self._by_row), 0
        return *self._earlier[file.number], []

    def _file(self, number: int) -> EarlierFile:
        assert self._manifest is not None
        if number not in self._files:
            self._files[number] = cut_out_file(self._manifest, number)
        return self._files[number]
