"""YAML as far as Patroni's configuration needs it: tables, lists, texts, numbers and switches.

The one idea: every text is written in JSON's quotes, which YAML reads as they are, so that no value is ever taken for
anything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_READ_AS_SWITCH = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def render_yaml(document: Mapping[str, object]) -> str:
    """A document; its tables keep their order."""
    return "\n".join(_render(document, 0)) + "\n"


def _render(value: object, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _render_entry(f"{indent}{_key(key)}:", inner, depth)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _render_entry(f"{indent}-", inner, depth)
    else:
        yield f"{indent}{json.dumps(value)}"


def _render_entry(head: str, inner: object, depth: int) -> Iterator[str]:
    if isinstance(inner, Mapping | list | tuple) and inner:
        yield head
        yield from _render(inner, depth + 1)
    else:
        yield f"{head} {json.dumps(inner)}"


def _key(key: object) -> str:
    text = str(key)
    return text if _PLAIN_KEY.fullmatch(text) and text.lower() not in _READ_AS_SWITCH else json.dumps(text)
