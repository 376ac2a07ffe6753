"""Links from one page of the documentation to another lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tidy.source import ROOT

# [text](target), but not to the web and not within the page.
_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)[^)]*\)")
_CODE = re.compile(r"```.*?```", re.DOTALL)


def list_pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").rglob("*.md")])


def iter_targets(page: Path) -> Iterator[str]:
    yield from _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not [target for target in iter_targets(page) if not (page.parent / target).exists()]


def test_each_decision_has_a_number_of_its_own() -> None:
    pages = sorted((ROOT / "docs/design/decisions").glob("0*.md"))
    numbers = [int(page.name.partition("-")[0]) for page in pages]
    assert len(set(numbers)) == len(numbers)
    for number, page in zip(numbers, pages, strict=True):
        assert page.read_text(encoding="utf-8").startswith(f"# {number} "), page.name
