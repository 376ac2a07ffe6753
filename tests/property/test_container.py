"""Containers of any frames come back; any other bytes are Damaged and nothing else."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.errors import Damaged, NotPermitted
from pghaven.repository.codec import Codec, Compressor, decompress
from pghaven.repository.container import Container, ContainerWriter, Kind
from pghaven.repository.document import parse_document
from pghaven.repository.seal import OPEN_KEYRING, Keyring
from tests.support.synthetic import SEALED

CONTEXT = b"repository/clusters/shop/wal/x"
rings = st.sampled_from([OPEN_KEYRING, SEALED])
facts = st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=3)
# Bytes that compress and bytes that do not.
chunks = st.binary(min_size=1, max_size=60) | st.tuples(st.binary(min_size=1, max_size=3), st.integers(1, 90)).map(
    lambda pair: pair[0] * pair[1]
)


def write(frames: list[bytes], ring: Keyring, meta: dict[str, object]) -> bytes:
    writer = ContainerWriter(Kind.PACK, CONTEXT, ring, Compressor(1))
    for frame in frames:
        writer.add_frame(frame)
    return writer.finish(meta).to_bytes()


def read(data: bytes, ring: Keyring) -> Container:
    return Container(data, kind=Kind.PACK, context=CONTEXT, keyring=ring)


def read_whole(data: bytes, ring: Keyring) -> None:
    """All there is in a pack: its frames, and the hashes of their cells, which only some readers look at."""
    container = read(data, ring)
    container.read_all()
    begin = container.index.stored_offsets[-1]
    container.index.open_cells(data[begin : begin + container.index.cells_length])


@given(st.lists(chunks, max_size=8), rings, facts)
def test_any_frames_and_facts_come_back(frames: list[bytes], ring: Keyring, meta: dict[str, object]) -> None:
    container = read(write(frames, ring, meta), ring)
    assert [bytes(frame) for frame in container.iter_frames()] == frames
    assert container.read_all() == b"".join(frames)
    assert container.meta == meta


@given(st.lists(chunks, min_size=1, max_size=4), rings, st.data())
def test_any_change_is_found(frames: list[bytes], ring: Keyring, data: st.DataObject) -> None:
    good = write(frames, ring, {"a": 1})
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(start + 40, len(good))))
    changed = good[:start] + data.draw(st.binary(max_size=40)) + good[end:]
    if changed == good:
        return
    with pytest.raises((Damaged, NotPermitted)):
        read_whole(changed, ring)


@pytest.mark.parametrize("ring", [pytest.param(OPEN_KEYRING, id="open"), pytest.param(SEALED, id="sealed")])
def test_each_changed_byte_is_found(ring: Keyring) -> None:
    good = write([b"a" * 100, b"b"], ring, {"a": 1})
    for at in range(len(good)):
        with pytest.raises((Damaged, NotPermitted)):
            read_whole(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], ring)


@given(st.binary(max_size=300), rings)
def test_anything_else_is_no_container(data: bytes, ring: Keyring) -> None:
    with pytest.raises(Damaged):
        read(data, ring)


@given(st.binary(max_size=300) | st.text().map(lambda text: text.encode() + b"\n" + b"a" * 64 + b"\n"))
def test_anything_else_is_no_document(data: bytes) -> None:
    with pytest.raises(Damaged):
        parse_document("x", data)


@given(st.binary(max_size=200), st.sampled_from(Codec), st.integers(1, 1 << 20))
def test_anything_unpacks_to_the_length_it_should_have_or_is_damage(data: bytes, codec: Codec, length: int) -> None:
    with contextlib.suppress(Damaged):
        assert len(decompress(codec, data, length)) == length
