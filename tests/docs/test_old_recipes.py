"""docs/guide/old-recipes.md says what the program knows."""

from __future__ import annotations

import re

from pghaven.postgres.settings import OLD_RECIPES
from tests.tidy.source import ROOT

PAGE = ROOT / "docs" / "guide" / "old-recipes.md"
_ROW = re.compile(r"\| `([^`]+)` \| ([0-9.]+) \| (.+) \|")


def test_the_dictionary_has_every_old_recipe_and_no_other() -> None:
    rows = [match.groups() for line in PAGE.read_text().splitlines() if (match := _ROW.fullmatch(line))]
    known = {(old, recipe.gone_since, recipe.instead) for old, recipe in OLD_RECIPES.items()}
    assert set(rows) == known
    assert len(rows) == len(known)
