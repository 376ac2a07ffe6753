"""Containers: what goes in comes out, proven, and only as the object it was stored as."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pghaven.errors import Damaged, NotPermitted, Refused
from pghaven.repository.codec import Compressor
from pghaven.repository.container import (
    FOOTER_BYTES,
    FRAME_BYTES,
    HEADER_BYTES,
    Container,
    ContainerWriter,
    FinishedContainer,
    Kind,
    parse_tail,
    read_tail_length,
)
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from tests.support.forging import Forgery, Frame, hash_of
from tests.support.synthetic import SEALED

CONTEXT = b"repository/clusters/shop/wal/x"
RINGS = [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")]
PARTS = [b"a" * 500, os.urandom(300), b"c"]


def write(parts: list[bytes], ring: Keyring = OPEN_KEYRING, meta: dict[str, Any] | None = None) -> FinishedContainer:
    writer = ContainerWriter(Kind.WAL, CONTEXT, ring, Compressor(1))
    for part in parts:
        writer.add(part)
    return writer.finish(meta or {})


def read(data: bytes, ring: Keyring = OPEN_KEYRING, kind: Kind = Kind.WAL, context: bytes = CONTEXT) -> Container:
    return Container(data, kind=kind, context=context, keyring=ring)


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("length", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES + 5])
def test_any_length_comes_back(length: int, ring: Keyring) -> None:
    plain = (b"0123456789abcdef" * (length // 16 + 1))[:length]
    container = read(write([plain], ring).to_bytes(), ring)
    assert container.read_all() == plain
    assert container.index.plain_length == length
    assert len(container.index.crcs) == -(-length // FRAME_BYTES)


@pytest.mark.parametrize("ring", RINGS)
def test_sizes_and_hash_are_what_was_said_when_it_was_written(ring: Keyring) -> None:
    finished = write(PARTS, ring)
    container = read(finished.to_bytes(), ring)
    assert finished.size_bytes == len(finished.to_bytes()) == container.size_bytes
    assert finished.hash == container.index.hash == hash_of(finished.to_bytes())
    assert finished.plain_length == sum(map(len, PARTS))
    assert finished.tail_bytes == read_tail_length(finished.to_bytes()[-FOOTER_BYTES:])


def test_facts_come_back() -> None:
    meta = {"text": "ä\n\0", "number": -(1 << 70), "nested": {"a": [1, None, True, 1.5]}}
    assert read(write(PARTS, meta=meta).to_bytes()).meta == meta


@pytest.mark.parametrize("ring", RINGS)
def test_the_tail_alone_proves_the_index(ring: Keyring) -> None:
    finished = write(PARTS, ring)
    whole = read(finished.to_bytes(), ring).index
    for more in (0, 1, 40):
        tail = finished.to_bytes()[-finished.tail_bytes - more :]
        index = parse_tail(tail, size_bytes=finished.size_bytes, kind=Kind.WAL, context=CONTEXT, keyring=ring)
        assert (index.hash, index.stored_offsets) == (whole.hash, whole.stored_offsets)


@pytest.mark.parametrize("ring", RINGS)
def test_every_plain_byte_is_in_the_frame_the_index_says(ring: Keyring) -> None:
    data = write(PARTS, ring).to_bytes()
    index = read(data, ring).index
    joined = b"".join(PARTS)
    for offset in range(len(joined)):
        number = index.frame_at(offset)
        start, stored = index.stored_offsets[number], index.stored_lengths[number]
        plain = bytes(index.open_frame(number, data[start : start + stored]))
        assert plain[offset - index.plain_offsets[number]] == joined[offset]


@pytest.mark.parametrize("ring", RINGS)
def test_a_frame_in_place_of_another_is_found(ring: Keyring) -> None:
    parts = [b"one page" * 9, b"two page" * 9]
    data = write(parts, ring).to_bytes()
    index = read(data, ring).index
    start, length = index.stored_offsets[0], index.stored_lengths[0]
    with pytest.raises(Damaged, match="frame 1 is damaged"):
        index.open_frame(1, data[start : start + length])


@pytest.mark.parametrize("ring", RINGS)
def test_what_is_only_compared_is_still_found_where_what_is_stored_has_changed(ring: Keyring) -> None:
    data = bytearray(write(PARTS, ring).to_bytes())
    index = read(bytes(data), ring).index
    start, length = index.stored_offsets[0], index.stored_lengths[0]
    assert bytes(index.open_frame(0, data[start : start + length], is_compared=True)) == PARTS[0]
    data[start + length // 2] ^= 1
    with pytest.raises(Damaged, match="frame 0 is damaged"):
        index.open_frame(0, data[start : start + length], is_compared=True)


def test_a_frame_of_the_same_checksum_and_length_is_found_by_its_hash() -> None:
    """CRC-32C is linear: four bytes can be chosen so that any other frame has the same one. The hash stands apart."""
    good, other = Frame(plain=b"good" * 8), Frame(plain=b"evil" * 8)

    class Mixed(Frame):
        def columns(self, kind: int) -> tuple[bytes, int, int, int, int, bytes]:
            return (*other.columns(kind)[:5], good.columns(kind)[5])

    data = Forgery(kind=Kind.WAL, context=CONTEXT, frames=[Mixed()]).render()
    with pytest.raises(Damaged, match="frame 0 is damaged: its contents do not have the hash"):
        read(data).read_all()


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize(
    ("kind", "context"),
    [(Kind.PACK, CONTEXT), (Kind.MANIFEST, CONTEXT), (Kind.WAL, CONTEXT + b"x"), (Kind.WAL, CONTEXT[:-1])],
)
def test_it_is_no_other_object(kind: Kind, context: bytes, ring: Keyring) -> None:
    data = write(PARTS, ring).to_bytes()
    with pytest.raises(Damaged, match="not the object it is named as"):
        read(data, ring, kind, context)


def test_context_and_index_cannot_be_shifted_into_each_other() -> None:
    """The context's length is hashed, so a longer context with a shorter index is another object."""
    with pytest.raises(Damaged):
        read(write(PARTS).to_bytes(), context=CONTEXT + bytes(16))


def test_sealed_and_open_are_not_mixed() -> None:
    with pytest.raises(NotPermitted):
        read(write(PARTS, SEALED).to_bytes(), OPEN_KEYRING)
    with pytest.raises(Damaged, match="not sealed although"):
        read(write(PARTS, OPEN_KEYRING).to_bytes(), SEALED)


def test_sealing_hides_contents_and_facts() -> None:
    data = write([b"secret page " * 50], SEALED, {"name": "secret name"}).to_bytes()
    assert b"secret" not in data


def test_the_same_in_the_open_is_the_same_object_and_sealed_it_never_is() -> None:
    assert write(PARTS).to_bytes() == write(PARTS).to_bytes()
    assert write(PARTS, SEALED).hash != write(PARTS, SEALED).hash


@pytest.mark.parametrize("ring", RINGS)
def test_every_changed_byte_is_found(ring: Keyring) -> None:
    data = write([b"x" * 40, b"y" * 40], ring).to_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x5A
        with pytest.raises((Damaged, NotPermitted)):  # a key id that changed is one we do not have
            read(bytes(changed), ring).read_all()


@pytest.mark.parametrize("ring", RINGS)
def test_every_cut_and_every_extension_is_found(ring: Keyring) -> None:
    data = write([b"x" * 40, b"y" * 40], ring).to_bytes()
    for length in range(len(data)):
        with pytest.raises(Damaged):
            read(data[:length], ring)
        with pytest.raises(Damaged):
            read(data[length:], ring) if length else read(data + b"\0", ring)
    for changed in (data + data, b"\0" + data, data[:-FOOTER_BYTES] + b"\0" + data[-FOOTER_BYTES:]):
        with pytest.raises(Damaged):
            read(changed, ring)


def forge(**fields: Any) -> bytes:
    return Forgery(**{"kind": Kind.WAL, "context": CONTEXT, "frames": [Frame(plain=b"a" * 100)], **fields}).render()


def test_what_is_forged_rightly_is_read() -> None:
    assert read(forge(meta={"a": 1})).read_all() == b"a" * 100


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"footer_kind": Kind.PACK}, id="kind in the footer"),
        pytest.param({"footer_kind": 9}, id="unknown kind in the footer"),
        pytest.param({"header": bytes(16)}, id="no header"),
        pytest.param({"header": b"pghaven\x02" + bytes(8)}, id="another magic"),
        pytest.param({"zero": b"\0\0\0\0\0\1"}, id="reserved bytes"),
        pytest.param({"seal": 3}, id="unknown seal"),
        pytest.param({"salt": b"s" * 32}, id="salt without seal"),
        pytest.param({"key_id": b"k" * 16}, id="key without seal"),
        pytest.param({"frame_count": 0}, id="fewer frames"),
        pytest.param({"frame_count": 2}, id="more frames"),
        pytest.param({"frame_count": 0xFFFFFFFF}, id="far more frames"),
        pytest.param({"index_length": 0}, id="no index"),
        pytest.param({"index_length": 5}, id="a shorter index"),
        pytest.param({"index_length": 0xFFFFFFFF}, id="an index of 4 GiB"),
        pytest.param({"index_offset": 0}, id="the index elsewhere"),
        pytest.param({"index_offset": (1 << 64) - 1}, id="the index far off"),
        pytest.param({"plain_length": 99}, id="less content"),
        pytest.param({"plain_length": (1 << 64) - 1}, id="far more content"),
        pytest.param({"after_frames": b"hidden"}, id="bytes in no frame"),
        pytest.param({"after_index": b"hidden"}, id="bytes behind the index"),
        pytest.param({"meta_length": 0}, id="no facts"),
        pytest.param({"meta_length": 3}, id="facts that reach into the columns"),
        pytest.param({"meta_length": 0xFFFFFFFF}, id="facts of 4 GiB"),
        pytest.param({"meta": b"[]"}, id="facts that are no object"),
        pytest.param({"meta": b"{"}, id="facts that are no JSON"),
        pytest.param({"meta": b"\xff\xff"}, id="facts that are no text"),
        pytest.param({"meta": b'{"a":' * 100000}, id="facts without a bottom"),
        pytest.param({"meta": b'{"a":1' + b"0" * 9999 + b"}"}, id="a fact that is a long number"),
        pytest.param({"frames": [Frame(plain=b"a", plain_length=0)]}, id="an empty frame"),
        pytest.param({"frames": [Frame(plain=b"a" * 100, plain_length=FRAME_BYTES + 1)]}, id="a frame above 1 MiB"),
        pytest.param({"frames": [Frame(plain=b"a" * 100, plain_length=0xFFFFFFFF)]}, id="a frame of 4 GiB"),
        pytest.param({"frames": [Frame(plain=b"a", stored=b"", codec=0)]}, id="a frame stored in nothing"),
        pytest.param({"frames": [Frame(plain=b"a", stored=bytes(18), codec=0)]}, id="a frame stored as more"),
        pytest.param({"frames": [Frame(plain=b"a" * 99, stored_length=0xFFFFFFFF)]}, id="a frame stored in 4 GiB"),
        pytest.param({"frames": [Frame(plain=b"a" * 99, codec=9)]}, id="an unknown codec"),
        pytest.param({"frames": [Frame(plain=b"a" * 99, codec=0)]}, id="the wrong codec"),
        pytest.param({"frames": [Frame(plain=b"a" * 99, plain_length=98)]}, id="a frame that unpacks to more"),
        pytest.param({"frames": [Frame(plain=b"a" * 99, plain_length=100)]}, id="a frame that unpacks to less"),
    ],
)
def test_what_cannot_be_is_damage_although_every_hash_is_right(fields: dict[str, Any]) -> None:
    with pytest.raises(Damaged):
        read(forge(**fields)).read_all()


@pytest.mark.parametrize("length", [0, FRAME_BYTES + 1])
def test_a_frame_of_no_length_or_above_the_limit_is_not_written(length: int) -> None:
    writer = ContainerWriter(Kind.PACK, CONTEXT, OPEN_KEYRING, Compressor(1))
    with pytest.raises(ValueError, match="a frame of"):
        writer.add_frame(bytes(length))


def test_more_facts_than_readers_take_are_not_written() -> None:
    writer = ContainerWriter(Kind.MANIFEST, CONTEXT, OPEN_KEYRING, Compressor(1))
    with pytest.raises(Refused, match="more than any reader takes"):
        writer.finish({"bad pages": "x" * (64 << 20)})


def test_a_footer_alone_says_how_much_to_fetch_and_no_more_than_there_can_be() -> None:
    finished = write(PARTS)
    footer = bytearray(finished.to_bytes()[-FOOTER_BYTES:])
    assert read_tail_length(footer) == finished.tail_bytes
    footer[8:12] = (0xFFFFFFFF).to_bytes(4, "little")
    with pytest.raises(Damaged, match="out of bounds"):
        read_tail_length(footer)
    with pytest.raises(Damaged, match="truncated"):
        read_tail_length(footer[1:])


def test_the_smallest_object_is_header_index_and_footer() -> None:
    assert len(write([]).to_bytes()) == HEADER_BYTES + 4 + 2 + FOOTER_BYTES
