"""What an option is: its kind, its default, its words for the reader.

The one idea: an option is one field of a dataclass in ``values``, written with ``option(...)``. Reading the file, the
overrides from the environment, the messages and the reference page all follow from that one line, so that none of
them can disagree with another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from pghaven.light import dataclass, field, fields, pattern
from pghaven.store.settings import SCHEMES, holds_password
from pghaven.units import parse_duration, parse_rate, parse_size, render_rate

# A section's name becomes a part of object names in the repository and of environment variables.
SECTION_NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
SECTION_NAME_RULE = 'a name has 1 to 63 letters, digits, "-" or "_" and begins with a letter or digit'

_URL = pattern(r"[a-z][a-z0-9+.-]*://.+")
_ENDPOINT = pattern(r"https?://[^/?#\s]+(?:/[^?#\s]*)?")
_SLOT = pattern(r"[a-z0-9_]{1,63}")
_CONTROL = pattern(r"[\x00-\x1f\x7f]")
_METADATA_KEY = "pghaven.option"


# Slower than this nothing would come to an end.
RATE_MIN = 64 << 10


class Invalid(ValueError):
    """A value is not of its option's kind; the text goes on after the option's name ("must be ...")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How an option is written and what it becomes.

    ``parse`` takes what TOML gave and returns the value, or raises Invalid. ``from_text`` makes of an environment
    variable what TOML would have given.
    """

    written: str
    parse: Callable[[object], Any]
    from_text: Callable[[str], object] = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One declared option, for reading and for its documentation.

    ``schemes``: of a repository, whose URL begins with one of these; empty: of any.
    """

    name: str
    field: str
    kind: Kind
    doc: str
    default: str | int | None
    default_words: str
    required: bool
    example: str
    since: str
    schemes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A kind of section, ``[name.NAME]``, and the dataclass whose fields are its options.

    ``parts`` are sections within it, ``[name.NAME.part]``; each is the value of the field of its name. ``repeated`` are
    those that stand there any number of times, ``[[name.NAME.repeated]]``; the field is a tuple then. Of the options in
    ``one_of`` at most one is given.
    """

    name: str
    type: type[Any]
    doc: str
    parts: tuple[Section, ...] = ()
    repeated: tuple[Section, ...] = ()
    one_of: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Option]:
        return {o.name: o for o in options_of(self.type)}


def option(
    kind: Kind,
    *,
    doc: str,
    example: str,
    default: str | int | None = None,
    default_words: str = "",
    unset: object = None,
    required: bool = False,
    since: str = "0.1",
    schemes: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that is an option. A trailing ``_seconds`` of the field is not part of the option's name.

    ``default`` is written as in the file. Without one the field is ``unset``; ``default_words`` say what that means.
    """
    words = {
        "kind": kind,
        "doc": doc,
        "example": example,
        "default": default,
        "default_words": default_words,
        "required": required,
        "since": since,
        "schemes": schemes,
    }
    if required:
        return field(metadata={_METADATA_KEY: words})
    value = unset if default is None else kind.parse(default)
    return field(default=value, metadata={_METADATA_KEY: words})


def options_of(section_type: type[Any]) -> tuple[Option, ...]:
    """The options a dataclass declares, in its order."""
    return tuple(
        Option(name=f.name.removesuffix("_seconds"), field=f.name, **f.metadata[_METADATA_KEY])
        for f in fields(section_type)
        if _METADATA_KEY in f.metadata
    )


def render_value(value: object) -> str:
    """A TOML value in a message."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{_CONTROL.sub("?", value)}"'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return str(value)


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise Invalid(f"must be text in quotes, not {render_value(value)}")
    if _CONTROL.search(value):
        raise Invalid("must not contain line breaks or other control characters")
    return value


def _parse_directory(value: object) -> str:
    text = _parse_text(value)
    if not os.path.isabs(text):
        raise Invalid(f'must be an absolute path, not "{text}"')
    return text.rstrip("/") or "/"


def _parse_file(value: object) -> str:
    text = _parse_text(value)
    if not os.path.isabs(text) or text.endswith("/"):
        raise Invalid(f'must be the absolute path of a file, not "{text}"')
    return text


def _parse_endpoint(value: object) -> str:
    text = _parse_text(value)
    if holds_password(text):
        raise Invalid("must not hold a password or a signature")
    if not _ENDPOINT.fullmatch(text):
        raise Invalid(f'must be an address such as "https://s3.example.com", not "{text}"')
    return text.rstrip("/")


def _parse_slot(value: object) -> str:
    if not isinstance(value, str) or not _SLOT.fullmatch(value):
        raise Invalid("must be 1 to 63 lower-case letters, digits and underscores, as PostgreSQL names slots")
    return value


def _parse_switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"must be true or false, not {render_value(value)}")
    return value


def _switch_from_text(text: str) -> object:
    return {"true": True, "false": False}.get(text.lower(), text)


def _parse_url(value: object) -> str:
    text = _parse_text(value)
    if holds_password(text):
        hint = "keys and passwords are read from files and the environment"
        raise Invalid(f"must not hold a password or a signature: {hint}")
    if not _URL.fullmatch(text):
        example = f"file://{text}" if os.path.isabs(text) else "file:///var/lib/pghaven"
        raise Invalid(f'must be a URL such as "{example}", not "{text}"')
    scheme = text.partition("://")[0]
    if scheme not in SCHEMES:
        *others, last = [f"{one}://" for one in SCHEMES]
        raise Invalid(f'must begin with {", ".join(others)} or {last}, not "{scheme}://"')
    return text


def _parse_duration(value: object) -> float:
    if isinstance(value, int) and not isinstance(value, bool):
        raise Invalid(f'must have a unit, such as "{value}s" or "{value}min", not {value}')
    text = _parse_text(value)
    try:
        seconds = parse_duration(text)
    except ValueError as reason:
        raise Invalid(f"is wrong: {reason}") from None
    if seconds <= 0:
        raise Invalid(f'must be more than zero, not "{text}"')
    return seconds


def _parse_size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        raise Invalid(f'must have a unit, such as "{value}MiB", not {value}')
    try:
        return parse_size(_parse_text(value))
    except ValueError as reason:
        raise Invalid(f"is wrong: {reason}") from None


def _parse_rate(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        raise Invalid(f'must have a unit, such as "{value}MiB/s", not {value}')
    try:
        rate = parse_rate(_parse_text(value))
    except ValueError as reason:
        raise Invalid(f"is wrong: {reason}") from None
    if rate < RATE_MIN:
        raise Invalid(f"must be at least {render_rate(RATE_MIN)}, not {render_value(value)}")
    return rate


def _parse_price(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise Invalid(f"must be a number such as 0.023, not {render_value(value)}")
    return float(value)


def _price_from_text(text: str) -> object:
    return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,12})?", text) else text


def _parse_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise Invalid(f'must be a list of names such as ["main"], not {render_value(value)}')
    names = [_parse_text(item) for item in value]
    for name in names:
        if not SECTION_NAME.fullmatch(name):
            raise Invalid(f'contains "{name}", but {SECTION_NAME_RULE}')
        if names.count(name) > 1:
            raise Invalid(f'contains "{name}" twice')
    return tuple(names)


def _parse_texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Invalid(f"must be a list of texts, not {render_value(value)}")
    return tuple(_parse_text(item) for item in value)


def _split_names(text: str) -> object:
    return [part.strip() for part in text.split(",")]


def _number_from_text(text: str) -> object:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def count(minimum: int, maximum: int) -> Kind:
    """A whole number from ``minimum`` to ``maximum``."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise Invalid(f"must be a whole number from {minimum} to {maximum}, not {render_value(value)}")
        return value

    return Kind(written=f"whole number, {minimum} to {maximum}", parse=parse, from_text=_number_from_text)


def one_of(names: tuple[str, ...]) -> Kind:
    """One of a few words."""

    def parse(value: object) -> str:
        if value not in names:
            raise Invalid(f"must be one of {', '.join(names)}, not {render_value(value)}")
        return str(value)

    return Kind(written=f"one of {', '.join(names)}", parse=parse)


TEXT = Kind(written="text", parse=_parse_text)
SLOT = Kind(written="name of 1 to 63 lower-case letters, digits and underscores", parse=_parse_slot)
SWITCH = Kind(written="true or false", parse=_parse_switch, from_text=_switch_from_text)
FILE = Kind(written="absolute path of a file", parse=_parse_file)
ENDPOINT = Kind(written="address, http:// or https://", parse=_parse_endpoint)
DIRECTORY = Kind(written="absolute path of a directory", parse=_parse_directory)
URL = Kind(written="URL", parse=_parse_url)
SIZE = Kind(written="size with its unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)", parse=_parse_size)
RATE = Kind(written="size with its unit and /s", parse=_parse_rate)
PRICE = Kind(written="number", parse=_parse_price, from_text=_price_from_text)
DURATION = Kind(written="duration with its unit (ms, s, min, h, d, w)", parse=_parse_duration)
TEXTS = Kind(written="list of texts", parse=_parse_texts, from_text=lambda text: text.split(";"))
NAMES = Kind(written="list of names", parse=_parse_names, from_text=_split_names)
