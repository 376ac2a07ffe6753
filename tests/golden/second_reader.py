"""A second reader of repositories, written from docs/format.md alone.

It imports nothing of pghaven: only the standard library, a zstd decoder and BLAKE3. So it proves that the page is
enough to get data back, and that both understand it in the same way. Objects in the open only.

    python second_reader.py REPOSITORY list
    python second_reader.py REPOSITORY extract CLUSTER LABEL TARGET
    python second_reader.py REPOSITORY wal CLUSTER SYSTEM_IDENTIFIER FILE TARGET
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1 << 20
HEADER_BYTES, FOOTER_BYTES = 16, 120
PACK, MANIFEST, WAL = 1, 2, 3
NOWHERE = 0xFFFFFFFF
COLUMNS = {
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


FACTS = {
    "label": str,
    "cluster": str,
    "system_identifier": str,
    "timeline": int,
    "start_lsn": str,
    "stop_lsn": str,
    "wal_segment_size": int,
    "block_size": int,
    "segment_blocks": int,
    "backup_label": str,
    "file_count": int,
    "total_bytes": int,
    "tablespaces": list,
    "owners": list,
}


class Unreadable(Exception):
    """What is there is not what was stored, or is beyond the limits."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Unreadable(what)


# -- documents ----------------------------------------------------------------------------------------------------


def parse_document(context: str, data: bytes) -> dict[str, Any]:
    require(len(data) <= 4 * MIB, "a document of more than 4 MiB")
    line, newline, proof = data.partition(b"\n")
    line += newline
    require(proof == blake3(context.encode() + b"\0" + line).hexdigest().encode() + b"\n", "a document's hash is wrong")
    body = json.loads(line)
    require(isinstance(body, dict), "a document is no object")
    return body


# -- containers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """One row of an index."""

    at: int
    stored_length: int
    plain_at: int
    plain_length: int
    codec: int
    proof: bytes
    by_cells: bool

    def open(self, stored: bytes) -> bytes:
        require(len(stored) == self.stored_length, "a frame is cut short")
        if self.codec == 0:
            plain = stored
        else:
            require(self.codec == 1, "an unknown codec")
            decoder = zstd.ZstdDecompressor()
            plain = decoder.decompress(stored, max_length=self.plain_length)
            if not decoder.eof:
                require(decoder.decompress(b"", max_length=1) == b"" and decoder.eof, "a frame is longer than it says")
            require(not decoder.unused_data, "bytes behind a frame")
        require(len(plain) == self.plain_length, "a frame is shorter than it says")
        require(blake3(hash_cells(plain) if self.by_cells else plain).digest() == self.proof, "a frame's hash is wrong")
        return plain


def hash_cells(plain: bytes) -> bytes:
    return b"".join(blake3(plain[at : at + 8192]).digest()[:16] for at in range(0, len(plain), 8192))


@dataclass(frozen=True)
class Index:
    proof: bytes
    facts: dict[str, Any]
    frames: list[Frame]
    plain_length: int


def make_header(kind: int) -> bytes:
    return b"pghaven\x01" + struct.pack("<HB5x", 1, kind)


def parse_end(end: bytes, size: int, kind: int, context: bytes) -> Index:
    """The index, from the last bytes of an object of ``size`` bytes."""
    require(len(end) >= FOOTER_BYTES and end[-8:] == b"\x01nevahgp", "no end mark")
    footer, proof = end[-120:-40], end[-40:-8]
    index_at, index_length, count, plain_length, of_kind, seal = struct.unpack_from("<QIIQBB", footer)
    require(count <= MIB and index_length <= 64 * MIB + 45 * count + 1024, "too many frames or facts")
    require(seal == 0, "it is sealed")
    require(footer[26:80] == bytes(54) and of_kind == kind, "a footer that cannot be")
    require(index_at + index_length + FOOTER_BYTES == size and len(end) >= index_length + FOOTER_BYTES, "wrong sizes")
    index = end[len(end) - FOOTER_BYTES - index_length : len(end) - FOOTER_BYTES]
    hashed = struct.pack("<I", len(context)) + context + make_header(kind) + index + footer
    require(blake3(hashed).digest() == proof, "the container hash is wrong")

    (facts_length,) = struct.unpack_from("<I", index)
    at = 4 + facts_length
    require(facts_length <= 64 * MIB and len(index) == at + 45 * count, "an index of the wrong size")
    facts = json.loads(index[4:at])
    stored = struct.unpack_from(f"<{count}I", index, at)
    plain = struct.unpack_from(f"<{count}I", index, at + 4 * count)
    codecs = index[at + 8 * count : at + 9 * count]
    proofs = index[at + 13 * count :]
    frames = []
    where, plain_where = HEADER_BYTES, 0
    for number in range(count):
        require(0 < plain[number] <= MIB and 0 < stored[number] <= plain[number], "a frame out of bounds")
        found = proofs[32 * number : 32 * number + 32]
        frames.append(Frame(where, stored[number], plain_where, plain[number], codecs[number], found, kind == PACK))
        where += stored[number]
        plain_where += plain[number]
    cells = sum(-(-length // 8192) for length in plain) if kind == PACK else 0
    require(where + 16 * cells == index_at and plain_where == plain_length, "frames do not fill it")
    return Index(proof, facts, frames, plain_length)


# -- repositories -------------------------------------------------------------------------------------------------


class Repository:
    """One in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        descriptor = parse_document("pghaven.json", self.read("pghaven.json"))
        require(descriptor["format"] == "pghaven repository", "another format")
        require(descriptor["min_reader"] <= 1 and not descriptor["required_features"], "a newer format")
        self.id: str = descriptor["repository_id"]

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def document(self, name: str) -> dict[str, Any]:
        return parse_document(f"{self.id}/{name}", self.read(name))

    def container(self, name: str, kind: int, plain_max: int) -> tuple[Index, bytes]:
        """A whole container and its plain bytes."""
        data = self.read(name)
        require(data[:HEADER_BYTES] == make_header(kind), "no header")
        index = parse_end(data, len(data), kind, f"{self.id}/{name}".encode())
        require(index.plain_length <= plain_max, "it would unpack to too much")
        return index, b"".join(frame.open(data[frame.at : frame.at + frame.stored_length]) for frame in index.frames)

    def clusters(self) -> list[str]:
        return children(self.root / "clusters")

    def backups(self, cluster: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Labels and decisions of the backups that are there."""
        for label in children(self.root / "clusters" / cluster / "backups"):
            prefix = f"clusters/{cluster}/backups/{label}/"
            if not all((self.root / prefix / part).is_file() for part in ("intent", "decision")):
                continue
            decision = self.document(prefix + "decision")
            require(decision["decision"] in ("commit", "abandon"), "no decision")
            of_backup = self.document(prefix + "intent")["purpose"] == "backup"
            if decision["decision"] == "commit" and of_backup and not self.is_retired(prefix):
                yield label, decision

    def is_retired(self, prefix: str) -> bool:
        retired = children(self.root / prefix / "retire")
        fate = prefix + f"fate/{retired[-1]}" if retired else ""
        return bool(retired) and not ((self.root / fate).is_file() and self.document(fate)["fate"] == "keep")

    def find_manifest(self, cluster: str, label: str, decided: str) -> tuple[str, str]:
        """The name and the hash of a backup's newest manifest that counts."""
        prefix = f"clusters/{cluster}/backups/{label}/"
        for generation in reversed(children(self.root / prefix / "generations")):
            compaction = f"clusters/{cluster}/backups/{generation.partition('-')[2]}/"
            is_there = all((self.root / compaction / part).is_file() for part in ("intent", "decision"))
            decision = self.document(compaction + "decision") if is_there else {}
            if decision.get("decision") == "commit" and label in decision["generations"]:
                return f"{prefix}generations/{generation}/manifest", decision["generations"][label]
        return prefix + "manifest", decided

    def wal(self, cluster: str, system_identifier: str, name: str) -> bytes:
        place = f"other/{name}"
        if re.match("[0-9A-F]{24}", name):
            place = f"{name[:8]}/{name[8:16]}/{name}"
        elif re.fullmatch(r"[0-9A-F]{8}\.history", name):
            place = f"{name[:8]}/{name}"
        index, content = self.container(f"clusters/{cluster}/wal/{system_identifier}/{place}", WAL, 1 << 30)
        facts = index.facts
        require(facts["name"] == name and facts["size"] == len(content), "another file")
        require(facts["hash"] == blake3(content).hexdigest(), "the file's hash is wrong")
        return content


def children(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(".")) if path.is_dir() else []


# -- backups ------------------------------------------------------------------------------------------------------


class Backup:
    """One backup: its manifest, proven and checked."""

    def __init__(self, repository: Repository, cluster: str, label: str) -> None:
        decisions = dict(repository.backups(cluster))
        require(label in decisions, f"there is no backup {label}")
        name, proof = repository.find_manifest(cluster, label, decisions[label]["manifest"])
        index, plain = repository.container(name, MANIFEST, 4 << 30)
        require(index.proof.hex() == proof, "not the manifest that was decided on")
        self.repository = repository
        self.cluster = cluster
        self.facts = index.facts["facts"]
        require((self.facts["cluster"], self.facts["label"]) == (cluster, label), "another backup's manifest")
        self._plain = plain
        self._places = index.facts["columns"]
        self._config_files = index.facts["config_files"]
        self._writers = index.facts["pack_writers"]
        self.columns = {column: self._column(column, width) for column, width in COLUMNS.items()}
        self.directories = self._names("directories", len(self.columns["directory_mode"]))
        self.names = self._names("file_names", len(self.columns["file_size"]))
        self.control = self._blob("control")
        self.pack_ids = self._blob("pack_ids")
        self._check()

    def _blob(self, name: str, width: int = 1) -> bytes:
        offset, count = self._places[name]
        require(offset >= 0 and count >= 0 and offset + width * count <= len(self._plain), f"{name} is not there")
        return self._plain[offset : offset + width * count]

    def _column(self, name: str, width: int) -> list[int]:
        planes, count = self._blob(name, width), self._places[name][1]
        rows = zip(*(planes[count * byte : count * (byte + 1)] for byte in range(width)), strict=True)
        return [int.from_bytes(bytes(row), "little", signed=name == "file_mtime") for row in rows]

    def _names(self, blob: str, count: int) -> list[bytes]:
        names = self._blob(blob).split(b"\0")
        require(names.pop() == b"" and len(names) == count, f"{blob} has another number of names")
        return names

    def _check_facts(self) -> None:
        facts = self.facts
        for name, kind in FACTS.items():
            require(type(facts[name]) is kind, f"{name} is of another type")
        first, last = (
            int(high, 16) << 32 | int(low, 16) for high, low in map(split_lsn, (facts["start_lsn"], facts["stop_lsn"]))
        )
        size = facts["wal_segment_size"]
        require(first <= last and facts["block_size"] > 0 and facts["segment_blocks"] > 0, "facts that cannot be")
        require(MIB <= size <= 1024 * MIB and size & (size - 1) == 0, "no size of WAL segments")
        oids = [one["oid"] for one in facts["tablespaces"]]
        require(
            all(type(oid) is int and 0 < oid < 1 << 32 for oid in oids) and len(set(oids)) == len(oids), "tablespaces"
        )
        paths = [one["path"] for one in facts["tablespaces"]] + [row[1] for row in self._config_files]
        require(all(isinstance(path, str) and path and "\0" not in path for path in paths), "a path that cannot be")
        contents = sum(length for _, _, _, length in self._config_files)
        require(contents == self._places["config_contents"][1], "configuration files of another length")

    def _check(self) -> None:
        columns = self.columns
        self._check_facts()
        for table in ("file", "run", "pack"):
            require(
                len({len(column) for name, column in columns.items() if name.startswith(table)}) == 1,
                f"{table}s differ",
            )
        seen: set[bytes] = set()
        tablespaces = {b"%d" % one["oid"] for one in self.facts["tablespaces"]}
        for path in self.directories:
            parts = path.split(b"/") if path else []
            require(all(map(is_name, parts)) and len(path) <= 4096 and len(parts) <= 64, "a directory that cannot be")
            require(path not in seen and (not path or path.rpartition(b"/")[0] in seen), "directories in disorder")
            require(parts[:1] != [b"pg_tblspc"] or len(parts) < 2 or parts[1] in tablespaces, "no such tablespace")
            seen.add(path)
        require(b"global" in seen, "no global")
        taken = seen | {b"global/pg_control", b"pghaven.restore.json"} | {b"pg_tblspc/" + oid for oid in tablespaces}
        previous = (-1, b"")
        for directory, name in zip(columns["file_directory"], self.names, strict=True):
            require(
                is_name(name) and directory < len(self.directories) and (directory, name) > previous,
                "files in disorder",
            )
            previous = (directory, name)
            require(self.path(directory, name) not in taken, "a file that cannot be")
        require(all(owner < len(self.facts["owners"]) for owner in columns["file_owner"]), "a file of nobody")
        require(len(self.pack_ids) == 32 * len(columns["pack_size"]), "packs without ids")
        require(all(writer < len(self._writers) for writer in columns["pack_writer"]), "a pack of nobody")
        require(all(re.fullmatch("[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", label) for label in self._writers), "no label")
        require(len(self._blob("file_hashes")) == 16 * len(self.names), "files without hashes")
        require(self.facts["file_count"] == len(self.names), "another number of files")
        require(self.facts["total_bytes"] == sum(columns["file_size"]), "another number of bytes")
        self._check_runs()

    def _check_runs(self) -> None:
        columns = self.columns
        require(sum(columns["file_runs"]) == len(columns["run_length"]), "another number of runs")
        run = 0
        for size, count in zip(columns["file_size"], columns["file_runs"], strict=True):
            require(sum(columns["run_length"][run : run + count]) == size <= 1 << 60, "runs do not make the file")
            run += count
        for length, pack, offset in zip(columns["run_length"], columns["run_pack"], columns["run_offset"], strict=True):
            require(length > 0, "an empty run")
            if pack != NOWHERE:
                require(pack < len(columns["pack_plain"]), "no such pack")
                require(offset + length <= columns["pack_plain"][pack], "a run beyond its pack")

    def path(self, directory: int, name: bytes) -> bytes:
        above = self.directories[directory]
        return above + b"/" + name if above else name

    def extract(self, target: Path) -> None:
        """Every file to where it was, tablespaces as plain directories; then what makes it a data directory."""
        root = os.fsencode(target)
        for path in self.directories:
            os.makedirs(root + b"/" + path, 0o700, exist_ok=True)
        run = 0
        for number, name in enumerate(self.names):
            place = root + b"/" + self.path(self.columns["file_directory"][number], name)
            count = self.columns["file_runs"][number]
            with open(place, "xb") as file:
                for one in range(run, run + count):
                    self._write_run(file, one)
            run += count
            mtime = self.columns["file_mtime"][number]
            os.utime(place, ns=(mtime, mtime))
        (target / "backup_label").write_text(self.facts["backup_label"])
        (target / "global" / "pg_control").write_bytes(self.control)

    def _write_run(self, file: Any, run: int) -> None:
        length, pack = self.columns["run_length"][run], self.columns["run_pack"][run]
        if pack == NOWHERE:
            file.write(bytes(length))
            return
        first = self.columns["run_offset"][run]
        for frame, plain in self._frames(pack, first, first + length):
            file.write(plain[max(first - frame.plain_at, 0) : first + length - frame.plain_at])

    def _frames(self, pack: int, first: int, end: int) -> Iterator[tuple[Frame, bytes]]:
        """The frames of a pack that hold these plain bytes."""
        pack_id = self.pack_ids[32 * pack : 32 * pack + 32]
        name = pack_id.hex()
        writer = self._writers[self.columns["pack_writer"][pack]]
        path = self.repository.root / f"clusters/{self.cluster}/packs/{writer}/{name}"
        size, tail = self.columns["pack_size"][pack], self.columns["pack_tail"][pack]
        require(tail >= FOOTER_BYTES and tail + HEADER_BYTES <= size, "a pack that cannot be")
        with open(path, "rb") as file:
            require(file.read(HEADER_BYTES) == make_header(PACK), "no header")
            file.seek(size - tail)
            context = f"{self.repository.id}/clusters/{self.cluster}/packs/{writer}/".encode()
            index = parse_end(file.read(tail), size, PACK, context)
            require(index.proof == pack_id, "another pack")
            require(index.plain_length == self.columns["pack_plain"][pack], "a pack of another length")
            for frame in index.frames:
                if frame.plain_at < end and first < frame.plain_at + frame.plain_length:
                    file.seek(frame.at)
                    yield frame, frame.open(file.read(frame.stored_length))


def split_lsn(text: str) -> list[str]:
    require(re.fullmatch("[0-9A-F]{1,8}/[0-9A-F]{1,8}", text) is not None, "no WAL position")
    return text.split("/")


def is_name(name: bytes) -> bool:
    return 0 < len(name) <= 255 and name not in (b".", b"..") and b"/" not in name


def main(arguments: list[str]) -> None:
    repository = Repository(Path(arguments[0]))
    if arguments[1] == "list":
        for cluster in repository.clusters():
            for label, decision in repository.backups(cluster):
                print(cluster, label, decision["summary"]["start_lsn"], decision["summary"]["stop_lsn"])
    elif arguments[1] == "extract":
        Backup(repository, arguments[2], arguments[3]).extract(Path(arguments[4]))
    elif arguments[1] == "wal":
        Path(arguments[5]).write_bytes(repository.wal(*arguments[2:5]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
