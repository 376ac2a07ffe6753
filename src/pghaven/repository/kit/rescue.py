"""Get data out of a pghaven repository without pghaven. RESCUE.md beside this file says what to do, step by step.

    python3 rescue.py list
    python3 rescue.py extract CLUSTER LABEL TARGET       LABEL as listed, or "latest"
    python3 rescue.py wal CLUSTER TARGET [--backup LABEL]

Needs Python 3.9 or newer and something that decodes zstd: Python 3.14, the module zstandard or backports.zstd, the
library libzstd or the program zstd. With the module blake3 it is fast; without it hashes are computed in Python, at
some 10 MB a second. A sealed repository needs the module cryptography and a key: --key FILE, or --passphrase; the
command slots tells which there are. The repository is a directory: its own, or a download of all its objects under
their names.

The one idea: no byte is written before its hash was found right, and nothing that is there is ever overwritten.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import getpass
import hmac
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unicodedata
from array import array
from base64 import b32decode, b64decode
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KIT_NUMBER = 1
FORMAT_VERSION = 1
MIB = 1 << 20
HEADER_BYTES, FOOTER_BYTES, CELL_BYTES = 16, 120, 8192
PACK, MANIFEST, WAL = 1, 2, 3
NOWHERE = 0xFFFFFFFF
PIECE = re.compile("([0-9A-F]{8})/([0-9A-F]{24})/([0-9a-f]{8})-([0-9A-F]{8})-([0-9A-F]{8})")
LABEL = re.compile("[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
COLUMNS = {
    "directory_mode": "H",
    "file_directory": "I",
    "file_size": "Q",
    "file_mode": "H",
    "file_mtime": "q",
    "file_owner": "H",
    "file_flags": "B",
    "file_runs": "I",
    "run_length": "Q",
    "run_pack": "I",
    "run_step": "Q",
    "pack_writer": "I",
    "pack_size": "Q",
    "pack_tail": "I",
    "pack_plain": "Q",
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
    "links": list,
}


class Unreadable(Exception):
    """What is there is not what was stored, is beyond the limits, or cannot be read here."""


# What reading something forged or damaged may end in.
DAMAGED = (Unreadable, OSError, LookupError, TypeError, ValueError)


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Unreadable(what)


# -- BLAKE3 -------------------------------------------------------------------------------------------------------
#
# In Python many chunks are hashed at once: a number holds one 32-bit word of each of them, 64 bits apart.

INITIAL = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMN_MIXES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONAL_MIXES = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
MIXES = COLUMN_MIXES + DIAGONAL_MIXES
CHUNK_BYTES, BLOCK_BYTES, LANES = 1024, 64, 1024
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def join_lanes(words: array[int]) -> int:
    return int.from_bytes(array("Q", words).tobytes(), sys.byteorder)


def split_lanes(number: int, lanes: int) -> array[int]:
    words = array("Q")
    words.frombytes(number.to_bytes(8 * lanes, sys.byteorder))
    return words


def compress(lanes: int, chain: list[int], block: list[int], counters: int, *, length: int, flags: int) -> list[int]:
    """One BLAKE3 compression in every lane."""
    ones = int.from_bytes((1).to_bytes(8, sys.byteorder) * lanes, sys.byteorder)
    mask = ones * 0xFFFFFFFF
    v = [*chain, *(ones * word for word in INITIAL[:4]), counters, 0, ones * length, ones * flags]
    for _ in range(7):
        for number, (a, b, c, d) in enumerate(MIXES):
            v[a] = (v[a] + v[b] + block[2 * number]) & mask
            x = v[d] ^ v[a]
            v[d] = (x >> 16 | x << 16) & mask
            v[c] = (v[c] + v[d]) & mask
            x = v[b] ^ v[c]
            v[b] = (x >> 12 | x << 20) & mask
            v[a] = (v[a] + v[b] + block[2 * number + 1]) & mask
            x = v[d] ^ v[a]
            v[d] = (x >> 8 | x << 24) & mask
            v[c] = (v[c] + v[d]) & mask
            x = v[b] ^ v[c]
            v[b] = (x >> 7 | x << 25) & mask
        block = [block[number] for number in ORDER]
    return [v[number] ^ v[number + 8] for number in range(8)]


def hash_chunks(chunks: list[bytes], counters: list[int], root: int) -> list[array[int]]:
    """The chaining values, a column for each of their 8 words, of chunks of one length; at most LANES of them."""
    lanes, size = len(chunks), len(chunks[0])
    blocks = max(1, -(-size // BLOCK_BYTES))
    words = array("I", b"".join(chunk.ljust(blocks * BLOCK_BYTES, b"\0") for chunk in chunks))
    if sys.byteorder == "big":
        words.byteswap()
    chain = [join_lanes(array("Q", [word] * lanes)) for word in INITIAL]
    numbers = join_lanes(array("Q", counters))
    for block in range(blocks):
        message = [join_lanes(words[16 * block + word :: 16 * blocks]) for word in range(16)]
        flags = (CHUNK_START if block == 0 else 0) | (CHUNK_END | root if block == blocks - 1 else 0)
        length = min(BLOCK_BYTES, size - BLOCK_BYTES * block)
        chain = compress(lanes, chain, message, numbers, length=length, flags=flags)
    return [split_lanes(word, lanes) for word in chain]


def hash_in_python(messages: list[bytes]) -> list[bytes]:
    """The BLAKE3 hashes of messages of one length."""
    count, size = len(messages), len(messages[0])
    per_message = max(1, -(-size // CHUNK_BYTES))
    root = ROOT if per_message == 1 else 0
    by_size: dict[int, list[tuple[int, bytes, int]]] = {}
    for at, message in enumerate(messages):
        for number in range(per_message):
            chunk = message[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            by_size.setdefault(len(chunk), []).append((at * per_message + number, chunk, number))
    nodes = [array("Q", bytes(8 * count * per_message)) for _ in range(8)]
    for chunks in by_size.values():
        for first in range(0, len(chunks), LANES):
            places, contents, numbers = zip(*chunks[first : first + LANES])
            for column, values in zip(nodes, hash_chunks(list(contents), list(numbers), root)):
                for place, value in zip(places, values):
                    column[place] = value
    while per_message > 1:
        nodes, per_message = join_nodes(nodes, count, per_message)
    return [struct.pack("<8I", *(column[at] for column in nodes)) for at in range(count)]


def join_nodes(nodes: list[array[int]], count: int, per_message: int) -> tuple[list[array[int]], int]:
    """One level of each message's tree: neighbours become their parent, an odd one out stays as it is."""
    pairs = [at * per_message + pair for at in range(count) for pair in range(0, per_message - 1, 2)]
    flags = PARENT | (ROOT if per_message == 2 else 0)
    joined = [array("Q") for _ in range(8)]
    for first in range(0, len(pairs), LANES):
        some = pairs[first : first + LANES]
        left = [join_lanes(array("Q", [column[at] for at in some])) for column in nodes]
        right = [join_lanes(array("Q", [column[at + 1] for at in some])) for column in nodes]
        chain = [join_lanes(array("Q", [word] * len(some))) for word in INITIAL]
        parents = compress(len(some), chain, left + right, 0, length=BLOCK_BYTES, flags=flags)
        for column, word in zip(joined, parents):
            column.extend(split_lanes(word, len(some)))
    half = per_message // 2
    if per_message % 2 == 0:
        return joined, half
    result = [array("Q") for _ in range(8)]
    for at in range(count):
        for whole, column, before in zip(result, joined, nodes):
            whole.extend(column[at * half : (at + 1) * half])
            whole.append(before[(at + 1) * per_message - 1])
    return result, half + 1


def find_hasher() -> tuple[Callable[[list[bytes]], list[bytes]], str]:
    try:
        from blake3 import blake3
    except ImportError:
        return hash_in_python, "Python (slow: some 10 MB a second; the module blake3 is fast)"
    return lambda messages: [blake3(message).digest() for message in messages], "blake3"


hash_equal, HASHED_BY = find_hasher()


def digest(data: bytes) -> bytes:
    return hash_equal([data])[0]


def digest_cells(plain: bytes) -> bytes:
    """The hash of a frame of a pack: of its cells' hashes."""
    cells = [plain[at : at + CELL_BYTES] for at in range(0, len(plain), CELL_BYTES)]
    whole = [cell for cell in cells if len(cell) == CELL_BYTES]
    hashes = hash_equal(whole) if whole else []
    hashes += hash_equal(cells[-1:]) if len(whole) < len(cells) else []
    return digest(b"".join(cell[:16] for cell in hashes))


# -- zstd ---------------------------------------------------------------------------------------------------------
#
# Each decoder takes one frame and the length it must have, and never gives more than one byte beyond that.


def decode_with_module(zstd: Any, stored: bytes, length: int) -> bytes:
    decoder = zstd.ZstdDecompressor()
    plain: bytes = decoder.decompress(stored, max_length=length)
    if not decoder.eof:
        plain += decoder.decompress(b"", max_length=1)
    require(decoder.eof and not decoder.unused_data, "a frame has not the length it says")
    return plain


def decode_with_zstandard(zstandard: Any, stored: bytes, length: int) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(stored) as reader:
        plain: bytes = reader.read(length + 1)
        return plain


def decode_with_library(library: Any, stored: bytes, length: int) -> bytes:
    plain = ctypes.create_string_buffer(length + 1)
    got = library.ZSTD_decompress(plain, ctypes.c_size_t(length + 1), stored, ctypes.c_size_t(len(stored)))
    require(got <= length, "a frame cannot be decoded")
    return plain.raw[:got]


def decode_with_program(program: str, stored: bytes, length: int) -> bytes:
    with tempfile.TemporaryFile() as file:
        file.write(stored)
        file.seek(0)
        with subprocess.Popen([program, "-dcq"], stdin=file, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            plain = child.stdout.read(length + 1)
            child.kill()
    return plain


def find_decoder() -> tuple[Callable[[bytes, int], bytes], str]:
    """How zstd is decoded here, and what does it."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        return lambda stored, length: decode_with_module(zstd, stored, length), "compression.zstd"
    try:
        from backports import zstd

        return lambda stored, length: decode_with_module(zstd, stored, length), "backports.zstd"
    except ImportError:
        pass
    try:
        import zstandard

        return lambda stored, length: decode_with_zstandard(zstandard, stored, length), "zstandard"
    except ImportError:
        pass
    try:
        library = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
        library.ZSTD_decompress.restype = ctypes.c_size_t
        return lambda stored, length: decode_with_library(library, stored, length), "libzstd"
    except (OSError, AttributeError):
        pass
    program = shutil.which("zstd")
    if program is None:
        raise Unreadable("nothing here decodes zstd: install the program zstd, or: python3 -m pip install zstandard")
    return lambda stored, length: decode_with_program(program, stored, length), program


decode, DECODED_BY = find_decoder()


# -- documents and containers -------------------------------------------------------------------------------------


def parse_document(context: str, data: bytes) -> dict[str, Any]:
    require(len(data) <= 4 * MIB, "a document of more than 4 MiB")
    line, newline, proof = data.partition(b"\n")
    line += newline
    right = digest(context.encode() + b"\0" + line).hex().encode() + b"\n"
    require(proof == right, "a document's hash is wrong")
    body = json.loads(line)
    require(isinstance(body, dict), "a document is no object")
    return dict(body)


# -- keys ---------------------------------------------------------------------------------------------------------
#
# "Sealing" and "Keys" in docs/format.md. Everything here needs the module cryptography.

KEY_TEXT = re.compile("pghaven-(reader|writer)-1-([a-z2-7]+)")
KEY_SET = b"pghaven key set 1\0"
Unseal = Callable[[int, bytes], bytes]  # the part at a position, from its stored bytes


def leave(_position: int, stored: bytes) -> bytes:
    return stored


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256, 32 bytes."""
    extracted = hmac.new(salt or bytes(32), secret, "sha256").digest()
    return hmac.new(extracted, info + b"\x01", "sha256").digest()


def agree(private: bytes, public: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def public_of(private: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def decrypt(key: bytes, nonce: int, sealed: bytes, associated: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return bytes(AESGCM(key).decrypt(nonce.to_bytes(12, "little"), sealed, associated))
    except InvalidTag:
        raise Unreadable("a seal is broken, or the key is another one") from None


def make_unseal(key: bytes, associated: bytes) -> Unseal:
    return lambda position, stored: decrypt(key, position, stored, associated)


def read_key(text: str) -> tuple[bytes, bytes]:
    """A slot's private part and the anchor, from the text of a key file."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    found = KEY_TEXT.search("\n".join(lines))
    if found is None:
        raise Unreadable("there is no key in it")
    require(found[1] == "reader", "the key only writes: it reads nothing")
    data = b32decode(found[2].upper() + "=" * (-len(found[2]) % 8))
    require(len(data) == 52, "the key was not copied right")
    require(digest(b"pghaven key text 1\0reader" + data[:48])[:4] == data[48:], "the key was not copied right")
    return data[:32], data[32:48]


def open_passphrase_slot(slots: list[dict[str, Any]], passphrase: str) -> str:
    """The key text that a passphrase opens."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    for slot in slots:
        if slot["kind"] == "passphrase":
            carried = slot["carried"]
            times, lanes, memory = (int(carried[name]) for name in ("iterations", "lanes", "memory_kib"))
            salt = bytes.fromhex(carried["salt"])
            stretching = Argon2id(salt=salt, length=32, iterations=times, lanes=lanes, memory_cost=memory)
            key = stretching.derive(unicodedata.normalize("NFC", passphrase).encode())
            try:
                return decrypt(key, 0, b64decode(carried["sealed"]), b"pghaven passphrase slot 1").decode()
            except Unreadable:
                continue
    raise Unreadable("the passphrase opens no slot")


class Keys:
    """What opens a sealed repository: the roots of its data keys, by their ids."""

    def __init__(self, text: str, key_set: dict[str, Any], context: str) -> None:
        private, anchor = read_key(text)
        self._check_signature(key_set, anchor, context)
        public = public_of(private)
        wrapped = [b64decode(one["wrapped"]) for one in key_set["slots"] if one["public"] == public.hex()]
        require(len(wrapped) == 1, "the key opens none of the slots")
        salt, sealed = wrapped[0][:32], wrapped[0][32:]
        associated = KEY_SET + b"reader\0" + context.encode()
        wrapping = derive(agree(private, salt), salt, b"pghaven slot key 1" + public)
        set_key = decrypt(wrapping, 0, sealed, associated)
        opened = json.loads(decrypt(set_key, 0, b64decode(key_set["reader"]), associated))
        self._roots = {bytes.fromhex(one["id"]): bytes.fromhex(one["root"]) for one in opened["generations"]}

    def _check_signature(self, key_set: dict[str, Any], anchor: bytes, context: str) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        signer = bytes.fromhex(key_set["signer"])
        require(digest(b"pghaven signer 1\0" + signer)[:16] == anchor, "the key is another repository's")
        body = json.dumps({name: value for name, value in key_set.items() if name != "signature"}, sort_keys=True)
        message = KEY_SET + b"signed\0" + context.encode() + b"\0" + body.encode()
        try:
            Ed25519PublicKey.from_public_bytes(signer).verify(bytes.fromhex(key_set["signature"]), message)
        except InvalidSignature:
            raise Unreadable("the signature of the key set is wrong") from None

    def object_key(self, seal: int, key_id: bytes, salt: bytes, outline: bool = False) -> bytes:
        require(key_id in self._roots and seal in (1, 2), "it is not sealed with a key of this repository")
        root = self._roots[key_id]
        shared = derive(root, b"", b"pghaven shared key 1")
        if seal == 1:
            return derive(shared, salt, b"pghaven object key 1")
        if outline:
            return derive(shared, salt, b"pghaven outline key 2")
        private = derive(root, b"", b"pghaven content key 1")
        return derive(agree(private, salt) + shared, salt, b"pghaven object key 2" + public_of(private))

    def open_envelope(self, context: str, body: dict[str, Any]) -> dict[str, Any]:
        sealed = body["sealed"]
        require(sealed["seal"] == 1, "it has no seal of a document")
        key = self.object_key(1, bytes.fromhex(sealed["key"]), bytes.fromhex(sealed["salt"]))
        associated = b"pghaven document 1\0" + context.encode()
        return dict(json.loads(decrypt(key, 0, b64decode(sealed["content"]), associated)))


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
    number: int = 0
    unseal: Unseal = leave

    def open(self, stored: bytes) -> bytes:
        require(len(stored) == self.stored_length, "a frame is cut short")
        stored = self.unseal(self.number, stored)
        require(self.codec in (0, 1), "an unknown codec")
        plain = decode(stored, self.plain_length) if self.codec else stored
        require(len(plain) == self.plain_length, "a frame has not the length it says")
        require((digest_cells if self.by_cells else digest)(plain) == self.proof, "a frame's hash is wrong")
        return plain


@dataclass(frozen=True)
class Index:
    proof: bytes
    facts: dict[str, Any]
    frames: list[Frame]
    plain_length: int

    def file_hash(self) -> bytes:
        """Of the file that a WAL object holds: the hash of its MiBs' hashes."""
        require(all(frame.plain_length == MIB for frame in self.frames[:-1]), "frames that are not of 1 MiB")
        return digest(b"".join(frame.proof for frame in self.frames))


def make_header(kind: int) -> bytes:
    return b"pghaven\x01" + struct.pack("<HB5x", 1, kind)


def parse_end(end: bytes, size: int, kind: int, context: bytes, *, keys: Keys | None = None) -> Index:
    """The index, from the last bytes of an object of ``size`` bytes."""
    require(len(end) >= FOOTER_BYTES and end[-8:] == b"\x01nevahgp", "no end mark")
    footer, proof = end[-120:-40], end[-40:-8]
    index_at, index_length, count, plain_length, of_kind, seal = struct.unpack_from("<QIIQBB", footer)
    require(count <= MIB and index_length <= 64 * MIB + 45 * count + 1024, "too many frames or facts")
    require(footer[26:32] == bytes(6) and of_kind == kind, "a footer that cannot be")
    key_id, salt = footer[32:48], footer[48:80]
    require(index_at + index_length + FOOTER_BYTES == size and len(end) >= index_length + FOOTER_BYTES, "wrong sizes")
    index = end[len(end) - FOOTER_BYTES - index_length : len(end) - FOOTER_BYTES]
    hashed = struct.pack("<I", len(context)) + context + make_header(kind) + index + footer
    require(digest(hashed) == proof, "the container hash is wrong")
    unseal: Unseal = leave
    unseal_index: Unseal = leave
    tag = 0
    if keys is None:
        require(seal == 0 and key_id + salt == bytes(48), "it is sealed")
    else:
        associated, tag = make_header(kind) + context, 16
        unseal = make_unseal(keys.object_key(seal, key_id, salt), associated)
        unseal_index = make_unseal(keys.object_key(seal, key_id, salt, outline=kind == WAL), associated)
    facts, frames, frames_end = parse_index(unseal_index((1 << 96) - 1, index), count, kind, (unseal, tag))
    cells = sum(-(-frame.plain_length // CELL_BYTES) for frame in frames) if kind == PACK else 0
    require(frames_end + 16 * cells + (tag if cells else 0) == index_at, "frames do not fill it")
    require(sum(frame.plain_length for frame in frames) == plain_length, "frames do not add up")
    return Index(proof, facts, frames, plain_length)


def parse_index(
    index: bytes, count: int, kind: int, seal: tuple[Unseal, int]
) -> tuple[dict[str, Any], list[Frame], int]:
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
        require(0 < plain[number] <= MIB and 0 < stored[number] <= plain[number] + seal[1], "a frame out of bounds")
        found = proofs[32 * number : 32 * number + 32]
        place = (where, stored[number], plain_where, plain[number])
        frames.append(Frame(*place, codecs[number], found, kind == PACK, number, seal[0]))
        where += stored[number]
        plain_where += plain[number]
    return facts, frames, where


# -- repositories -------------------------------------------------------------------------------------------------


class Repository:
    """One in a directory. ``key`` is the text of a key file, or None; ``passphrase`` opens a slot that has one."""

    def __init__(self, root: Path, key: str | None = None, *, passphrase: str | None = None) -> None:
        self.root = root
        self.keys: Keys | None = None
        require((root / "pghaven.json").is_file(), f"{root} is no repository: it has no pghaven.json")
        descriptor = parse_document("pghaven.json", self.read("pghaven.json"))
        require(descriptor["format"] == "pghaven repository", "another format")
        newer = descriptor["min_reader"] > FORMAT_VERSION or set(descriptor["required_features"]) - {"sealed"}
        require(not newer, "the repository's format is newer than this program: look for a newer one in rescue/")
        self.id: str = descriptor["repository_id"]
        self.is_sealed = "sealed" in descriptor["required_features"]
        if key is None and passphrase is not None:
            key = open_passphrase_slot(self.key_set()[1]["slots"], passphrase)
        if key is not None:
            require(self.is_sealed, "there is a key, but the repository says that nothing in it is sealed")
            name, key_set = self.key_set()
            self.keys = Keys(key, key_set, f"{self.id}/{name}\0{digest(self.read('pghaven.json')).hex()}")

    def key_set(self) -> tuple[str, dict[str, Any]]:
        """The name and the body of the newest key set; its copy where it is damaged."""
        require(self.is_sealed, "the repository is not sealed: it has no keys")
        number = max(name.partition(".")[0] for name in self.children("keys"))
        name = f"keys/{number}"
        try:
            found = parse_document(f"{self.id}/{name}", self.read(name))
        except DAMAGED:
            found = parse_document(f"{self.id}/{name}", self.read(name + ".copy"))
        require(found["number"] == int(number), "a key set of another number")
        return name, found

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def document(self, name: str) -> dict[str, Any]:
        body = parse_document(f"{self.id}/{name}", self.read(name))
        require(self.keys is not None or "sealed" not in body, "the repository is sealed: give a key with --key FILE")
        require(self.keys is None or "sealed" in body, f"{name} is not sealed although the repository is")
        return body if self.keys is None else self.keys.open_envelope(f"{self.id}/{name}", body)

    def container(self, name: str, kind: int, plain_max: int) -> tuple[Index, bytes]:
        """A whole container and its plain bytes."""
        data = self.read(name)
        require(data[:HEADER_BYTES] == make_header(kind), "no header")
        index = parse_end(data, len(data), kind, f"{self.id}/{name}".encode(), keys=self.keys)
        require(index.plain_length <= plain_max, "it would unpack to too much")
        return index, b"".join(frame.open(data[frame.at : frame.at + frame.stored_length]) for frame in index.frames)

    def children(self, name: str) -> list[str]:
        path = self.root / name
        found = path.iterdir() if path.is_dir() else iter(())
        return sorted(entry.name for entry in found if not entry.name.startswith("."))

    def clusters(self) -> list[str]:
        return self.children("clusters")

    def lineages(self, cluster: str) -> list[dict[str, Any]]:
        """The lives of a cluster's name, oldest first."""
        prefix = f"clusters/{cluster}/lineages/"
        found = [self.document(prefix + name) for name in self.children(prefix) if name.endswith(".json")]
        require(bool(found), f'there is no cluster "{cluster}"; there are: {", ".join(self.clusters())}')
        return sorted(found, key=lambda one: str(one["registered_at"]))

    def labels(self, cluster: str) -> list[str]:
        """All that was ever begun and not removed; not all of them are backups that are there."""
        return self.children(f"clusters/{cluster}/backups")

    def find_decision(self, cluster: str, label: str, kinds: tuple[str, ...] = ("backup",)) -> dict[str, Any] | None:
        """The decision of a backup that is there; of an SQL dump with that among ``kinds``."""
        prefix = f"clusters/{cluster}/backups/{label}/"
        if not all((self.root / prefix / part).is_file() for part in ("intent", "decision")):
            return None
        decision = self.document(prefix + "decision")
        require(decision["decision"] in ("commit", "abandon"), "no decision")
        is_kind = self.document(prefix + "intent")["purpose"] in kinds
        return decision if decision["decision"] == "commit" and is_kind and not self.is_retired(prefix) else None

    def backups(self, cluster: str, kind: str = "backup") -> Iterator[tuple[str, dict[str, Any]]]:
        """Labels and decisions of the backups that are there; one that cannot be read is told and passed over."""
        for label in self.labels(cluster):
            try:
                decision = self.find_decision(cluster, label, (kind,))
            except DAMAGED as error:
                tell(f"DAMAGED, passed over: {cluster} {label}: {error}")
                continue
            if decision is not None:
                yield label, decision

    def is_retired(self, prefix: str) -> bool:
        retired = self.children(prefix + "retire")
        fate = prefix + f"fate/{retired[-1]}" if retired else ""
        return bool(retired) and not ((self.root / fate).is_file() and self.document(fate)["fate"] == "keep")

    def find_manifest(self, cluster: str, label: str, decided: str) -> tuple[str, str]:
        """The name and the hash of a backup's newest manifest that counts."""
        prefix = f"clusters/{cluster}/backups/{label}/"
        for generation in reversed(self.children(prefix + "generations")):
            compaction = f"clusters/{cluster}/backups/{generation.partition('-')[2]}/"
            is_there = all((self.root / compaction / part).is_file() for part in ("intent", "decision"))
            decision = self.compaction_decision(compaction) if is_there else {}
            if decision.get("decision") == "commit" and label in decision["generations"]:
                return f"{prefix}generations/{generation}/manifest", decision["generations"][label]
        return prefix + "manifest", decided

    def compaction_decision(self, compaction: str) -> dict[str, Any]:
        """Where it cannot be read, the one that it was mended with."""
        try:
            return self.document(compaction + "decision")
        except DAMAGED:
            if not (self.root / compaction / "mended").is_file():
                raise
            return self.document(compaction + "mended")

    def wal(self, cluster: str, system_identifier: str, name: str) -> bytes:
        """A file that the server archived."""
        place = f"other/{name}"
        if re.match("[0-9A-F]{24}", name):
            place = f"{name[:8]}/{name[8:16]}/{name}"
        elif re.fullmatch(r"[0-9A-F]{8}\.history", name):
            place = f"{name[:8]}/{name}"
        index, content = self.container(f"clusters/{cluster}/wal/{system_identifier}/{place}", WAL, 1 << 30)
        facts = index.facts
        require(facts["name"] == name and facts["size"] == len(content), "another file")
        require(facts["hash"] == index.file_hash().hex(), "the file's hash is wrong")
        return content

    def wal_files(self, cluster: str, system_identifier: str) -> list[str]:
        """The names of all files that the server archived."""
        root = self.root / f"clusters/{cluster}/wal/{system_identifier}"
        return sorted(path.name for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))


# -- backups ------------------------------------------------------------------------------------------------------


class Backup:
    """One backup: its manifest, proven and checked."""

    def __init__(self, repository: Repository, cluster: str, label: str) -> None:
        if label == "latest":
            known = dict(repository.backups(cluster))
            label = max(known, key=lambda one: str(known[one]["summary"]["stopped_at"]), default=label)
        decision = repository.find_decision(cluster, label, ("backup", "dump"))
        if decision is None:
            raise Unreadable(f"there is no backup {label} of {cluster}")
        name, proof = repository.find_manifest(cluster, label, decision["manifest"])
        index, plain = repository.container(name, MANIFEST, 4 << 30)
        require(index.proof.hex() == proof, "not the manifest that was decided on")
        self.repository = repository
        self.cluster = cluster
        self.facts = index.facts["facts"]
        require((self.facts["cluster"], self.facts["label"]) == (cluster, label), "another backup's manifest")
        self._plain = plain
        self._places = index.facts["columns"]
        self.config_files = index.facts["config_files"]
        self._writers = index.facts["pack_writers"]
        codes = dict(COLUMNS)
        if "run_offset" in self._places:  # of an early writer
            codes["run_offset"] = codes.pop("run_step")
        if "run_rank" in self._places:
            del codes["run_length"]
        self.columns = {column: self._column(column, code) for column, code in codes.items()}
        if "run_rank" in self._places:
            self.columns["run_length"] = self._look_up()
        if "run_offset" not in codes:
            self.columns["run_offset"] = self._add_steps()
        self.directories = self._names("directories", len(self.columns["directory_mode"]))
        self.names = self._names("file_names", len(self.columns["file_size"]))
        self.control = self.blob("control")
        self.pack_ids = self.blob("pack_ids")
        self._check()
        self.packs = Packs(self)

    def blob(self, name: str, width: int = 1) -> bytes:
        offset, count = self._places[name]
        require(offset >= 0 and count >= 0 and offset + width * count <= len(self._plain), f"{name} is not there")
        return self._plain[offset : offset + width * count]

    def _column(self, name: str, code: str) -> array[int]:
        numbers = array(code)
        width = numbers.itemsize
        planes, count = self.blob(name, width), self._places[name][1]
        rows = bytearray(width * count)
        for byte in range(width):
            rows[byte::width] = planes[count * byte : count * (byte + 1)]
        numbers.frombytes(bytes(rows))
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers

    def _look_up(self) -> array[int]:
        """How long runs are, from the number that each has among the different lengths."""
        lengths, ranks = self._column("run_lengths", "Q"), self._column("run_rank", "H")
        require(all(rank < len(lengths) for rank in ranks), "a run without a length")
        return array("Q", [lengths[rank] for rank in ranks])

    def _add_steps(self) -> array[int]:
        """Where runs lie, from how far each lies behind the end of the last one before it in the same pack."""
        columns, offsets, ends = self.columns, array("Q"), {NOWHERE: 0}
        for length, pack, step in zip(columns["run_length"], columns["run_pack"], columns["run_step"]):
            offset = (ends.get(pack, 0) + step) % (1 << 64)
            if pack < len(columns["pack_size"]):
                ends[pack] = offset + length
            offsets.append(offset)
        return offsets

    def _names(self, blob: str, count: int) -> list[bytes]:
        names = self.blob(blob).split(b"\0")
        require(names.pop() == b"" and len(names) == count, f"{blob} has another number of names")
        return names

    def _check(self) -> None:
        """Raise for anything that cannot be, before anything is written. See "Limits" in docs/format.md."""
        columns = self.columns
        for table in ("file", "run", "pack"):
            same = {len(column) for name, column in columns.items() if name.startswith(table)}
            require(len(same) == 1, f"{table}s differ")
        self._check_facts()
        self._check_paths()
        require(all(owner < len(self.facts["owners"]) for owner in columns["file_owner"]), "a file of nobody")
        require(len(self.pack_ids) == 32 * len(columns["pack_size"]), "packs without ids")
        require(all(writer < len(self._writers) for writer in columns["pack_writer"]), "a pack of nobody")
        require(all(LABEL.fullmatch(label) for label in self._writers), "no label")
        require(len(self.blob("file_hashes")) == 16 * len(self.names), "files without hashes")
        require(self.facts["file_count"] == len(self.names), "another number of files")
        require(self.facts["total_bytes"] == sum(columns["file_size"]), "another number of bytes")
        self._check_runs()

    def _check_facts(self) -> None:
        facts = self.facts
        for name, kind in FACTS.items():
            require(type(facts[name]) is kind, f"{name} is of another type")
        require(parse_lsn(facts["start_lsn"]) <= parse_lsn(facts["stop_lsn"]), "it ends before it begins")
        size = facts["wal_segment_size"]
        require(facts["block_size"] > 0 and facts["segment_blocks"] > 0, "facts that cannot be")
        require(MIB <= size <= 1024 * MIB and size & (size - 1) == 0, "no size of WAL segments")
        oids = [one["oid"] for one in facts["tablespaces"]]
        numbers = all(type(oid) is int and 0 < oid < 1 << 32 for oid in oids)
        require(numbers and len(set(oids)) == len(oids), "tablespaces that cannot be")
        paths = [one["path"] for one in facts["tablespaces"]] + [row[1] for row in self.config_files]
        require(all(isinstance(path, str) and path and "\0" not in path for path in paths), "a path that cannot be")
        contents = sum(length for _, _, _, length in self.config_files)
        require(contents == self._places["config_contents"][1], "configuration files of another length")

    def _check_paths(self) -> None:
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
        for directory, name in zip(self.columns["file_directory"], self.names):
            in_order = directory < len(self.directories) and (directory, name) > previous
            require(is_name(name) and in_order, "files in disorder")
            previous = (directory, name)
            require(self.path(directory, name) not in taken, "a file that cannot be")

    def _check_runs(self) -> None:
        columns = self.columns
        require(sum(columns["file_runs"]) == len(columns["run_length"]), "another number of runs")
        run = 0
        for size, count in zip(columns["file_size"], columns["file_runs"]):
            require(sum(columns["run_length"][run : run + count]) == size <= 1 << 60, "runs do not make the file")
            run += count
        for length, pack, offset in zip(columns["run_length"], columns["run_pack"], columns["run_offset"]):
            require(length > 0, "an empty run")
            if pack != NOWHERE:
                require(pack < len(columns["pack_plain"]), "no such pack")
                require(offset + length <= columns["pack_plain"][pack], "a run beyond its pack")

    def path(self, directory: int, name: bytes) -> bytes:
        above = self.directories[directory]
        return above + b"/" + name if above else name

    def pack(self, number: int) -> tuple[str, str]:
        """Its name and the beginning of its context."""
        prefix = f"clusters/{self.cluster}/packs/{self._writers[self.columns['pack_writer'][number]]}/"
        return prefix + self.pack_ids[32 * number : 32 * number + 32].hex(), prefix

    def first_segment(self) -> int:
        """The number, counted over all of WAL, of the first segment that a recovery of it needs."""
        return int(parse_lsn(self.facts["start_lsn"]) // self.facts["wal_segment_size"])

    def extract(self, target: Path) -> None:
        """Write it to a directory that is not there yet or empty, tablespaces beside it; pg_control comes last."""
        Extraction(self, target).run()


class Packs:
    """The packs of a backup; the indexes last used and the frames last used are kept."""

    KEPT_INDEXES, KEPT_FRAMES = 64, 64

    def __init__(self, backup: Backup) -> None:
        self._backup = backup
        self._indexes: OrderedDict[int, tuple[Index, list[int]]] = OrderedDict()
        self._frames: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def read(self, number: int, first: int, length: int) -> Iterator[bytes]:
        """These plain bytes of a pack, proven."""
        index, starts = self._index(number)
        end = first + length
        for at in range(bisect_right(starts, first) - 1, len(starts)):
            if starts[at] >= end:
                return
            plain = self._frame(number, index, at)
            yield plain[max(first - starts[at], 0) : end - starts[at]]

    def _index(self, number: int) -> tuple[Index, list[int]]:
        if number not in self._indexes:
            backup, columns = self._backup, self._backup.columns
            name, prefix = backup.pack(number)
            size, tail = columns["pack_size"][number], columns["pack_tail"][number]
            require(tail >= FOOTER_BYTES and tail + HEADER_BYTES <= size, "a pack that cannot be")
            with open(backup.repository.root / name, "rb") as file:
                require(file.read(HEADER_BYTES) == make_header(PACK), f"{name} has no header")
                file.seek(size - tail)
                end = file.read()
            require(len(end) == tail, f"{name} is not of the size it should be")
            context = f"{backup.repository.id}/{prefix}".encode()
            index = parse_end(end, size, PACK, context, keys=backup.repository.keys)
            require(index.proof == backup.pack_ids[32 * number : 32 * number + 32], f"{name} is another pack")
            require(index.plain_length == columns["pack_plain"][number], f"{name} is of another length")
            self._indexes[number] = index, [frame.plain_at for frame in index.frames]
            if len(self._indexes) > self.KEPT_INDEXES:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(number)
        return self._indexes[number]

    def _frame(self, number: int, index: Index, at: int) -> bytes:
        key = number, at
        if key not in self._frames:
            frame, name = index.frames[at], self._backup.pack(number)[0]
            with open(self._backup.repository.root / name, "rb") as file:
                file.seek(frame.at)
                stored = file.read(frame.stored_length)
            try:
                self._frames[key] = frame.open(stored)
            except Unreadable as error:
                raise Unreadable(f"{name}, frame {at}: {error}") from error
            if len(self._frames) > self.KEPT_FRAMES:
                self._frames.popitem(last=False)
        self._frames.move_to_end(key)
        return self._frames[key]


class Extraction:
    """A backup on its way into a data directory."""

    def __init__(self, backup: Backup, target: Path) -> None:
        self._backup = backup
        self.target = target
        self.beside = target.parent / (target.name + "-tablespaces")
        self.owner = find_owner(backup)

    def run(self) -> None:
        for place in (self.target, self.beside):
            require(
                not place.is_symlink() and (not place.exists() or not any(place.iterdir())), f"{place} is not empty"
            )
        self._make_directories()
        self._write_files()
        is_dump = self._backup.facts["method"] == "dump"  # files for pg_restore, and no data directory
        if not is_dump:
            (self.target / "backup_label").write_text(self._backup.facts["backup_label"], encoding="utf-8", newline="")
            self._finish(self.target / "backup_label", 0o600)
        self._write_config_files()
        for path, mode in zip(self._backup.directories, self._backup.columns["directory_mode"]):
            self._finish(self.place(path), mode)
        os.sync()
        if is_dump:
            return
        (self.target / "global" / "pg_control").write_bytes(self._backup.control)
        self._finish(self.target / "global" / "pg_control", 0o600)
        os.sync()

    def place(self, path: bytes) -> Path:
        """Where a path of the backup goes; what lies in a tablespace goes beside the data directory."""
        parts = os.fsdecode(path).split("/")
        if parts[0] == "pg_tblspc" and len(parts) > 1:
            return self.beside.joinpath(*parts[1:])
        return self.target.joinpath(*parts)

    def _make_directories(self) -> None:
        self.target.mkdir(0o700, exist_ok=True)
        for path in self._backup.directories:
            place = self.place(path)
            place.mkdir(0o700, parents=True, exist_ok=True)
            parts = path.split(b"/")
            if parts[0] == b"pg_tblspc" and len(parts) == 2:
                os.symlink(place.absolute(), os.fsencode(self.target) + b"/" + path)

    def _write_files(self) -> None:
        backup, columns = self._backup, self._backup.columns
        run = 0
        for number, name in enumerate(backup.names):
            place = self.place(backup.path(columns["file_directory"][number], name))
            try:
                with open(place, "xb") as file:
                    for one in range(run, run + columns["file_runs"][number]):
                        self._write_run(file, one)
                    file.truncate(columns["file_size"][number])
            except Unreadable as error:
                raise Unreadable(f"{place} cannot be written whole: {error}") from error
            run += columns["file_runs"][number]
            self._finish(place, columns["file_mode"][number])
            mtime = columns["file_mtime"][number]
            os.utime(place, ns=(mtime, mtime))

    def _write_run(self, file: Any, run: int) -> None:
        columns = self._backup.columns
        length, pack = columns["run_length"][run], columns["run_pack"][run]
        if pack == NOWHERE:
            file.seek(length, os.SEEK_CUR)
            return
        for part in self._backup.packs.read(pack, columns["run_offset"][run], length):
            file.write(part)

    def _write_config_files(self) -> None:
        """Configuration that lay outside the data directory is put into a directory of its own within it."""
        contents, at = self._backup.blob("config_contents"), 0
        directory = self.target / "pghaven.config"
        for number, (_, path, mode, length) in enumerate(self._backup.config_files):
            directory.mkdir(0o700, exist_ok=True)
            place = directory / f"{number}-{os.path.basename(path)}"
            place.write_bytes(contents[at : at + length])
            self._finish(place, mode)
            self._finish(directory, 0o700)
            at += length

    def _finish(self, place: Path, mode: int) -> None:
        if self.owner is not None:
            os.chown(place, *self.owner)
        os.chmod(place, mode & 0o750)  # the server refuses a directory that others may read


def find_owner(backup: Backup) -> tuple[int, int] | None:
    """As root the user and group that the server's files belonged to, if this machine has them."""
    if os.geteuid() != 0:
        return None
    import grp
    import pwd

    places = zip(backup.columns["file_directory"], backup.names, backup.columns["file_owner"])
    own = [owner for directory, name, owner in places if name == b"PG_VERSION" and not directory]
    user, group = backup.facts["owners"][own[0] if own else 0]
    try:
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        tell(f"warning: there is no user {user}:{group} here, so the files will be root's. Give them to the server's.")
        return None


def parse_lsn(text: str) -> int:
    require(re.fullmatch("[0-9A-F]{1,8}/[0-9A-F]{1,8}", text) is not None, "no WAL position")
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def is_name(name: bytes) -> bool:
    return 0 < len(name) <= 255 and name not in (b".", b"..") and b"/" not in name


# -- WAL ----------------------------------------------------------------------------------------------------------


def extract_wal(repository: Repository, cluster: str, target: Path, backup: Backup | None) -> int:
    """Write the archived files to a directory, from a backup's first segment on; gives how many could not be read."""
    lineages = {str(one["system_identifier"]): one for one in repository.lineages(cluster)}
    system = str(backup.facts["system_identifier"]) if backup else list(lineages)[-1]
    require(system in lineages, f"system identifier {system} is not known")
    per_log = (1 << 32) // int(lineages[system]["wal_segment_size"])
    target.mkdir(0o700, parents=True, exist_ok=True)
    held: dict[str, list[int]] = {}
    damaged = 0
    for name in repository.wal_files(cluster, system):
        number = int(name[8:16], 16) * per_log + int(name[16:24], 16) if re.match("[0-9A-F]{24}", name) else None
        if number is not None and backup is not None and number < backup.first_segment():
            continue
        try:
            content = repository.wal(cluster, system, name)
        except DAMAGED as error:
            tell(f"DAMAGED, left out: {name}: {error}")
            damaged += 1
            continue
        write_new(target / name, content)
        if number is not None and len(name) == 24:
            held.setdefault(name[:8], []).append(number)
    for timeline, numbers in sorted(held.items()):
        for first, last in find_spans(sorted(numbers)):
            names = [f"{timeline}{one // per_log:08X}{one % per_log:08X}" for one in (first, last)]
            tell(f"timeline {int(timeline, 16)}: {last - first + 1} segments without a gap, {names[0]} to {names[1]}")
    newest = {timeline: max(numbers) for timeline, numbers in held.items()}
    for segment, partials in find_tails(repository, cluster, system):
        number = int(segment[8:16], 16) * per_log + int(segment[16:], 16)
        if number > newest.get(segment[:8], -1) and (backup is None or number >= backup.first_segment()):
            size = int(lineages[system]["wal_segment_size"])
            damaged += extract_tail(repository, f"clusters/{cluster}/partials/{system}/", partials, (target, size))
    return damaged


Pieces = list[tuple[int, int, str]]


def find_tails(repository: Repository, cluster: str, system: str) -> Iterator[tuple[str, list[Pieces]]]:
    """Of each timeline the last segment of which there are pieces, with those of each receiver: (begin, end, name)."""
    root = repository.root / f"clusters/{cluster}/partials/{system}"
    found: dict[str, dict[str, dict[str, Pieces]]] = {}
    for path in sorted(root.glob("*/*/*")):
        match = PIECE.fullmatch("/".join(path.parts[-3:]))
        if match is not None and match[1] == match[2][:8]:
            timeline, segment, receiver, begin, end = match.groups()
            piece = (int(begin, 16), int(end, 16), f"{timeline}/{segment}/{path.name}")
            found.setdefault(timeline, {}).setdefault(segment, {}).setdefault(receiver, []).append(piece)
    for _, segments in sorted(found.items()):
        last = max(segments)
        yield last, list(segments[last].values())


def extract_tail(repository: Repository, prefix: str, partials: list[Pieces], place: tuple[Path, int]) -> int:
    """Write the segment as far as one receiver's pieces lead, then zeros; gives how many pieces could not be read."""
    target, size = place
    best, damaged = b"", 0
    for pieces in partials:
        content = bytearray()
        for begin, end, name in sorted(pieces, key=lambda one: (one[0], -one[1])):
            if begin > len(content) or end <= len(content):
                continue
            try:
                index, part = repository.container(prefix + name, WAL, 1 << 30)
                facts = index.facts
                require((facts["name"], facts["size"]) == (name.partition("/")[2], end - begin), "another piece")
                require(len(part) == end - begin, "a piece of another length")
                require(facts["hash"] == index.file_hash().hex(), "the piece's hash is wrong")
            except DAMAGED as error:
                tell(f"DAMAGED, left out: {name}: {error}")
                damaged += 1
                continue
            content[begin:] = part
        best = max(best, bytes(content), key=len)
    if best:
        segment = partials[0][0][2].split("/")[1]
        write_new(target / segment, best + bytes(size - len(best)))
        tell(f"timeline {int(segment[:8], 16)}: the first {len(best)} bytes of {segment}, which was not finished")
    return damaged


def find_spans(numbers: list[int]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1] = spans[-1][0], number
        else:
            spans.append((number, number))
    return spans


def write_new(place: Path, content: bytes) -> None:
    """A file appears whole or not at all; one that is there must be the same."""
    if place.exists():
        require(place.read_bytes() == content, f"{place} is there already and is another file")
        return
    part = place.with_name(place.name + ".part")
    part.write_bytes(content)
    part.replace(place)


# -- the command line ---------------------------------------------------------------------------------------------


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def list_backups(repository: Repository) -> int:
    for cluster in repository.clusters():
        for label, decision in repository.backups(cluster):
            facts = decision["summary"]
            version = f"PostgreSQL {int(facts['server_version_num']) // 10000}"
            where = f"{facts['start_lsn']} to {facts['stop_lsn']} on timeline {facts['timeline']}"
            print(cluster, label, facts["stopped_at"], version, f"{facts['total_bytes']} bytes, {where}", sep="  ")
        for label, decision in repository.backups(cluster, "dump"):
            facts = decision["summary"]
            of = ", ".join(facts["dump"]["databases"]) or "roles and tablespaces"
            print(cluster, label, facts["stopped_at"], f"SQL dump of {of}", f"{facts['total_bytes']} bytes", sep="  ")
    return 0


def extract(repository: Repository, cluster: str, label: str, target: Path) -> int:
    backup = Backup(repository, cluster, label)
    facts = backup.facts
    tell(f"extracting {facts['label']}: {facts['file_count']} files, {facts['total_bytes']} bytes")
    backup.extract(target)
    tell(f"{target} is complete, every hash was right. It needs PostgreSQL {facts['server_version_num'] // 10000}.")
    for one in facts["tablespaces"]:
        tell(f"tablespace {one['name']} was {one['path']}, is now in {target}-tablespaces/{one['oid']}")
    for path, aim in facts["links"]:
        tell(f"{path} was a link to {aim}, is now a directory or file of its own")
    if backup.config_files:
        tell(f"configuration from outside the data directory is in {target / 'pghaven.config'}")
    if facts["method"] == "dump":
        tell("This is an SQL dump, for psql and pg_restore: RESCUE.md, at its end.")
    else:
        tell("Before the server is started it needs WAL and recovery settings: RESCUE.md, steps 3 and 4.")
    return 0


def list_slots(repository: Repository) -> int:
    """The ways into a sealed repository; of those for age what age opens."""
    for slot in repository.key_set()[1]["slots"]:
        print(slot["name"], slot["kind"], slot["access"], sep="  ")
        if slot["kind"] == "age":
            print("  " + slot["carried"]["age"])
    return 0


def find_repository() -> Path:
    """The repository that this file lies in."""
    own = Path(__file__).resolve()
    return next((above for above in own.parents if (above / "pghaven.json").is_file()), own.parent)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="rescue.py"
    )
    parser.add_argument("-r", "--repository", type=Path, help="its directory; else the one that this file lies in")
    parser.add_argument("--key", type=Path, metavar="FILE", help="a key file of a sealed repository")
    parser.add_argument("--passphrase", action="store_true", help="ask for the passphrase of a sealed repository")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("slots", help="the ways into a sealed repository")
    commands.add_parser("list", help="the backups there are")
    one = commands.add_parser("extract", help="a backup's data directory")
    one.add_argument("cluster")
    one.add_argument("label", help='as listed, or "latest"')
    one.add_argument("target", type=Path, help="a directory that does not exist yet")
    one = commands.add_parser("wal", help="the archived WAL files")
    one.add_argument("cluster")
    one.add_argument("target", type=Path, help="a directory for them")
    one.add_argument("--backup", metavar="LABEL", help="only what a recovery of this backup may need")
    given = parser.parse_args(words)
    tell(f"hashes by {HASHED_BY}, zstd by {DECODED_BY}")
    try:
        key = given.key.read_text(encoding="utf-8") if given.key else None
        asked = getpass.getpass("passphrase: ") if given.passphrase else None
        repository = Repository(given.repository or find_repository(), key, passphrase=asked)
        if given.command == "slots":
            return list_slots(repository)
        if given.command == "list":
            return list_backups(repository)
        if given.command == "extract":
            return extract(repository, given.cluster, given.label, given.target)
        backup = Backup(repository, given.cluster, given.backup) if given.backup else None
        return min(extract_wal(repository, given.cluster, given.target, backup), 1)
    except DAMAGED as error:
        tell(f"rescue.py: {error}" if isinstance(error, (Unreadable, OSError)) else f"rescue.py: damaged: {error!r}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
