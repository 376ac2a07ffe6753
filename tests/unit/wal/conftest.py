"""What the tests of single WAL commands begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.walfile import WalSite


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WalSite:
    """A cluster whose commands run in its data directory, as the server runs them."""
    made = WalSite(tmp_path)
    monkeypatch.chdir(made.data_directory)
    return made
