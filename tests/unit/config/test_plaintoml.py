"""What is read without the library for TOML is what the library reads, or the library is asked."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.config.plaintoml import parse_plain_toml
from pghaven.config.starter import render_starter

SIGNS = ["[", "]", "=", '"', '""', "'", '"""', "\\", "#", ",", " ", "\t", "\n", "\r\n", "\r", "{", "}", "."]
STRANGE = ["é", "\x00", "\x85", "\x7f", "\u2028", "\ufeff"]
WORDS = ["[a]", "[a.b]", "[[a]]", "a", "a-b", "a.b", '"x"', "0", "01", "-1", "1.5", "1_0", "true", "1979-05-27", "[]"]
TABLES = ["[a]", "[b]", "[a.b]", "[a.b.c]", "  [c]  ", "[[a]]", "# words", ""]
VALUES = ['a = "x"', "b = 7", "c=true", 'd = ["x", "y"]', "a = 1", 'b = "é ü"', 'c = "a # b"', "d = []", "a.b = 1"]
MORE_VALUES = ["e = 1 # words", "\t f\t=\t0", 'g = ["x,y"]', 'g = ["x",]', "h = 1.5"]
LEFT = ["a = 1.5", "a = 'x'", 'a = "\\n"', "a = 01", "a = -1", "a = 1_000", "a = [1]", "a = 1 # one", "a.b = 1"]
WRONG = ['"a" = 1', "[[a]]", "[a", "a = ", "= 1", "a", "a = 1\na = 2", "[a]\n[a]", "a = 1\n[a]", "a = 1\r", "[ ]"]


def read_fully(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except ValueError:
        return "no TOML"


@given(
    st.one_of(
        st.lists(st.sampled_from([*SIGNS, *STRANGE, *WORDS]), max_size=12).map("".join),
        st.lists(st.sampled_from([*TABLES, *VALUES, *MORE_VALUES]), max_size=9).map("\n".join),
    )
)
def test_it_is_what_the_library_reads_or_the_library_is_asked(text: str) -> None:
    plain = parse_plain_toml(text)
    assert plain is None or plain == read_fully(text)


def test_the_first_configuration_needs_no_library() -> None:
    text = render_starter("shop", "/var/lib/postgresql/17/main", "host=/run user=postgres", "file:///srv/pghaven")
    assert parse_plain_toml(text) == tomllib.loads(text) != {}


@pytest.mark.parametrize("text", [*LEFT, *WRONG, "[a.b]\nc = 1\n[a]\nb = 2"])
def test_all_else_is_left_to_the_library(text: str) -> None:
    assert parse_plain_toml(text) is None
