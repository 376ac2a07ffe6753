"""The generated pages of the documentation: ``make docs`` writes them, ``test_pages`` compares them.

``python -m tests.tidy.pages`` writes all of them.
"""

from __future__ import annotations

from collections.abc import Callable

from pghaven.cli.exit_status import render_exit_statuses
from pghaven.cli.status_schema import render_status_schema
from pghaven.config.reference import render_reference
from tests.tidy.layers import render_layers
from tests.tidy.source import ROOT

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/configuration.md": render_reference,
    "docs/reference/exit-status.md": render_exit_statuses,
    "docs/reference/status-json.md": render_status_schema,
    "docs/design/layers.md": render_layers,
}


def write_pages() -> None:
    for place, render in PAGES.items():
        path = ROOT / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    write_pages()
