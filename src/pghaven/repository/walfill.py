"""The contents of a WAL file on their way into its object: cut into frames, compressed and hashed.

The one idea: a frame is hashed and compressed while it is in the processor's caches. Where a file is stored by itself
and another core is idle, every second frame is compressed on that.
"""

from __future__ import annotations

from pghaven.repository.codec import Compressor, WalCompressor
from pghaven.repository.container import FRAME_BYTES
from pghaven.repository.large import iter_plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pghaven.repository.codec import Buffer, Codec
    from pghaven.repository.container import ContainerWriter
    from pghaven.repository.large import Plain


def fill_by_one(writer: ContainerWriter, content: Plain) -> None:
    """Add all of it. Raises what reading it raises."""
    for frame in iter_plain(content, FRAME_BYTES):
        writer.add_frame(frame)


def fill_by_two(writer: ContainerWriter, content: Plain) -> None:
    """As ``fill_by_one``, with a second thread."""
    from pghaven.runtime.beside import Beside

    other = WalCompressor()
    with Beside() as beside:
        for pair in iter_plain(content, 2 * FRAME_BYTES):
            second = pair[FRAME_BYTES:]

            def share(second: Any = second) -> tuple[Codec, bytes] | None:
                return other.compress(second) if second else None

            beside.begin(share)
            writer.add_frame(pair[:FRAME_BYTES])
            packed = beside.finish()
            if packed is not None:
                writer.add_frame(second, compressor=_Packed(packed))


class _Packed(Compressor):
    """A frame that is compressed already."""

    def __init__(self, packed: tuple[Codec, bytes]) -> None:
        self._packed = packed

    def compress(self, plain: Buffer) -> tuple[Codec, bytes]:  # noqa: ARG002
        return self._packed
