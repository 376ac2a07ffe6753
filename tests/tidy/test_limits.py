"""Modules, classes and functions stay short enough to read in one sitting.

Whatever grows past a limit is named here with the reason why it is better whole.
"""

from __future__ import annotations

import ast

import pytest

from tests.tidy.source import SOURCE, Function, count_lines, iter_functions, list_modules

MODULE_LINES = 400
CLASS_LINES = 300
FUNCTION_LINES = 60
PARAMETERS = 6

# place, or place::name -> why it is better as it is.
ALLOWED: dict[str, str] = {
    "src/pghaven/repository/kit/rescue.py": "is carried along and run alone, as one file",
}


def find_grown() -> dict[str, str]:
    """place -> what has grown past its limit."""
    grown: dict[str, str] = {}
    for module in list_modules(SOURCE):
        lines = module.text.count("\n")
        if lines > MODULE_LINES:
            grown[module.place] = f"{lines} lines, wanted at most {MODULE_LINES}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and count_lines(node) > CLASS_LINES:
                grown[f"{module.place}::{node.name}"] = f"{count_lines(node)} lines, wanted at most {CLASS_LINES}"
        for name, function in iter_functions(module):
            if found := measure(function):
                grown[f"{module.place}::{name}"] = found
    return grown


def measure(function: Function) -> str | None:
    lines = count_lines(function)
    if lines > FUNCTION_LINES:
        return f"{lines} lines, wanted at most {FUNCTION_LINES}"
    parameters = count_parameters(function)
    if parameters > PARAMETERS:
        return f"{parameters} parameters, wanted at most {PARAMETERS}"
    return None


def count_parameters(function: Function) -> int:
    """Those a caller may give by position; keyword-only ones name themselves at the call."""
    named = [p.arg for p in (*function.args.posonlyargs, *function.args.args)]
    return len(named) - (1 if named[:1] in (["self"], ["cls"]) else 0)


def test_nothing_has_grown_past_its_limit() -> None:
    grown = [f"{place}: {what}" for place, what in find_grown().items() if place not in ALLOWED]
    assert not grown, "\n" + "\n".join(grown)


def test_an_exception_that_is_no_longer_needed_is_taken_out() -> None:
    assert not set(ALLOWED) - set(find_grown())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(a, b, c, d, e, f):\n    pass", None),
        ("def f(self, a, b, c, d, e, f):\n    pass", None),
        ("def f(a, *, b, c, d, e, f, g):\n    pass", None),
        ("def f(a, b, c, d, e, f, g):\n    pass", "7 parameters, wanted at most 6"),
        ("def f():\n" + "    pass\n" * 60, "61 lines, wanted at most 60"),
    ],
)
def test_what_counts(source: str, found: str | None) -> None:
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    assert measure(function) == found
