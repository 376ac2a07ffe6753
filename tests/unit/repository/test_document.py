"""Documents: one line of JSON, one line of proof."""

from __future__ import annotations

import json

import pytest

from pghaven.errors import Damaged, Refused
from pghaven.repository.document import parse_document, render_document
from tests.support.forging import forge_document

CONTEXT = "0123456789abcdef0123456789abcdef/clusters/shop/backups/x/decision"
BODY = {"decision": "abandon", "reason": "its process 12 on host “dä” is gone", "n": 7, "list": [1, None, True]}


def test_a_body_comes_back() -> None:
    assert parse_document(CONTEXT, render_document(CONTEXT, BODY)) == BODY


def test_it_is_two_lines_of_ascii_and_readable() -> None:
    first, second, rest = render_document(CONTEXT, BODY).split(b"\n")
    assert json.loads(first) == BODY
    assert len(second) == 64
    assert rest == b""
    assert (first + second).isascii()


def test_the_order_of_the_keys_does_not_matter() -> None:
    """Two who write the same body write the same bytes, so a lost answer is told from another body."""
    assert render_document(CONTEXT, dict(reversed(BODY.items()))) == render_document(CONTEXT, BODY)


def test_every_changed_bit_is_found() -> None:
    data = render_document(CONTEXT, BODY)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            parse_document(CONTEXT, bytes(changed))


def test_every_cut_is_found() -> None:
    data = render_document(CONTEXT, BODY)
    for length in range(len(data)):
        with pytest.raises(Damaged):
            parse_document(CONTEXT, data[:length])


@pytest.mark.parametrize("behind", [b"\n", b" ", b"\0", b'{"decision": "commit"}\n'])
def test_nothing_may_follow(behind: bytes) -> None:
    with pytest.raises(Damaged):
        parse_document(CONTEXT, render_document(CONTEXT, BODY) + behind)


@pytest.mark.parametrize(
    "other",
    [CONTEXT.replace("/x/", "/y/"), CONTEXT.replace("0123", "3210"), CONTEXT.replace("decision", "retire"), ""],
)
def test_a_document_under_another_name_is_found(other: str) -> None:
    with pytest.raises(Damaged, match="not the object it is named as"):
        parse_document(other, render_document(CONTEXT, BODY))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"not json",
        b"[1]",
        b'"text"',
        b"7",
        b"null",
        b"\xff\xfe",
        b'{"a": ' * 40000,
        b'{"n": 1' + b"0" * 5000,
    ],
    ids=lambda line: line[:12].decode("latin-1"),
)
def test_a_proven_line_that_is_no_object_is_damage_all_the_same(line: bytes) -> None:
    with pytest.raises(Damaged):
        parse_document(CONTEXT, forge_document(CONTEXT, line))


def test_what_no_reader_would_take_is_not_written() -> None:
    large = {"reason": "x" * (4 << 20)}
    with pytest.raises(Refused):
        render_document(CONTEXT, large)
    with pytest.raises(Damaged, match="larger"):
        parse_document(CONTEXT, forge_document(CONTEXT, json.dumps(large).encode()))
