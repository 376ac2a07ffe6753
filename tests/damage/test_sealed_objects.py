"""What somebody can do who has the store and no key: he sets every hash right, and still nothing of his is taken.

The objects that he puts there are an open repository's, another sealed repository's, and the repository's own under
other names; each made to fit its new name as far as that goes without a key.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from pghaven.errors import Damaged, NotFound, NotPermitted
from pghaven.repository.container import FOOTER_BYTES, HEADER_BYTES, read_tail_length
from pghaven.repository.document import render_document
from pghaven.repository.repository import Repository
from pghaven.repository.seal import OPEN_KEYRING, DataKey, Keyring
from tests.support.places import scratch
from tests.support.reference import ObjectKind, Reference, kind_of, make_reference
from tests.support.synthetic import CLUSTER, SEALED

DOCUMENTS = (ObjectKind.LINEAGE, ObjectKind.INTENT, ObjectKind.DECISION)
KINDS = (*DOCUMENTS, ObjectKind.MANIFEST, ObjectKind.PACK, ObjectKind.WAL, ObjectKind.QUARANTINE)
STRANGER = Keyring(keys={bytes(range(16)): DataKey.from_root(bytes(32))}, current_key_id=bytes(range(16)))
# What an operator has who knows the public parts of the keys, and nothing else.
PUBLIC = Keyring(
    keys={key_id: DataKey(shared=bytes(32), public=key.public) for key_id, key in SEALED.keys.items()},
    current_key_id=SEALED.current_key_id,
)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sealed-", dir=scratch()))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def reference(root: Path) -> Reference:
    return make_reference(root / "ours", SEALED)


FOREIGN = {"open": OPEN_KEYRING, "another key": STRANGER, "the same key": SEALED, "the public parts": PUBLIC}


@pytest.fixture(scope="module", params=list(FOREIGN))
def foreign(root: Path, request: pytest.FixtureRequest) -> dict[str, bytes]:
    """The same objects of another repository, where ``the same key`` is one that somebody used twice."""
    ring = FOREIGN[request.param]
    if ring is PUBLIC:
        return make_public_twin()
    return make_reference(root / request.param.replace(" ", "-"), ring).content


def make_public_twin() -> dict[str, bytes]:
    """Sealed documents and containers of one who has no shared key; he cannot read back what he makes."""
    from pghaven.repository.codec import Compressor
    from pghaven.repository.container import ContainerWriter, Kind
    from pghaven.store.memory import MemoryStore
    from tests.support.synthetic import make_repository

    repository = make_repository(MemoryStore(), keyring=PUBLIC)
    made = {}
    for kind in Kind:
        writer = ContainerWriter(kind, b"x", PUBLIC, Compressor(1))
        writer.add(b"what he would like us to restore")
        made[f"{kind}"] = writer.finish({}).to_bytes()
    return {
        "document": repository.render_document("x", {"decision": "abandon"}),
        ObjectKind.PACK: made["1"],
        ObjectKind.MANIFEST: made["2"],
        ObjectKind.WAL: made["3"],
        ObjectKind.QUARANTINE: made["3"],
    }


def fit(repository: Repository, name: str, data: bytes) -> bytes:
    """An object as it would be under this name, as far as hashes go."""
    context = repository.context(name).encode()
    if kind_of(name) in DOCUMENTS:
        line = data.partition(b"\n")[0] + b"\n"
        return line + blake3(context + b"\0" + line).hexdigest().encode() + b"\n"
    if kind_of(name) is ObjectKind.PACK:
        context = context.rpartition(b"/")[0] + b"/"
    tail = read_tail_length(data[-FOOTER_BYTES:])
    hasher = blake3(len(context).to_bytes(4, "little") + context + data[:HEADER_BYTES])
    hasher.update(data[-tail:-40])
    return data[:-40] + hasher.digest() + data[-8:]


def ours(reference: Reference, kind: ObjectKind) -> list[str]:
    return [name for name in reference.names(kind) if name.startswith(f"clusters/{CLUSTER}/")]


def assert_refused(reference: Reference, name: str, content: bytes) -> None:
    assert content != reference.content[name]
    with reference.holding(name, content), pytest.raises((Damaged, NotFound, NotPermitted)) as caught:
        reference.read(name)
    assert name in caught.value.message


@pytest.mark.parametrize("kind", KINDS)
def test_objects_fit_their_own_names(reference: Reference, kind: ObjectKind) -> None:
    """The tool sets hashes as they are: an object fitted to its own name is unchanged, and read."""
    for name in ours(reference, kind):
        assert fit(reference.open(), name, reference.content[name]) == reference.content[name]
        reference.read(name)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_another_repository_is_taken(
    reference: Reference, foreign: dict[str, bytes], kind: ObjectKind
) -> None:
    candidates = [data for name, data in foreign.items() if "/" in name and kind_of(name) is kind][:3]
    key = "document" if kind in DOCUMENTS else str(kind)
    candidates += [foreign[key]] if key in foreign else []
    assert candidates
    for name in ours(reference, kind)[:6]:
        same = [foreign[name]] if name in foreign else []
        for data in (*same, *candidates):
            assert_refused(reference, name, fit(reference.open(), name, data))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_taken_under_another_name(reference: Reference, kind: ObjectKind) -> None:
    for name in ours(reference, kind)[:6]:
        others = [other for other in reference.names(kind) if other != name]
        for other in others[:6]:
            assert_refused(reference, name, fit(reference.open(), name, reference.content[other]))


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_document_that_says_the_same_in_the_open_is_refused(reference: Reference, kind: ObjectKind) -> None:
    repository = reference.open()
    for name in ours(reference, kind):
        body = repository.read_document(name)
        assert_refused(reference, name, render_document(repository.context(name), body))


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_every_bit_of_a_sealed_document_counts_although_its_hash_is_right(
    reference: Reference, kind: ObjectKind
) -> None:
    repository = reference.open()
    name = ours(reference, kind)[0]
    line = reference.content[name].partition(b"\n")[0]
    start = line.index(b'"content": "') + 12
    for at in range(start, line.rindex(b'"', 0, line.index(b'", "key"') + 1), 5):
        changed = bytearray(line)
        changed[at] = ord("A") if changed[at] != ord("A") else ord("B")
        assert_refused(reference, name, fit(repository, name, bytes(changed) + b"\n"))
