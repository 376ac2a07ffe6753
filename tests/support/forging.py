"""Objects as somebody could make them who can write to the store: every hash right, and every number free.

The one idea: in the open, hashes only find accidents. What a reader refuses must be refused although the object is
well formed, so these are written from the format's page and not with the classes that would not write them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
from blake3 import blake3

from pghaven.repository.codec import zstd  # type: ignore[attr-defined]

HEAD = b"pghaven\x01"
END = b"\x01nevahgp"
PACK, MANIFEST, WAL = 1, 2, 3
STORED, ZSTD = 0, 1
FOOTER_BYTES = 120


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame. What is None is made to fit ``stored``, or ``plain`` where that is given alone."""

    plain: bytes = b""
    stored: bytes | None = None
    codec: int | None = None
    plain_length: int | None = None
    stored_length: int | None = None

    def columns(self, kind: int) -> tuple[bytes, int, int, int, int, bytes]:
        stored = zstd.compress(self.plain) if self.stored is None else self.stored
        codec = ZSTD if self.codec is None else self.codec
        plain_length = len(self.plain) if self.plain_length is None else self.plain_length
        stored_length = len(stored) if self.stored_length is None else self.stored_length
        hashed = self.cells() if kind == PACK else self.plain
        return stored, stored_length, plain_length, codec, google_crc32c.value(stored), blake3(hashed).digest()

    def cells(self) -> bytes:
        return b"".join(blake3(self.plain[at : at + 8192]).digest()[:16] for at in range(0, len(self.plain), 8192))


@dataclass(frozen=True, kw_only=True)
class Forgery:
    """A container. The fields below ``meta`` replace what would be right."""

    kind: int
    context: bytes
    frames: Sequence[Frame] = ()
    meta: Mapping[str, Any] | bytes = b"{}"
    meta_length: int | None = None
    frame_count: int | None = None
    plain_length: int | None = None
    index_offset: int | None = None
    index_length: int | None = None
    footer_kind: int | None = None
    seal: int = 0
    zero: bytes = bytes(6)
    key_id: bytes = bytes(16)
    salt: bytes = bytes(32)
    header: bytes | None = None
    after_frames: bytes = b""
    cells: bytes | None = None
    after_index: bytes = b""

    def render(self) -> bytes:
        header = HEAD + struct.pack("<HB5s", 1, self.kind, bytes(5))
        columns = [frame.columns(self.kind) for frame in self.frames]
        cells = b"".join(frame.cells() for frame in self.frames) if self.kind == PACK else b""
        body = b"".join(column[0] for column in columns) + self.after_frames
        body += cells if self.cells is None else self.cells
        meta = self.meta if isinstance(self.meta, bytes) else json.dumps(self.meta).encode()
        index = b"".join(
            (
                struct.pack("<I", len(meta) if self.meta_length is None else self.meta_length),
                meta,
                b"".join(struct.pack("<I", column[1]) for column in columns),
                b"".join(struct.pack("<I", column[2]) for column in columns),
                bytes(column[3] for column in columns),
                b"".join(struct.pack("<I", column[4]) for column in columns),
                b"".join(column[5] for column in columns),
                self.after_index,
            )
        )
        offset = len(header) + len(body)
        footer = struct.pack(
            "<QIIQBB6s16s32s",
            offset if self.index_offset is None else self.index_offset,
            len(index) if self.index_length is None else self.index_length,
            len(columns) if self.frame_count is None else self.frame_count,
            sum(column[2] for column in columns) if self.plain_length is None else self.plain_length,
            self.kind if self.footer_kind is None else self.footer_kind,
            self.seal,
            self.zero,
            self.key_id,
            self.salt,
        )
        proof = blake3(struct.pack("<I", len(self.context)) + self.context + header + index + footer).digest()
        return (header if self.header is None else self.header) + body + index + footer + proof + END


def hash_of(container: bytes) -> bytes:
    """The hash in a container's footer: a pack's id, and how a decision names a manifest."""
    return container[-40:-8]


def forge_document(context: str, line: bytes) -> bytes:
    """A document whose first line is anything."""
    return line + b"\n" + blake3(context.encode() + b"\0" + line + b"\n").hexdigest().encode() + b"\n"
