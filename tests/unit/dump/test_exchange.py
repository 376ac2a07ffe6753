"""What a relay makes of pg_dump's talk with its server: nothing, but where a pipe is to get the rows."""

from __future__ import annotations

import struct

import pytest

from pghaven.dump.exchange import Exchange, render_question

OPENING = struct.pack("!II", 18, 196608) + b"user\0db1\0\0"
CANCEL = struct.pack("!IIII", 16, 80877102, 4711, 99)
ENCRYPTION = struct.pack("!II", 8, 80877103)
QUESTION = b'COPY public."Old ""T" (id, "one two") TO stdout;'
PIPES = {QUESTION: b"/spool/3012.dat"}


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


def query(text: bytes) -> bytes:
    return message(b"Q", text + b"\0")


READY = message(b"Z", b"T")
DONE = message(b"C", b"COPY 12\0")
NOTICE = message(b"N", b"SNOTICE\0\0")
ROWS_COME = message(b"H", b"\0\0\0")
ROWS_HAVE_COME = message(b"c")
REPLACED = query(b'COPY public."Old ""T" (id, "one two") TO \'/spool/3012.dat\';')


def ask(exchange: Exchange, data: bytes, step: int) -> tuple[bytes, bytes]:
    answers = [exchange.from_client(data[at : at + step]) for at in range(0, len(data), step)]
    return b"".join(one for one, _ in answers), b"".join(one for _, one in answers)


def say(exchange: Exchange, data: bytes, step: int) -> bytes:
    return b"".join(exchange.from_server(data[at : at + step]) for at in range(0, len(data), step))


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_table_with_a_pipe_is_copied_by_the_server(step: int) -> None:
    exchange = Exchange(PIPES)
    before = query(b"SET extra_float_digits TO 3") + message(b"p", b"secret\0")
    assert ask(exchange, OPENING + before, step) == (OPENING + before, b"")
    assert say(exchange, READY, step) == READY
    assert ask(exchange, query(QUESTION), step) == (REPLACED, ROWS_COME)
    assert say(exchange, NOTICE + DONE + READY, step) == NOTICE + ROWS_HAVE_COME + DONE + READY
    after = query(b"COPY public.small (id) TO stdout;")
    assert ask(exchange, after, step) == (after, b"")
    rows = message(b"H", b"\0\0\1\0\0") + message(b"d", b"1\n") + ROWS_HAVE_COME + DONE + READY
    assert say(exchange, rows, step) == rows
    assert ask(exchange, query(QUESTION) + message(b"X"), step) == (REPLACED + message(b"X"), ROWS_COME)


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_an_error_in_the_middle_reaches_the_client_as_it_is(step: int) -> None:
    exchange = Exchange(PIPES)
    ask(exchange, OPENING + query(QUESTION), step)
    error = message(b"E", b"SERROR\0Mmissing chunk number 0\0\0")
    assert say(exchange, error + READY, step) == error + READY
    later = message(b"C", b"ROLLBACK\0") + READY
    assert say(exchange, later, step) == later


@pytest.mark.parametrize("step", [1, 1000])
def test_a_client_that_takes_its_leave_may_be_hung_up_on(step: int) -> None:
    exchange = Exchange(PIPES)
    ask(exchange, OPENING + query(b"SELECT 'X'") + query(QUESTION), step)
    assert not exchange.has_taken_leave
    ask(exchange, message(b"X"), step)
    assert exchange.has_taken_leave
    cancelling = Exchange(PIPES)
    ask(cancelling, CANCEL, step)
    assert cancelling.has_taken_leave


@pytest.mark.parametrize("data", [CANCEL, ENCRYPTION + OPENING, OPENING + message(b"X")], ids=["cancel", "tls", "end"])
@pytest.mark.parametrize("step", [1, 1000])
def test_all_else_passes(data: bytes, step: int) -> None:
    assert ask(Exchange(PIPES), data, step) == (data, b"")


def test_a_statement_of_any_length_passes() -> None:
    data = OPENING + query(b"SELECT '" + b"x" * 200_000 + b"'") + query(b"")
    assert ask(Exchange(PIPES), data, 4096) == (data, b"")


def test_a_pipe_that_is_named_later_counts_from_then_on() -> None:
    pipes: dict[bytes, bytes] = {}
    exchange = Exchange(pipes)
    assert ask(exchange, OPENING + query(QUESTION), 9)[0] == OPENING + query(QUESTION)
    pipes.update(PIPES)
    assert ask(exchange, query(QUESTION), 9) == (REPLACED, ROWS_COME)


@pytest.mark.parametrize(
    ("copy", "question"),
    [
        (b"COPY public.t (a, b) FROM stdin;\n", b"COPY public.t (a, b) TO stdout;"),
        (b'COPY public." FROM stdin;" (a) FROM stdin;\n', b'COPY public." FROM stdin;" (a) TO stdout;'),
        (b"COPY public.t  FROM stdin;\n", b"COPY public.t  TO stdout;"),
        (b"", b""),
        (b"INSERT INTO t VALUES (1)", b""),
    ],
)
def test_the_question_follows_from_the_statement_that_loads(copy: bytes, question: bytes) -> None:
    assert render_question(copy) == question
