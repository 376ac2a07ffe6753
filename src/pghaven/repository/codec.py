"""Compression of one frame: zstd, or stored as it is when that is not smaller.

The one idea: a frame's plain length is known before it is decompressed, so a decompression bomb cannot grow past it.
"""

from __future__ import annotations

import sys
from enum import IntEnum

from pghaven.errors import Damaged

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Buffer = bytes | bytearray | memoryview


class Codec(IntEnum):
    """How a frame's bytes are stored; the numbers are part of the format."""

    STORED = 0
    ZSTD = 1


# zstd's parameters for level 3 are made for input without end. In 1 MiB a table of short matches of 64 KiB, which stays
# in the processor's own caches, finds as much as one of 256 KiB: measured on pages of pgbench, text, JSON, numbers and
# indexes, 8 % less time at the same size.
_TUNING: dict[int, dict[int, int]] = {3: {zstd.CompressionParameter.chain_log: 14}}

# A window that stays in the processor's caches; and for short records, and pages in which much is alike, a small table
# and matches of five bytes in place of seven. What both were measured on is in docs/design/decisions/0046.
_WAL: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.window_log: 18,
}
_WAL_ALIKE: dict[int, int] = {
    **_WAL,
    zstd.CompressionParameter.hash_log: 12,
    zstd.CompressionParameter.min_match: 5,
}
_SAMPLE_BYTES = 64 << 10
_SAMPLE_FRAMES = 4
# The small table does better at a frame's start than in the whole of it.
_WORTH = 0.995


class Compressor:
    """One reusable zstd context: at 1 MiB a frame, making a new one each time costs more than it looks."""

    def __init__(self, level: int) -> None:
        options = {zstd.CompressionParameter.compression_level: level, **_TUNING.get(level, {})}
        self._zstd = zstd.ZstdCompressor(options=options)

    def compress(self, plain: Buffer) -> tuple[Codec, bytes]:
        packed = self._zstd.compress(plain, zstd.ZstdCompressor.FLUSH_FRAME)
        if len(packed) < len(plain):
            return Codec.ZSTD, packed
        return Codec.STORED, bytes(plain)


class WalCompressor(Compressor):
    """In the time of level 1, and on the whole smaller than level 3: by one of two measures, whichever suits what the
    WAL is of. Every fourth frame the start of one is tried by both."""

    def __init__(self) -> None:
        self._plain = zstd.ZstdCompressor(options=_WAL)
        self._alike = zstd.ZstdCompressor(options=_WAL_ALIKE)
        self._frames = 0

    def compress(self, plain: Buffer) -> tuple[Codec, bytes]:
        if self._frames % _SAMPLE_FRAMES == 0:
            self._choose(plain)
        self._frames += 1
        return super().compress(plain)

    def _choose(self, plain: Buffer) -> None:
        sample = memoryview(plain)[:_SAMPLE_BYTES]
        alike, other = (len(one.compress(sample, one.FLUSH_FRAME)) for one in (self._alike, self._plain))
        self._zstd = self._alike if alike < other * _WORTH else self._plain


# Follows long matches to their ends before it decides: of rows that differ in a few digits this makes a third less.
_HARDER: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 19,
    zstd.CompressionParameter.strategy: zstd.Strategy.btopt,
    zstd.CompressionParameter.min_match: 4,
    zstd.CompressionParameter.search_log: 1,
    zstd.CompressionParameter.target_length: 96,
    zstd.CompressionParameter.window_log: 20,
    zstd.CompressionParameter.hash_log: 17,
    zstd.CompressionParameter.chain_log: 17,
}
_SMALL = 8


class PatientCompressor(Compressor):
    """Tries harder with what becomes very small: that costs thirty times as much there, and nothing elsewhere."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._harder = zstd.ZstdCompressor(options=_HARDER)

    def compress(self, plain: Buffer) -> tuple[Codec, bytes]:
        codec, packed = super().compress(plain)
        if len(packed) * _SMALL < len(plain):
            packed = min(packed, self._harder.compress(plain, zstd.ZstdCompressor.FLUSH_FRAME), key=len)
        return codec, packed


def decompress(codec: int, stored: Buffer, plain_length: int) -> Buffer:
    """The plain bytes of one frame. Raises Damaged when they are not ``plain_length`` long or not zstd."""
    if codec == Codec.STORED:
        plain: Buffer = stored
    elif codec == Codec.ZSTD:
        decompressor = zstd.ZstdDecompressor()
        try:
            plain = decompressor.decompress(stored, max_length=plain_length)
        except zstd.ZstdError as error:
            raise Damaged(f"zstd could not decompress it: {error}") from error
        # max_length may be reached before zstd has read its end mark: nothing may follow but that.
        if not decompressor.eof and (decompressor.decompress(b"", max_length=1) or not decompressor.eof):
            raise Damaged("it decompresses to more than its index says")
        if decompressor.unused_data:
            raise Damaged("bytes follow its zstd frame")
    else:
        raise Damaged(f"its compression method {codec} is not known")
    if len(plain) != plain_length:
        raise Damaged(f"it has {len(plain)} plain bytes where its index says {plain_length}")
    return plain
