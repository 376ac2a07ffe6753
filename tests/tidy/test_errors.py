"""Errors are declared in one file, and each has a code and a status that a script can rely on."""

from __future__ import annotations

import ast
import re

from pghaven import errors
from pghaven.cli.exit_status import MEANINGS, list_error_classes, render_exit_statuses
from pghaven.cli.main import FAILURE_STATUSES
from tests.tidy.source import list_modules, render_call


def test_every_code_is_used_once() -> None:
    codes = [error.code for error in list_error_classes()]
    assert len(codes) == len(set(codes))


def test_every_class_has_a_code_of_its_own() -> None:
    assert not [error for error in list_error_classes() if "code" not in vars(error)]


def test_codes_are_plain_words() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code) for error in list_error_classes())


def test_every_status_has_a_meaning() -> None:
    assert {error.exit_status for error in list_error_classes()} <= set(MEANINGS)
    assert set(FAILURE_STATUSES.values()) <= set(MEANINGS)


def test_no_error_ends_like_a_bug_or_like_success() -> None:
    plain = {errors.EXIT_DONE, errors.EXIT_BUG, errors.EXIT_WARNINGS}
    assert not plain & {error.exit_status for error in list_error_classes()}


def test_wal_get_fails_with_the_status_that_stops_recovery() -> None:
    assert FAILURE_STATUSES["wal", "get"] == errors.EXIT_STOP_RECOVERY


def test_every_class_stands_in_the_table_and_in_the_tree_of_the_docstring() -> None:
    page = render_exit_statuses()
    for error in list_error_classes():
        assert re.search(rf"\| {error.exit_status} \|.*`{error.code}`", page), error
        assert re.search(rf"{error.__name__} +{error.exit_status}\b", errors.__doc__ or ""), error


def test_errors_are_declared_in_one_file() -> None:
    known = {error.__name__ for error in list_error_classes()} | {"PghavenError"}
    elsewhere = [
        f"{module.place}:{node.lineno}"
        for module in list_modules()
        if module.name != "pghaven.errors"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and {render_call(base).rpartition(".")[2] for base in node.bases} & known
    ]
    assert not elsewhere
