from __future__ import annotations

from pghaven.config.places import find_line, find_places

TEXT = '''\
# a comment with key = 1
top = 1
[repository.main]  # the first
url = "x"
[ cluster . "a b" ]
text = """
[cluster.fake]
fake = 1
"""
list = [
  "a = 1",
]
one = """closed"""
after = 1
dotted.inner = 2
[[array]]
'''


def test_tables_and_keys_have_the_lines_on_which_they_stand() -> None:
    places = find_places(TEXT)
    assert places["top",] == 2
    assert places["repository", "main"] == 3
    assert places["repository", "main", "url"] == 4
    assert places["cluster", "a b"] == 5
    assert places["cluster", "a b", "list"] == 10
    assert places["cluster", "a b", "after"] == 14
    assert places["cluster", "a b", "dotted", "inner"] == 15
    assert places["array",] == 16


def test_lines_inside_a_multi_line_string_open_nothing() -> None:
    places = find_places(TEXT)
    assert ("cluster", "fake") not in places
    assert ("cluster", "a b", "fake") not in places


def test_windows_line_ends_change_nothing() -> None:
    assert find_places(TEXT.replace("\n", "\r\n")) == find_places(TEXT)


def test_a_name_without_a_line_is_told_by_the_nearest_around_it() -> None:
    places = find_places(TEXT)
    assert find_line(places, ("repository", "main", "inline", "deep")) == 3
    assert find_line(places, ("nowhere",)) is None
