"""Data classes and patterns that cost nothing to declare: the standard library's, to whoever uses or checks them.

The one idea: PostgreSQL starts a program for every WAL file, and ``dataclasses`` writes and compiles source for each
class (half a millisecond, sixty times on that way) after it has loaded ``inspect``. Here the methods are made of
closures, and the standard library is loaded when something asks for what only it has: its ``fields``, ``asdict`` and
``replace`` work on these classes too. A pattern is compiled when it is first used. Modules that a push loads take
theirs from here, all others need not.

Always with ``slots``; what is not used is not here (inheritance, KW_ONLY, eq). Source: PEP 557.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import dataclass, field, fields, replace
    from re import compile as pattern
    from typing import Any

__all__ = ["dataclass", "field", "fields", "pattern", "replace"]

_REQUIRED = object()
_OWN = "__light_fields__"


class _Field:
    """What a class body says of one field."""

    __slots__ = ("annotation", "default", "default_factory", "init", "metadata", "name", "repr")

    def __init__(
        self,
        *,
        default: Any = _REQUIRED,
        default_factory: Any = _REQUIRED,
        init: bool = True,
        repr: bool = True,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = ""
        self.annotation: Any = None
        self.default = default
        self.default_factory = default_factory
        self.init = init
        self.repr = repr
        self.metadata = {} if metadata is None else metadata


def _dataclass(
    *, frozen: bool = False, slots: bool = False, kw_only: bool = False, order: bool = False
) -> Callable[[type], Any]:
    """As ``dataclasses.dataclass``; ``slots`` must be true."""

    def make(plain: type) -> Any:
        assert slots, "a class without slots is the standard library's"
        return _make(plain, frozen=frozen, kw_only=kw_only, order=order)

    return make


def _fields(of: Any) -> tuple[Any, ...]:
    """As ``dataclasses.fields``; of a class that is not from here, the standard library's."""
    own = getattr(of, _OWN, None)
    if own is not None:
        return tuple(own)
    from dataclasses import fields as standard

    return standard(of)


def _replace(value: Any, /, **changes: Any) -> Any:
    """As ``dataclasses.replace``."""
    own = getattr(value, _OWN, None)
    if own is None:
        from dataclasses import replace as standard

        return standard(value, **changes)
    return type(value)(**{one.name: getattr(value, one.name) for one in own if one.init} | changes)


class _Pattern:
    """As ``re.compile`` makes, later."""

    def __init__(self, source: str, flags: int = 0) -> None:
        self.pattern = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        import re

        found = getattr(re.compile(self.pattern, self._flags), name)
        setattr(self, name, found)
        return found


if not TYPE_CHECKING:
    dataclass, field, fields, pattern, replace = _dataclass, _Field, _fields, _Pattern, _replace


def _make(plain: type, *, frozen: bool, kw_only: bool, order: bool) -> Any:
    body = dict(plain.__dict__)
    own = _take_fields(body)
    names = tuple(one.name for one in own)
    for unwanted in ("__dict__", "__weakref__"):
        body.pop(unwanted, None)
    body["__slots__"] = names
    body["__match_args__"] = () if kw_only else tuple(one.name for one in own if one.init)
    body[_OWN] = own
    body["__dataclass_fields__"] = _Standard("__dataclass_fields__", frozen=frozen, kw_only=kw_only)
    body["__dataclass_params__"] = _Standard("__dataclass_params__", frozen=frozen, kw_only=kw_only)
    made: Any = type(plain)(plain.__name__, plain.__bases__, body)
    # Setting a slot by its descriptor is the only way to give a frozen value its contents.
    puts = tuple((one, made.__dict__[one.name].__set__) for one in own)
    for called, method in (
        ("__init__", _make_init(plain.__qualname__, puts, kw_only=kw_only, after=body.get("__post_init__"))),
        ("__repr__", _make_repr(tuple(one.name for one in own if one.repr))),
        ("__getstate__", lambda self: [getattr(self, name) for name in names]),
        ("__setstate__", lambda self, state: [put(self, value) for (_, put), value in zip(puts, state, strict=True)]),
    ):
        if called not in body:
            method.__qualname__ = f"{plain.__qualname__}.{called}"
            setattr(made, called, method)
    if "__eq__" not in body:
        made.__eq__, made.__hash__ = _make_eq(made, names), _make_hash(names) if frozen else None
    if order:
        for comparison in ("__lt__", "__le__", "__gt__", "__ge__"):
            setattr(made, comparison, _make_order(made, names, comparison))
    if frozen:
        made.__setattr__ = made.__delattr__ = _refuse
    return made


def _take_fields(body: dict[str, Any]) -> tuple[_Field, ...]:
    """The fields that a class body annotates; their defaults are no attributes of the class any more."""
    own = []
    for name, annotation in _read_annotations(body).items():
        if str(annotation).startswith("ClassVar"):
            continue
        given = body.pop(name, _REQUIRED)
        one = given if isinstance(given, _Field) else _Field(default=given)
        one.name, one.annotation = name, annotation
        own.append(one)
    return tuple(own)


def _read_annotations(body: dict[str, Any]) -> dict[str, Any]:
    annotations = body.get("__annotations__")
    if annotations is None and (evaluate := body.get("__annotate_func__")) is not None:  # since Python 3.14
        annotations = evaluate(1)
    return annotations or {}


def _make_init(
    class_name: str, puts: tuple[tuple[_Field, Any], ...], *, kw_only: bool, after: Callable[[Any], None] | None
) -> Any:
    places = tuple((one.name, put, one.default, one.default_factory, one.init) for one, put in puts)
    in_order = () if kw_only else tuple(one.name for one, _ in puts if one.init)

    def __init__(self: Any, /, *args: Any, **given: Any) -> None:
        if args:
            if len(args) > len(in_order) or not given.keys().isdisjoint(in_order[: len(args)]):
                raise TypeError(f"{class_name}() takes other positional arguments")
            given.update(zip(in_order, args, strict=False))
        taken = 0
        for name, put, default, default_factory, init in places:
            if init and name in given:
                put(self, given[name])
                taken += 1
            elif default is not _REQUIRED:
                put(self, default)
            elif default_factory is not _REQUIRED:
                put(self, default_factory())
            elif init:
                raise TypeError(f"{class_name}() is not given {name!r}")
        if taken != len(given):
            known = {name for name, _, _, _, init in places if init}
            raise TypeError(f"{class_name}() got unexpected arguments: {', '.join(sorted(given.keys() - known))}")
        if after is not None:
            after(self)

    return __init__


def _make_repr(names: tuple[str, ...]) -> Any:
    def __repr__(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _make_eq(made: type, names: tuple[str, ...]) -> Any:
    def __eq__(self: Any, other: object) -> Any:
        if other.__class__ is not made:
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in names)

    return __eq__


def _make_order(made: type, names: tuple[str, ...], comparison: str) -> Any:
    compare = getattr(tuple, comparison)

    def method(self: Any, other: object) -> Any:
        if other.__class__ is not made:
            return NotImplemented
        return compare(tuple([getattr(self, name) for name in names]), tuple([getattr(other, name) for name in names]))

    return method


def _make_hash(names: tuple[str, ...]) -> Any:
    return lambda self: hash(tuple([getattr(self, name) for name in names]))


def _refuse(self: Any, name: str, *_: Any) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to or delete field {name!r} of a {type(self).__qualname__}")


class _Standard:
    """What the standard library keeps of its classes, made when it first looks for it."""

    def __init__(self, attribute: str, *, frozen: bool, kw_only: bool) -> None:
        self._attribute = attribute
        self._frozen = frozen
        self._kw_only = kw_only
        self._found: Any = None

    def __get__(self, _instance: object, owner: type) -> Any:
        if self._found is None:
            import dataclasses

            described = []
            for one in getattr(owner, _OWN):
                more = {} if one.default is _REQUIRED else {"default": one.default}
                more |= {} if one.default_factory is _REQUIRED else {"default_factory": one.default_factory}
                spec: Any = dataclasses.field(init=one.init, repr=one.repr, metadata=one.metadata, **more)
                described.append((one.name, one.annotation, spec))
            made = dataclasses.make_dataclass(owner.__name__, described, frozen=self._frozen, kw_only=self._kw_only)
            self._found = getattr(made, self._attribute)
        return self._found
