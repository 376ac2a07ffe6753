"""Planting a mistake: the module that has it is another text, in this process alone.

The one idea: a mistake is a few words of the source replaced by others before the module is imported, so whoever uses
it meets the mistake, however the name was imported, and the source itself is never touched.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A rule that is left out: ``old`` stands once in ``module``, and ``new`` in its place.

    ``rule`` says what is no longer done. ``found_by`` are the tests, of those that ``tests.rules.suite`` names, that
    that fail then: these and no others. ``servers`` are tests on real servers of ``version``, as module::name.
    """

    rule: str
    module: str
    old: str
    new: str
    found_by: tuple[str, ...]
    servers: tuple[str, ...] = ()
    version: int = 17


def plant(one: Plant) -> None:
    """Before anything of ``one.module`` is imported in this process."""
    assert one.module not in sys.modules, one.module
    # Workers are processes of their own, which nobody has told: what they do is done here.
    at_home = {"pghaven.backup.session": [("Crew(size=settings.processes,", "Crew(size=0,")]}
    at_home.setdefault(one.module, []).append((one.old, one.new))
    sys.meta_path.insert(0, _Finder(at_home))


class _Finder(MetaPathFinder):
    def __init__(self, replacements: dict[str, list[tuple[str, str]]]) -> None:
        self._replacements = replacements

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._replacements:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._replacements[fullname])
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, replacements: list[tuple[str, str]]) -> None:
        super().__init__(fullname, path)
        self._replacements = replacements

    def get_code(self, fullname: str) -> CodeType:
        text = self.get_data(self.path).decode()
        for old, new in self._replacements:
            assert text.count(old) == 1, f"{fullname} has {text.count(old)} times: {old}"
            text = text.replace(old, new)
        return compile(text, self.path, "exec", dont_inherit=True)
