"""Mistakes put into the real code for as long as one history lasts.

The one idea: everybody in a history runs the same code, in one thread, so a name of a module can be given another
meaning before it and its own one after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Replacements = Mapping[tuple[Any, str], Any]
"""For (a module or class, a name in it) what is put there."""


@contextmanager
def planting(replacements: Replacements) -> Iterator[None]:
    before = {(where, name): getattr(where, name) for where, name in replacements}
    try:
        for (where, name), what in replacements.items():
            setattr(where, name, what)
        yield
    finally:
        for (where, name), what in before.items():
            setattr(where, name, what)
