"""Where a recovery is expected to end: a position just behind a page's header is that page's beginning."""

from __future__ import annotations

import pytest

from pghaven.postgres.lsn import Lsn
from pghaven.restore.walsearch import before_page_header

SEGMENT = 16 << 20
BASE = 3 * SEGMENT


@pytest.mark.parametrize("block_size", [1024, 4096, 8192, 65536])
def test_position_behind_a_header_is_the_pages_beginning(block_size: int) -> None:
    for at, end in (
        (0, 0),
        (40, 0),  # the long header of a segment's first page
        (48, 48),
        (5 * block_size, 5 * block_size),
        (5 * block_size + 24, 5 * block_size),
        (5 * block_size + 32, 5 * block_size + 32),
    ):
        assert before_page_header(Lsn(BASE + at), SEGMENT, block_size) == BASE + end


def test_what_looks_like_a_header_of_smaller_pages_is_a_record() -> None:
    """Rounding down there would let a recovery pass that lacks its last record."""
    assert before_page_header(Lsn(BASE + 1024 + 24), SEGMENT, 8192) == BASE + 1024 + 24
