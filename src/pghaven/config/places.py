"""Where each name stands in a TOML file, which ``tomllib`` does not tell.

The one idea: a line that opens a table or sets a key can be recognised without parsing values, as long as lines inside
multi-line strings are passed over. The file has already been parsed, so it is known to be valid. A place that is not
found (a key inside an inline table) is told by the nearest name around it.
"""

from __future__ import annotations

from pghaven.light import pattern

Path = tuple[str, ...]

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_TABLE = pattern(rf"\s*\[\[?\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?")
_KEY = pattern(rf"\s*({_DOTTED})\s*=(.*)")
_PARTS = pattern(_PART)
_MULTILINE_QUOTES = pattern(r'"""|\'\'\'')


def find_places(text: str) -> dict[Path, int]:
    """The line (from 1) of each table and key; of one that is opened several times, the first."""
    places: dict[Path, int] = {}
    table: Path = ()
    open_quotes: str | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if open_quotes is not None:
            if open_quotes in line:
                open_quotes = None
            continue
        if match := _TABLE.fullmatch(line.rstrip("\r")):
            table = _split(match[1])
            _note(places, table, number)
        elif match := _KEY.fullmatch(line.rstrip("\r")):
            _note(places, table + _split(match[1]), number)
            open_quotes = _find_open_quotes(match[2])
    return places


def find_line(places: dict[Path, int], path: Path) -> int | None:
    """The line of this name, or of the nearest one around it that has a line."""
    while path:
        if path in places:
            return places[path]
        path = path[:-1]
    return None


def _note(places: dict[Path, int], path: Path, number: int) -> None:
    for length in range(1, len(path) + 1):
        places.setdefault(path[:length], number)


def _split(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in _PARTS.findall(dotted))


def _find_open_quotes(value: str) -> str | None:
    match = _MULTILINE_QUOTES.search(value)
    if match is None or match[0] in value[match.end() :]:
        return None
    return match[0]
