"""Data classes of ``light`` do what the standard library's do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

from pghaven import light


@light.dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    number: int
    text: str = "none"
    words: tuple[str, ...] = ()
    secret: str | None = light.field(default=None, repr=False)
    things: dict[str, int] = light.field(default_factory=dict)

    @property
    def double(self) -> int:
        return self.number * 2


@light.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Ordered:
    major: int
    minor: int

    def __post_init__(self) -> None:
        if self.minor < 0:
            raise ValueError("minor")


@light.dataclass(slots=True)
class Open:
    first: int
    second: list[int] = light.field(default_factory=list, metadata={"told": "yes"})
    own: int = light.field(default=7, init=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandardValue:
    number: int
    text: str = "none"
    words: tuple[str, ...] = ()
    secret: str | None = dataclasses.field(default=None, repr=False)
    things: dict[str, int] = dataclasses.field(default_factory=dict)


def test_a_value_has_what_it_was_given_and_the_defaults_of_the_rest() -> None:
    value = Value(number=3, text="three")
    assert (value.number, value.text, value.words, value.secret, value.things) == (3, "three", (), None, {})
    assert value.double == 6
    assert Value(number=1).things is not Value(number=1).things


def test_a_value_shows_itself_as_the_standard_one_does() -> None:
    given: dict[str, Any] = {"number": 3, "secret": "hidden", "words": ("a",)}
    assert repr(Value(**given)) == repr(StandardValue(**given)).removeprefix("Standard")
    assert "hidden" not in repr(Value(**given))


def test_values_are_equal_and_hash_by_their_fields() -> None:
    one, same, other = Ordered(major=1, minor=2), Ordered(major=1, minor=2), Ordered(major=1, minor=3)
    assert one == same
    assert hash(one) == hash(same) == hash((1, 2))
    assert one != other
    assert one != (1, 2)
    assert {one, same, other} == {one, other}
    with pytest.raises(TypeError):
        hash(Open(1))


def test_ordered_values_compare_as_their_fields_do() -> None:
    one, other = Ordered(major=1, minor=2), Ordered(major=1, minor=10)
    assert one < other
    assert one <= other
    assert other > one
    assert max(one, other) is other
    with pytest.raises(TypeError):
        assert one < (1, 3)  # type: ignore[operator]


@pytest.mark.parametrize("change", [lambda value: setattr(value, "number", 4), lambda value: delattr(value, "number")])
def test_a_frozen_value_cannot_be_changed(change: Callable[[Value], None]) -> None:
    value = Value(number=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        change(value)
    with pytest.raises(AttributeError):
        object.__setattr__(value, "unknown", 1)
    assert value.number == 3


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (Value, ((), {})),
        (Value, ((3,), {})),
        (Value, ((), {"number": 3, "nombre": 4})),
        (Open, ((), {})),
        (Open, ((1, [], 3), {})),
        (Open, ((1,), {"first": 2})),
        (Open, ((1,), {"own": 8})),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[..., object], given: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError):
        make(*given[0], **given[1])


def test_what_is_checked_at_the_end_of_making_one_is_checked() -> None:
    with pytest.raises(ValueError, match="minor"):
        Ordered(major=1, minor=-1)
    with pytest.raises(ValueError, match="minor"):
        light.replace(Ordered(major=1, minor=1), minor=-1)


def test_an_open_value_is_given_by_position_and_changed() -> None:
    value = Open(1)
    value.first = 2
    value.second.append(3)
    assert (value.first, value.second, value.own) == (2, [3], 7)


@pytest.mark.parametrize("value", [Value(number=3, things={"a": 1}), Ordered(major=1, minor=2), Open(1, [2])])
def test_values_are_pickled_and_copied(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.copy(value) == value
    assert copy.deepcopy(value) == value


@pytest.mark.parametrize("replace", [light.replace, dataclasses.replace])
def test_both_replace(replace: Callable[..., Value]) -> None:
    assert replace(Value(number=3, text="t"), number=4) == Value(number=4, text="t")


def test_the_standard_library_finds_the_fields() -> None:
    value = Value(number=3, words=("a",))
    assert dataclasses.is_dataclass(value)
    assert [one.name for one in dataclasses.fields(value)] == [one.name for one in light.fields(Value)]
    assert dataclasses.asdict(value) == dataclasses.asdict(StandardValue(number=3, words=("a",)))
    (_, second, own) = dataclasses.fields(Open)
    assert (second.metadata, own.init, own.default) == ({"told": "yes"}, False, 7)
    assert light.fields(Open)[1].metadata == {"told": "yes"}


def test_light_takes_the_standard_librarys_classes_too() -> None:
    value = StandardValue(number=3)
    assert light.replace(value, number=4) == StandardValue(number=4)
    assert light.fields(StandardValue) == dataclasses.fields(StandardValue)


def test_a_pattern_is_that_of_re() -> None:
    late = light.pattern(r"([a-z]+)(\d)?", re.ASCII)
    now = re.compile(r"([a-z]+)(\d)?", re.ASCII)
    assert late.pattern == now.pattern
    for text in ("abc1", "1abc", "", "ä"):
        late_match, match = late.fullmatch(text), now.fullmatch(text)
        assert (late_match and late_match.groups()) == (match and match.groups())
    assert late.findall("ab1 c") == now.findall("ab1 c")
