"""Standard output and standard error, as they really are: closed, full, gone, or unable to show a character.

The one idea: output is flushed and its failure noticed while the exit status can still tell of it; left to the
interpreter's end, a failing flush would make the status 120, which is nobody's promise.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from typing import TextIO

from pghaven.errors import Cancelled

# What a shell reports of a program that SIGPIPE ended.
EXIT_READER_GONE = 141


class ReaderGone(Exception):
    """Whoever read standard output has closed it; there is nobody to tell."""


def prepare_streams() -> None:
    """Make both streams able to take any character that a file name or a server's message may hold."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def write_out(text: str) -> None:
    """Write to standard output and flush it. Raises ReaderGone or Cancelled."""
    stream: TextIO | None = sys.stdout
    if stream is None:
        return
    try:
        _write_all(stream, text)
    except BrokenPipeError:
        _discard(stream)
        raise ReaderGone from None
    except OSError as reason:
        _discard(stream)
        raise Cancelled(f"could not write to standard output: {(reason.strerror or str(reason)).lower()}") from None


def write_error(text: str) -> None:
    """Write to standard error. What cannot be written there is lost: there is no third place."""
    stream: TextIO | None = sys.stderr
    if stream is None:
        return
    try:
        _write_all(stream, text)
    except OSError:
        _discard(stream)


def _write_all(stream: TextIO, text: str) -> None:
    stream.flush()
    try:
        descriptor = stream.fileno()
    except OSError:  # a stream in memory
        stream.write(text)
        return
    # Not stream.write(): with PYTHONUNBUFFERED it silently drops what a pipe did not take at once.
    rest = memoryview(text.encode(stream.encoding, stream.errors or "strict"))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def make_printable(text: str, keep: str = "") -> str:
    """The text with control characters (other than those in ``keep``) as escapes: names come from outside, and must
    not be able to drive the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep or not _is_control(c) else _escape(c) for c in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def _discard(stream: TextIO) -> None:
    """Point the stream's descriptor at nothing, so that what is still buffered does not fail again at the end."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        return
