"""What of a pack's data is in the target already: proven by hash, page by page, never by time stamps.

The one idea: a frame is put together again from the local files, each run's bytes read to the place they have in the
frame; then every 8 KiB cell whose hash is the pack's own is right, with all the files that have a part in it. So it
does not matter how files lie in frames, and only frames with a cell that is not right are fetched. Bytes that no file
of this backup needs are taken for zeros; where that was wrong, a small file's own hash may still prove it."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from pghaven.repository.container import CELL_BYTES, CELL_HASH_BYTES, FRAME_BYTES, hash_cells
from pghaven.restore.targetfiles import OPEN_FILES_MAX, Directories, FileTarget, write_at, writing_error

_FILE_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BIG_FILE_BYTES = 1 << 20
_ZEROS = bytes(FRAME_BYTES)

Piece = tuple[int, int, int, int]
"""A part of one file that lies in one frame: place in a job's ``files``, file offset, length, offset in the frame."""


def cut_runs(runs: Iterable[tuple[int, int, int, int]], plain_offsets: Sequence[int]) -> dict[int, list[Piece]]:
    """Runs (ordered by their offset in the pack) as pieces of the frames they touch, in the order of frames.

    ``plain_offsets`` is where each frame begins, and where the last ends.
    """
    frames: dict[int, list[Piece]] = {}
    for file, file_offset, length, offset in runs:
        number = bisect_right(plain_offsets, offset) - 1
        done = 0
        while done < length:
            at = offset + done - plain_offsets[number]
            size = min(length - done, plain_offsets[number + 1] - plain_offsets[number] - at)
            frames.setdefault(number, []).append((file, file_offset + done, size, at))
            done += size
            number += 1
    return frames


class LocalFiles:
    """The files of one job as they are in the target, brought to their right size when they are first looked at."""

    def __init__(self, directories: Directories, files: Sequence[FileTarget]) -> None:
        self._directories = directories
        self.files = files
        self._open: dict[int, int | None] = {}

    def __enter__(self) -> LocalFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open.values():
            if fd is not None:
                os.close(fd)
        self._open.clear()

    def read(self, number: int, offset: int, into: memoryview) -> bool:
        """Fill ``into``; what lies behind the file's old end is zeros now. False when there is no such file."""
        file = self.files[number]
        try:
            fd = self._open.get(number, -1)
            if fd == -1:
                fd = self._open[number] = self._find(file)
            if fd is None:
                return False
            done = _read_fully(fd, offset, into)
            if done < len(into):
                into[done:] = _ZEROS[: len(into) - done]
            if len(into) == file.size:
                os.close(fd)  # it is all here: nobody asks for it again
                del self._open[number]
        except OSError as error:
            raise writing_error(error, file.path) from error
        return True

    def make(self, number: int) -> int:
        """A descriptor of the file, made if it is not there; it stays ours. Raises OSError."""
        fd = self._open.get(number)
        if fd is None:
            fd = self._open[number] = self._find(self.files[number], os.O_CREAT)
        assert fd is not None
        return fd

    def _find(self, file: FileTarget, more_flags: int = 0) -> int | None:
        if len(self._open) >= OPEN_FILES_MAX:
            oldest = self._open.pop(next(iter(self._open)))
            if oldest is not None:
                os.close(oldest)
        try:
            flags = _FILE_FLAGS | more_flags
            fd = os.open(file.name, flags, file.mode, dir_fd=self._directories.open(file.directory))
        except FileNotFoundError:
            if more_flags:
                raise
            return None
        try:
            adopt(fd, file)
            if file.size >= _BIG_FILE_BYTES:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        except BaseException:
            os.close(fd)
            raise
        return fd


def adopt(fd: int, file: FileTarget) -> None:
    """Give a file that was here its size, mode, owner and time. Its contents may be written later, and its time then
    set again. Raises FileExistsError for what is no file of ours alone."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise FileExistsError(errno.EEXIST, "it is not a file, or has another name somewhere else")
    if found.st_size != file.size:
        os.ftruncate(fd, file.size)
    if stat.S_IMODE(found.st_mode) != file.mode:
        os.fchmod(fd, file.mode)
    if file.uid >= 0 and (found.st_uid, found.st_gid) != (file.uid, file.gid):
        os.fchown(fd, file.uid, file.gid)
    if found.st_mtime_ns != file.mtime_ns or found.st_size != file.size:
        os.utime(fd, ns=(file.mtime_ns, file.mtime_ns))


class Comparison:
    """Compares frames with local files. One buffer, for one caller."""

    def __init__(self) -> None:
        self._buffer = bytearray(FRAME_BYTES)
        self._view = memoryview(self._buffer)

    def find_differing(
        self, local: LocalFiles, pieces: list[Piece], length: int, cells: Callable[[], bytes]
    ) -> list[Piece]:
        """The parts of a frame's pieces that are not in place, in the order of the frame.

        ``length`` is the frame's, ``cells`` gives its proven cell hashes and is only called when a file is there.
        """
        differing: list[Piece] = []
        for layer in _split_layers(pieces):
            differing += self._find_in_layer(local, layer, length, cells)
        return differing

    def _find_in_layer(
        self, local: LocalFiles, pieces: list[Piece], length: int, cells: Callable[[], bytes]
    ) -> list[Piece]:
        view = self._view
        there: list[Piece] = []
        differing: list[Piece] = []
        for piece in pieces:
            found = local.read(piece[0], piece[1], view[piece[3] : piece[3] + piece[2]])
            (there if found else differing).append(piece)
        if not there:
            return differing
        hashes = cells()
        if sum(piece[2] for piece in there) == length and hash_cells(view[:length]) == hashes:
            return []
        wrong = self._find_wrong_cells(there, length, hashes)
        for piece in there:
            parts = _cut_to_cells(piece, wrong)
            if parts and not self._is_whole(local.files[piece[0]], piece):
                differing += parts
        differing.sort(key=lambda piece: piece[3])
        return differing

    def _find_wrong_cells(self, pieces: list[Piece], length: int, hashes: bytes) -> set[int]:
        """Of the cells that the pieces touch those that do not have their hash."""
        from blake3 import blake3

        view = self._view
        touched: list[int] = []
        end = 0  # of what is filled, in the cells that count
        for _file, _offset, size, at in pieces:
            first = at // CELL_BYTES
            if at > end:
                gap = max(end, first * CELL_BYTES)
                view[gap:at] = _ZEROS[: at - gap]
                behind = min(-(-end // CELL_BYTES) * CELL_BYTES, at)
                view[end:behind] = _ZEROS[: behind - end]
            end = at + size
            last = (end - 1) // CELL_BYTES
            touched += range(first + (1 if touched and touched[-1] == first else 0), last + 1)
        behind = min(-(-end // CELL_BYTES) * CELL_BYTES, length)
        view[end:behind] = _ZEROS[: behind - end]
        wrong = set()
        for cell in touched:
            start = cell * CELL_BYTES
            found = blake3(view[start : min(start + CELL_BYTES, length)]).digest(CELL_HASH_BYTES)
            if found != hashes[cell * CELL_HASH_BYTES : (cell + 1) * CELL_HASH_BYTES]:
                wrong.add(cell)
        return wrong

    def _is_whole(self, file: FileTarget, piece: Piece) -> bool:
        """Whether a file that lies in one piece is proven by its own hash."""
        from blake3 import blake3

        _, _, size, at = piece
        if size != file.size or not file.content_hash:
            return False
        return blake3(self._view[at : at + size]).digest(len(file.content_hash)) == file.content_hash


def make_zero(fd: int, start: int, length: int) -> int:
    """Have these bytes of a file be zeros; returns how many had to be written."""
    written = 0
    buffer = bytearray(min(FRAME_BYTES, length))
    end = start + length
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)  # what is a hole need not be read
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        size = min(FRAME_BYTES, end - start)
        if size <= 0:
            break
        view = memoryview(buffer)[:size]
        got = _read_fully(fd, start, view)
        if bytes(view[:got]) != _ZEROS[:got]:
            write_at(fd, start, [memoryview(_ZEROS)[:size]])
            written += size
        start += size
    return written


def _read_fully(fd: int, offset: int, into: memoryview) -> int:
    done = os.preadv(fd, [into], offset)
    while done < len(into):
        got = os.preadv(fd, [into[done:]], offset + done)
        if not got:
            break
        done += got
    return done


def _split_layers(pieces: list[Piece]) -> list[list[Piece]]:
    """The pieces (ordered by their offset) in lists without overlap: several files may have the same bytes."""
    layers: list[list[Piece]] = []
    ends: list[tuple[int, int]] = []  # of each layer, the first to be free on top
    for piece in pieces:
        end = piece[3] + piece[2]
        if ends and ends[0][0] <= piece[3]:
            number = ends[0][1]
            layers[number].append(piece)
            heapq.heapreplace(ends, (end, number))
        else:
            heapq.heappush(ends, (end, len(layers)))
            layers.append([piece])
    return layers


def _cut_to_cells(piece: Piece, wrong: set[int]) -> list[Piece]:
    """The parts of a piece that lie in these cells; what is adjacent is one part."""
    file, offset, size, at = piece
    parts: list[Piece] = []
    for cell in range(at // CELL_BYTES, (at + size - 1) // CELL_BYTES + 1):
        if cell not in wrong:
            continue
        start = max(at, cell * CELL_BYTES)
        end = min(at + size, (cell + 1) * CELL_BYTES)
        if parts and parts[-1][3] + parts[-1][2] == start:
            _, first_offset, first_size, first = parts[-1]
            parts[-1] = (file, first_offset, first_size + end - start, first)
        else:
            parts.append((file, offset + start - at, end - start, start))
    return parts
