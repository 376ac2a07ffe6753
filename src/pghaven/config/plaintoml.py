"""TOML as nearly every configuration file is written, read without the library for all of it.

The one idea: PostgreSQL starts a program for every WAL file, and that library compiles its patterns each time, which
takes longer than reading the file. So tables by their names, and lines with one simple value, are read here; with
anything else in it, and with anything that might be wrong, the whole file is left to the library, which alone judges.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_DIGITS = frozenset("0123456789")
_WORDS = {"true": True, "false": False}
_DIGITS_MAX = 15


def parse_plain_toml(text: str) -> dict[str, Any] | None:
    """What ``tomllib.loads`` returns; None when it is to be asked. Pure."""
    document: dict[str, Any] = {}
    table, tables = document, set()
    for line in text.split("\n"):
        content = line.strip(" \t")
        if not content:
            continue
        if content[0] == "#":
            if not _is_plain(content):
                return None
        elif content[0] == "[":
            if content in tables or (entered := _enter(document, content)) is None:
                return None
            tables.add(content)
            table = entered
        else:
            name, equals, written = content.partition("=")
            name, value = name.rstrip(" \t"), _parse_value(written.strip(" \t"))
            if not equals or not _is_name(name) or name in table or value is None:
                return None
            table[name] = value
    return document


def _enter(document: dict[str, Any], header: str) -> dict[str, Any] | None:
    """The table of this header, made if it is not there; None for what is no plain header."""
    table: Any = document
    if header[-1] != "]":
        return None
    for name in header[1:-1].split("."):
        if not _is_name(name):
            return None
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            return None
    return table if isinstance(table, dict) else None


def _parse_value(written: str) -> Any:
    """None for what is not plain; TOML itself has no such value."""
    if written[:1] == "[" and written[-1:] == "]":
        items = [_parse_text(item.strip(" \t")) for item in written[1:-1].split(",")]
        return None if None in items else items
    if written in _WORDS:
        return _WORDS[written]
    if written and _DIGITS.issuperset(written):
        return int(written) if len(written) <= _DIGITS_MAX and (written[0] != "0" or written == "0") else None
    return _parse_text(written)


def _parse_text(written: str) -> str | None:
    inner = written[1:-1]
    is_quoted = len(written) > 1 and written[0] == written[-1] == '"'
    return inner if is_quoted and '"' not in inner and "\\" not in inner and _is_plain(inner) else None


def _is_name(name: str) -> bool:
    return bool(name) and _NAME.issuperset(name)


def _is_plain(text: str) -> bool:
    return text.isprintable() or ("\t" in text and text.replace("\t", "").isprintable())
