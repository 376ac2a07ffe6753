"""Packages import only downwards."""

from __future__ import annotations

import pytest

from tests.tidy.layers import ROWS, find_violation, list_edges
from tests.tidy.source import SOURCE, list_modules

TOO_HIGH = [("store", "repository"), ("backup", "restore"), ("postgres", "runtime"), ("errors", "units")]
APART = [("repository", "server"), ("store", "postgres")]


def test_every_import_goes_downwards() -> None:
    violations = [
        f"{place}: {reason}"
        for (importer, imported), places in sorted(list_edges().items())
        if importer and (reason := find_violation(importer, imported))
        for place in places
    ]
    assert not violations, "\n" + "\n".join(violations)


def test_the_program_at_its_root_imports_nothing() -> None:
    assert not [places for (importer, _), places in list_edges().items() if importer == ""]


def test_every_package_has_a_row() -> None:
    known = {package for row in ROWS for package in row}
    present = {module.package for module in list_modules()} - {""}
    assert present <= known


def test_every_package_says_what_it_is() -> None:
    for directory in sorted(p for p in SOURCE.iterdir() if p.is_dir() and list(p.glob("*.py"))):
        assert (directory / "__init__.py").exists(), directory


@pytest.mark.parametrize(("importer", "imported"), TOO_HIGH + APART)
def test_an_import_that_is_not_allowed_would_be_found(importer: str, imported: str) -> None:
    assert find_violation(importer, imported)


def test_an_import_over_several_rows_is_allowed() -> None:
    assert find_violation("cli", "errors") is None
    assert find_violation("backup", "store") is None
