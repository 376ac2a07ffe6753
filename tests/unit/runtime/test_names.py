"""Many names in one piece of memory behave as a list of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pghaven.runtime.names import Names, Paths

ANY = st.lists(st.binary(max_size=6).map(lambda name: name.replace(b"\0", b"x")), max_size=30)


@given(ANY, st.slices(30))
def test_it_reads_like_a_list(names: list[bytes], part: slice) -> None:
    packed = Names(names)
    assert len(packed) == len(names)
    assert list(packed) == names
    assert [packed[number] for number in range(-len(names), len(names))] == names + names
    assert packed == names
    if part.step is None or part.step > 0:
        assert packed[part] == names[part]


@given(ANY)
def test_it_comes_back_from_its_bytes(names: list[bytes]) -> None:
    packed = Names(names)
    assert packed.joined == b"".join(name + b"\0" for name in names)
    assert Names.parse(packed.joined, len(names)) == packed


@given(st.integers(0, 9000))
def test_all_of_many_are_gone_through(count: int) -> None:
    names = [b"%d" % number for number in range(count)]
    assert list(Names(names)) == names


@pytest.mark.parametrize(("blob", "count"), [(b"a\0b", 2), (b"a\0b\0", 1), (b"a\0b\0", 3), (b"a", 0), (b"a", 1)])
def test_another_number_of_names_is_refused(blob: bytes, count: int) -> None:
    with pytest.raises(ValueError, match="names where there should be"):
        Names.parse(blob, count)


def test_beyond_its_end_there_is_nothing() -> None:
    with pytest.raises(IndexError):
        Names([b"a"])[1]


@given(st.lists(st.sampled_from(["a", "base/5/16384", "\udcff/\u00e4", ""]), max_size=12), st.slices(12))
def test_paths_are_what_they_were(paths: list[str], part: slice) -> None:
    packed = Paths()
    for path in paths:
        packed.append(path)
    packed.seal()
    assert (list(packed), len(packed), packed) == (paths, len(paths), paths)
    assert packed == tuple(paths)
    assert packed == Paths(paths)
    assert packed != [*paths, "x"]
    if part.step is None or part.step > 0:
        assert packed[part] == paths[part]


@pytest.mark.parametrize("count", [1, 9000, 100_000])
def test_all_of_many_paths_are_there(count: int) -> None:
    packed = Paths()
    for number in range(count):
        packed.append(f"base/5/{number}")
    packed.seal()
    assert packed == [f"base/5/{number}" for number in range(count)]
