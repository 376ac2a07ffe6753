"""How results look: plain aligned tables, blocks of names and values, and JSON.

The one idea: text is for people and may change; JSON is for programs, names its schema, and keeps units the same
everywhere (bytes, seconds, UTC).
"""

from __future__ import annotations

import dataclasses
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Literal

from pghaven.cli.output import make_printable
from pghaven.units import render_time_utc

GAP = "  "


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A table's column; numbers and sizes stand to the right."""

    title: str
    align: Literal["left", "right"] = "left"


def render_table(columns: Sequence[str | Column], rows: Iterable[Sequence[object]]) -> str:
    """A table with a line of titles and one line a row, ending in a line break. None is shown as "-"."""
    heads = [c if isinstance(c, Column) else Column(title=c) for c in columns]
    lines = [[head.title for head in heads]]
    lines.extend([_cell(value) for value in row] for row in rows)
    widths = [max(measure_width(line[i]) for line in lines) for i in range(len(heads))]
    return "".join(_join_cells(line, heads, widths) for line in lines)


def render_block(pairs: Iterable[tuple[str, object]], indent: str = "") -> str:
    """Names and values, the values aligned, one pair a line; pairs whose value is None are left out.

    An empty name goes on with the one above.
    """
    shown = [(f"{name}:" if name else "", _cell(value)) for name, value in pairs if value is not None]
    width = max((measure_width(name) for name, _ in shown), default=0)
    return "".join(f"{indent}{name}{' ' * (width - measure_width(name))}{GAP}{value}\n" for name, value in shown)


def render_json(name: str, body: Mapping[str, object]) -> str:
    """One line: ``{"schema": "pghaven/<name>/1", ...}``, ASCII only."""
    return json.dumps({"schema": f"pghaven/{name}/1", **{k: to_json(v) for k, v in body.items()}}) + "\n"


def to_json(value: object) -> object:
    """A result as JSON takes it: values by their fields, moments in UTC, types such as Lsn as they print themselves.

    Raises TypeError for what has no such form.
    """
    if value is None or isinstance(value, bool | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Enum):
        return to_json(value.value)
    if isinstance(value, int):
        text = str(value)
        return int(value) if text == str(int(value)) else text
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, datetime):
        return render_time_utc(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | memoryview):
        return [to_json(item) for item in value]
    raise TypeError(f"cannot show a {type(value).__name__} as JSON")


def measure_width(text: str) -> int:
    """Columns of a terminal that the text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cell(value: object) -> str:
    return "-" if value is None else make_printable(str(value))


def _join_cells(cells: Sequence[str], heads: Sequence[Column], widths: Sequence[int]) -> str:
    padded = []
    for cell, head, width in zip(cells, heads, widths, strict=True):
        padding = " " * (width - measure_width(cell))
        padded.append(padding + cell if head.align == "right" else cell + padding)
    return GAP.join(padded).rstrip() + "\n"
