"""Key texts: copied right they come back, copied wrong they are told from another key."""

from __future__ import annotations

import pytest

from pghaven.errors import NotPermitted
from pghaven.repository.keytext import Access, KeyText, find_age_identities, find_key_text, render_key_file

KEY = KeyText(access=Access.READER, private=bytes(range(32)), anchor=bytes(range(16)))


@pytest.mark.parametrize("access", list(Access))
def test_a_key_file_gives_its_key_back(access: Access) -> None:
    key = KeyText(access=access, private=KEY.private, anchor=KEY.anchor)
    assert find_key_text(render_key_file(key, "ab" * 16, "main").decode()) == key


def test_every_slip_of_the_pen_is_found() -> None:
    text = KEY.render()
    start = text.rindex("-") + 1
    for at in range(start, len(text)):
        wrong = text[:at] + ("b" if text[at] != "b" else "c") + text[at + 1 :]
        with pytest.raises(NotPermitted, match="not copied right"):
            find_key_text(wrong)
    for length in range(start + 1, len(text)):
        with pytest.raises(NotPermitted, match="not copied right"):
            find_key_text(text[:length])


def test_a_writing_key_is_not_taken_for_a_reading_one() -> None:
    with pytest.raises(NotPermitted, match="not copied right"):
        find_key_text(KEY.render().replace("reader", "writer"))


def test_what_is_remarked_is_no_key() -> None:
    assert find_key_text(f"# {KEY.render()}\n") is None
    assert find_key_text("nothing") is None


def test_two_keys_in_one_file_are_refused() -> None:
    other = KeyText(access=Access.READER, private=bytes(32), anchor=KEY.anchor)
    with pytest.raises(NotPermitted, match="more than one key"):
        find_key_text(f"{KEY.render()}\n{other.render()}\n")
    assert find_key_text(f"{KEY.render()}\n{KEY.render()}\n") == KEY


def test_age_identities_are_found_in_a_file_of_age() -> None:
    text = "# created: 2026-03-01\n# public key: age1xyz\nAGE-SECRET-KEY-1ABCDEF\n"
    assert find_age_identities(text) == ("AGE-SECRET-KEY-1ABCDEF",)


def test_a_key_is_not_shown_by_accident() -> None:
    assert KEY.render().rpartition("-")[2][:20] not in repr(KEY)
    assert repr(KEY.private) not in repr(KEY)
