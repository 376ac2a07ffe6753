"""The same container for another place: another repository, another name, other keys.

The one idea: what a container holds stays as it was compressed; only what binds it to its place is made anew. Each
frame is opened and proven by all that its index says before its bytes are taken over, so what was damaged is found here
and never copied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pghaven.errors import Damaged
from pghaven.repository.codec import Buffer, Codec, Compressor
from pghaven.repository.container import Container, ContainerWriter, FinishedContainer, Kind
from pghaven.repository.filehash import hash_of
from pghaven.repository.seal import Keyring
from pghaven.repository.walstore import is_for_every_host


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a container is bound to: its ``context``, and the keys of its repository. ``for_hosts`` as of a writer."""

    context: bytes
    keyring: Keyring
    for_hosts: bool = False


def recast(container: Container, kind: Kind, target: Binding) -> FinishedContainer:
    """A whole container, proven, as it is stored at ``target``. Raises Damaged naming the frame."""
    index = container.index
    ready = _Ready()
    writer = ContainerWriter(kind, target.context, target.keyring, ready, for_hosts=target.for_hosts)
    cells = None
    if kind is Kind.PACK:
        cells = index.open_cells(container.stored(index.stored_offsets[-1], index.cells_length))
    for number, plain in enumerate(container.iter_frames()):
        stored = container.stored(index.stored_offsets[number], index.stored_lengths[number])
        packed = index.sealer.unseal(number, stored, index.associated)
        ready.frame = (Codec(index.codecs[number]), bytes(packed))
        writer.add_frame(plain, None if cells is None else cells[number])
    return writer.finish(index.meta)


def recast_file(container: Container, file_name: str, target: Binding) -> FinishedContainer:
    """A file of the archive, proven by its own hash too. Raises Damaged."""
    if container.meta.get("name") != file_name or container.meta.get("hash") != hash_of(container.index):
        raise Damaged("its contents are not what was archived under this name")
    return recast(container, Kind.WAL, replace(target, for_hosts=is_for_every_host(file_name)))


class _Ready(Compressor):
    """Gives what was compressed before."""

    def __init__(self) -> None:
        self.frame: tuple[Codec, bytes] = (Codec.STORED, b"")

    def compress(self, _plain: Buffer) -> tuple[Codec, bytes]:
        return self.frame
