"""The hash of a file of the archive: of the hashes of its MiBs.

The one idea: these are what an object's index has already, one for each frame. So a file is hashed once on its way in
and once on its way out, where the hash of all its bytes in one would be a second time.

On the path of ``wal push``: imports nothing heavy.
"""

from __future__ import annotations

from pghaven.errors import Damaged
from pghaven.repository.container import FRAME_BYTES
from pghaven.repository.large import iter_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pghaven.repository.codec import Buffer
    from pghaven.repository.container import Index
    from pghaven.repository.large import Plain


def join_hashes(hashes: Buffer) -> str:
    """A file's hash, hexadecimal, from the hashes of its MiBs, one after another, 32 bytes each."""
    import blake3

    return blake3.blake3(hashes).hexdigest()


def hash_file(content: Plain) -> str:
    """A file's hash, hexadecimal. Raises what reading it raises."""
    return hash_pieces(iter_plain(content, FRAME_BYTES))


def hash_pieces(pieces: Iterable[Buffer]) -> str:
    """The same of pieces of FRAME_BYTES, of which only the last may be shorter."""
    import blake3

    return join_hashes(b"".join([blake3.blake3(piece).digest() for piece in pieces]))


def hash_of(index: Index) -> str:
    """The hash of the file that an object holds, from its index alone. Raises Damaged if frames are cut otherwise."""
    if any(length != FRAME_BYTES for length in index.plain_lengths[:-1]):
        raise Damaged("its frames are not of 1 MiB each")
    return join_hashes(index.plain_hashes)
