"""The rescue kit in a repository: a page and a program with which its data is got out without pghaven.

The one idea: objects are written once, so the kit is never replaced; the first lies at the repository's root, where a
stranger looks first, and a newer one beside it under its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from pghaven.errors import ObjectExists, ObjectMissing
from pghaven.repository.repository import Repository

# Raised when a release changes the page or the program; the number in ``rescue.py`` is the same.
KIT_NUMBER = 1
_FILES = ("rescue.py", "RESCUE.md")


def write_kit(repository: Repository) -> None:
    """Put this version's kit into a repository that lacks it; one request where it is there already.

    The page comes last, so where it is, the program is too. Raises NotPermitted, StoreUnreachable.
    """
    names = [kit_prefix(KIT_NUMBER) + name for name in _FILES]
    if repository.store.find(names[-1]) is not None:
        return
    for name, content in zip(names, read_kit().values(), strict=True):
        try:
            repository.store.create(name, [content])
        except ObjectExists:
            continue  # somebody was faster, or an earlier answer was lost; no other content has this name


def find_kit_flaws(repository: Repository) -> dict[str, str]:
    """What is wrong with this version's kit, by the names of its files; nothing where it is yet to come.

    Raises StoreUnreachable.
    """
    flaws: dict[str, str] = {}
    expected = {kit_prefix(KIT_NUMBER) + name: content for name, content in read_kit().items()}
    for name, content in expected.items():
        try:
            if repository.store.read(name) != content:
                flaws[name] = "it is not what was stored"
        except ObjectMissing:
            flaws[name] = "it is missing"
    return flaws if set(flaws.values()) != {"it is missing"} or len(flaws) < len(expected) else {}


def read_kit() -> Mapping[str, bytes]:
    """The kit's files by their names."""
    return {name: (files("pghaven.repository.kit") / name).read_bytes() for name in _FILES}


def kit_prefix(number: int) -> str:
    """Where the kit of a number lies: the first at the root, later ones under ``rescue/``."""
    return "" if number == 1 else f"rescue/{number:04d}/"
