"""Positions in the write-ahead log.

The one idea: a position is a 64-bit byte address, so ``Lsn`` is an ``int`` that knows PostgreSQL's way of writing it.
Arithmetic gives plain integers; wrap a result in ``Lsn`` when it is a position again.
"""

from __future__ import annotations

import re
from typing import Final, Self

from pghaven.light import pattern

_TEXT = pattern(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII)


class Lsn(int):
    """A byte address in the WAL, 0 to 2**64 - 1. ValueError outside of that."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not 0 <= value < 1 << 64:
            raise ValueError(f"{value} is not a WAL position: it must be from 0 to 2**64 - 1")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The position in ``"16/B374D848"``, by the rules of pg_lsn_in (pg_lsn.c). Raises ValueError."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f'"{text}" is not a WAL position such as "16/B374D848"')
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({str(self)!r})"


LSN_INVALID: Final = Lsn(0)
"""No position (InvalidXLogRecPtr): no WAL record ever begins or ends here."""
