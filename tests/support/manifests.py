"""Manifests taken apart and put together again, with anything in them, by the format's page.

The one idea: ``render_manifest`` writes only what a reader would take, so what a reader must refuse is made here: a
manifest is a dictionary of facts, lists of numbers and blobs, and every one of them may be replaced. Where runs lie is
written as manifests once had it, as offsets, unless there are steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pghaven.repository.container import Container, Kind
from pghaven.repository.repository import Repository
from pghaven.store.memory import MemoryStore
from tests.support.forging import MANIFEST, Forgery, Frame, hash_of
from tests.support.synthetic import CLUSTER

WIDTHS = {
    "directory_mode": 2,
    "file_directory": 4,
    "file_size": 8,
    "file_mode": 2,
    "file_mtime": 8,
    "file_owner": 2,
    "file_flags": 1,
    "file_runs": 4,
    "run_length": 8,
    "run_pack": 4,
    "run_offset": 8,
    "pack_writer": 4,
    "pack_size": 8,
    "pack_tail": 4,
    "pack_plain": 8,
}
BLOBS = ("directories", "file_names", "file_hashes", "pack_ids", "relations", "config_contents", "control")
NOWHERE = 0xFFFFFFFF
_FRAME = 1 << 20


@dataclass
class ManifestParts:
    """Everything a manifest consists of. ``places`` overrides where columns are said to lie."""

    facts: dict[str, Any]
    columns: dict[str, list[int]]
    directories: list[bytes]
    names: list[bytes]
    blobs: dict[str, bytes]
    config_files: list[list[Any]]
    places: dict[str, Any]
    more_meta: dict[str, Any]

    def render(self, context: bytes) -> bytes:
        plain = bytearray()
        places: dict[str, Any] = {}
        for name, width in WIDTHS.items():
            name = "run_step" if name == "run_offset" and "run_step" in self.columns else name
            values = self.columns[name]
            places[name] = [len(plain), len(values)]
            rows = [(value % (1 << 8 * width)).to_bytes(width, "little") for value in values]
            plain += b"".join(bytes(row[byte] for row in rows) for byte in range(width))
        blobs = {
            **self.blobs,
            "directories": b"".join(name + b"\0" for name in self.directories),
            "file_names": b"".join(name + b"\0" for name in self.names),
        }
        for name in BLOBS:
            places[name] = [len(plain), len(blobs[name])]
            plain += blobs[name]
        frames = [Frame(plain=bytes(plain[start : start + _FRAME])) for start in range(0, len(plain), _FRAME)]
        meta = {"facts": self.facts, "columns": {**places, **self.places}, "config_files": self.config_files}
        return Forgery(kind=MANIFEST, context=context, frames=frames, meta={**meta, **self.more_meta}).render()

    def add_file(self, directory: bytes, name: bytes, content: tuple[int, int, int] | None = None) -> None:
        """One more file in its order, empty or one run (length, pack, offset); the facts are made to agree."""
        number = self.directories.index(directory)
        keys = list(zip(self.columns["file_directory"], self.names, strict=True))
        at = sum(key < (number, name) for key in keys)
        size = content[0] if content else 0
        row = {"file_directory": number, "file_size": size, "file_mode": 0o600, "file_mtime": 0, "file_owner": 0}
        for column, value in {**row, "file_flags": 0, "file_runs": 1 if content else 0}.items():
            self.columns[column].insert(at, value)
        self.names.insert(at, name)
        hashes = self.blobs["file_hashes"]
        self.blobs["file_hashes"] = hashes[: 16 * at] + bytes(16) + hashes[16 * at :]
        if content:
            run = sum(self.columns["file_runs"][:at])
            for column, value in zip(("run_length", "run_pack", "run_offset"), content, strict=True):
                self.columns[column].insert(run, value)
        self.facts["file_count"] += 1
        self.facts["total_bytes"] += size

    def add_directory(self, path: bytes) -> None:
        self.directories.append(path)
        self.columns["directory_mode"].append(0o700)


Edit = Callable[[ManifestParts], None]


def take_apart(container: Container) -> ManifestParts:
    """The parts of a manifest that was written by ``render_manifest``."""
    plain = container.read_all()
    meta = json.loads(json.dumps(container.meta))
    places = meta["columns"]

    def column(name: str, width: int) -> list[int]:
        start, count = places[name]
        planes = [plain[start + byte * count : start + (byte + 1) * count] for byte in range(width)]
        return [int.from_bytes(bytes(row), "little") for row in zip(*planes, strict=True)]

    def blob(name: str) -> bytes:
        start, length = places[name]
        return plain[start : start + length]

    columns = {name: column(name, width) for name, width in WIDTHS.items() if name in places}
    if "run_rank" in places:
        lengths = column("run_lengths", 8)
        columns["run_length"] = [lengths[rank] for rank in column("run_rank", 2)]
    ends: dict[int, int] = {}
    offsets = columns["run_offset"] = []
    for length, pack, step in zip(columns["run_length"], columns["run_pack"], column("run_step", 8), strict=True):
        offsets.append((ends.get(pack, 0) + step) % (1 << 64))
        if pack != NOWHERE:
            ends[pack] = offsets[-1] + length
    return ManifestParts(
        facts=meta["facts"],
        columns=columns,
        directories=blob("directories").split(b"\0")[:-1],
        names=blob("file_names").split(b"\0")[:-1],
        blobs={name: blob(name) for name in BLOBS},
        config_files=meta["config_files"],
        places={},
        more_meta={"pack_writers": meta["pack_writers"]},
    )


def forge_backup(repository: Repository, label: str, edit: Edit) -> None:
    """Replace a backup's manifest by an edited one, and its decision by one that names it."""
    store = repository.store
    assert isinstance(store, MemoryStore)
    prefix = f"clusters/{CLUSTER}/backups/{label}/"
    parts = take_apart(repository.read_container(prefix + "manifest", Kind.MANIFEST))
    edit(parts)
    content = parts.render(repository.context(prefix + "manifest").encode())
    decision = repository.read_document(prefix + "decision")
    decision["manifest"] = hash_of(content).hex()
    for name, data in (
        (prefix + "manifest", content),
        (prefix + "decision", repository.render_document(prefix + "decision", decision)),
    ):
        store.delete(name)
        store.create(name, [data])
