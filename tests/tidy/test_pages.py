"""Generated pages say what the code says."""

from __future__ import annotations

import pytest

from tests.tidy.pages import PAGES
from tests.tidy.source import ROOT


@pytest.mark.parametrize("place", PAGES)
def test_a_generated_page_is_current(place: str) -> None:
    path = ROOT / place
    written = path.read_text(encoding="utf-8") if path.exists() else ""
    assert written == PAGES[place](), f"{place} is not current; run: make docs"
