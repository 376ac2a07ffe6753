"""Compression of frames: what was given comes back, or Damaged is raised; a bomb cannot grow."""

from __future__ import annotations

import os
import random
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.errors import Damaged
from pghaven.repository.codec import Codec, Compressor, WalCompressor, decompress, zstd

RANDOM = os.urandom(1000)
TEXT = b"the same words again and again, " * 40


@pytest.mark.parametrize("plain", [b"x", TEXT, RANDOM, bytes(1 << 20), RANDOM * 1048], ids=len)
def test_a_frame_comes_back_as_it_was(plain: bytes) -> None:
    codec, stored = Compressor(3).compress(plain)
    assert bytes(decompress(codec, stored, len(plain))) == plain


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=6), st.integers(-5, 19))
def test_frames_of_one_compressor_stand_by_themselves(frames: list[bytes], level: int) -> None:
    compressor = Compressor(level)
    packed = [compressor.compress(frame) for frame in frames]
    for (codec, stored), frame in reversed(list(zip(packed, frames, strict=True))):
        assert bytes(decompress(codec, stored, len(frame))) == frame


def test_a_wal_frame_is_zstd_as_any_other() -> None:
    frame = b"".join(number.to_bytes(8, "little") * 3 + os.urandom(8) for number in range(30_000))
    codec, stored = WalCompressor().compress(frame)
    assert codec is Codec.ZSTD
    assert len(stored) < len(frame) // 2
    assert zstd.decompress(stored) == frame


def test_wal_is_compressed_by_the_measure_that_suits_it() -> None:
    """What repeats itself in five bytes is made smaller than by level 1, and what does not is made no larger."""
    chosen = random.Random(7)
    words = [chosen.randbytes(5) for _ in range(300)]
    short = b"".join(chosen.choice(words) + chosen.randbytes(3) for _ in range(1 << 17))
    parts = [chosen.randbytes(40) for _ in range(9000)]
    long = b"".join(chosen.choice(parts) for _ in range((1 << 20) // 40))
    compressor, plain = WalCompressor(), Compressor(1)
    for _ in range(8):
        assert len(compressor.compress(short)[1]) < 0.9 * len(plain.compress(short)[1])
    sizes = [len(compressor.compress(long)[1]) for _ in range(8)]
    assert max(sizes) < 1.01 * len(plain.compress(long)[1])


def test_what_does_not_shrink_is_stored_as_it_is() -> None:
    assert Compressor(3).compress(RANDOM) == (Codec.STORED, RANDOM)
    assert Compressor(3).compress(TEXT)[0] is Codec.ZSTD


def test_nothing_is_stored_larger_than_it_is() -> None:
    compressor = Compressor(1)
    for length in range(1, 400):
        plain = RANDOM[:length]
        assert len(compressor.compress(plain)[1]) <= length


def test_a_reused_buffer_does_not_change_what_was_stored() -> None:
    buffer = bytearray(RANDOM)
    _, stored = Compressor(3).compress(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert stored == RANDOM


@pytest.mark.parametrize("length", [0, 1, len(TEXT) - 1, len(TEXT) + 1, 1 << 20])
def test_another_length_than_the_index_says_is_damage(length: int) -> None:
    with pytest.raises(Damaged):
        decompress(Codec.ZSTD, zstd.compress(TEXT), length)
    with pytest.raises(Damaged):
        decompress(Codec.STORED, TEXT, length)


def test_a_frame_cut_short_anywhere_is_damage() -> None:
    stored = zstd.compress(TEXT)
    for length in range(len(stored)):
        with pytest.raises(Damaged):
            decompress(Codec.ZSTD, stored[:length], len(TEXT))


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(zstd.compress(TEXT) + b"\0", id="a byte behind it"),
        pytest.param(zstd.compress(TEXT[:600]) + zstd.compress(TEXT[600:]), id="two frames"),
        pytest.param(b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstd.compress(TEXT), id="a skippable frame before it"),
        pytest.param(b"\x50\x2a\x4d\x18\x04\0\0\0skip", id="a skippable frame alone"),
        pytest.param(TEXT, id="no zstd"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_only_one_whole_zstd_frame_is_taken(stored: bytes) -> None:
    with pytest.raises(Damaged):
        decompress(Codec.ZSTD, stored, len(TEXT))


@pytest.mark.parametrize("codec", [2, 7, 255])
def test_an_unknown_codec_is_damage(codec: int) -> None:
    with pytest.raises(Damaged, match=f"method {codec} is not known"):
        decompress(codec, TEXT, len(TEXT))


def test_a_bomb_is_not_unpacked() -> None:
    """1 GiB of zeros in 32 KiB, in an index that says 1 MiB."""
    bomb = zstd.ZstdCompressor(level=1)
    chunk = bytes(16 << 20)
    stored = b"".join(bomb.compress(chunk) for _ in range(64)) + bomb.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Damaged, match="more than its index says"):
        decompress(Codec.ZSTD, stored, 1 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_a_window_of_two_gigabytes_is_not_allocated() -> None:
    # A frame header (RFC 8878, 3.1.1.1) with no size, no checksum and a window of 2 GiB.
    stored = b"\x28\xb5\x2f\xfd" + bytes([0b0000_0000, (31 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(Damaged):
        decompress(Codec.ZSTD, stored, 1)
