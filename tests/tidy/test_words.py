"""Words that must not stand in the code, or only in one place.

Each rule is a function over a module's syntax tree that yields lines; each is first shown to find what it looks for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tidy.source import ROOT, SOURCE, TESTS, Module, iter_imports, list_modules, render_call

Rule = Callable[[ast.AST], Iterator[int]]

SLEEPS = {"time.sleep", "asyncio.sleep"}
CLOCKS = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "date.today",
    "datetime.date.today",
}
OPENERS = {"open", "os.open", "io.open", "os.read", "os.write", "subprocess.run", "subprocess.Popen", "socket.socket"}

# Where a rule does not hold: place (or the beginning of one) -> why.
MAY_SLEEP = {
    "src/pghaven/clock.py": "the only caller of time",
    "src/pghaven/runtime/": "waits for processes where no condition can be waited for",
}
MAY_READ_CLOCKS = {
    "src/pghaven/clock.py": "the only caller of time",
    "src/pghaven/wal/asking.py": "starts for every WAL file: what the clock imports costs more than all it does",
}
MAY_PRINT = {
    "src/pghaven/cli/": "the only place that shows anything",
    "src/pghaven/repository/kit/rescue.py": "a program of its own",
}
MAY_CATCH_ALL = {
    "src/pghaven/cli/main.py": "the root of the program",
    "src/pghaven/cli/root.py": "the root of the program",
    "src/pghaven/dump/restoring.py": "the root of a thread",
    "src/pghaven/repository/readahead.py": "the roots of threads",
    "src/pghaven/runtime/beside.py": "the root of a thread",
    "src/pghaven/runtime/interruptible.py": "the root of a thread",
    "src/pghaven/runtime/worker.py": "the root of a worker",
    "src/pghaven/wal/children.py": "the root of a child process",
    "src/pghaven/wal/limit.py": "the root of a child process",
}
TESTS_THAT_SLEEP = {"tests/support/waiting.py": "the one loop that waits for a condition, with a limit"}


def calls_of(names: set[str]) -> Rule:
    def find(tree: ast.AST) -> Iterator[int]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and render_call(node.func) in names:
                yield node.lineno

    return find


def names_imported_bare(tree: ast.AST) -> Iterator[int]:
    """``from time import sleep``: the rules above see only calls written with the module's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield node.lineno


def catches_of_everything(tree: ast.AST) -> Iterator[int]:
    """Handlers that keep whatever happened; one that cleans up and raises it again keeps nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and not _raises_again(node):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {render_call(c) if c is not None else "BaseException" for c in caught}
            if names & {"Exception", "BaseException"}:
                yield node.lineno


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def find_places(rule: Rule, below: Path, exceptions: dict[str, str]) -> list[str]:
    return [
        f"{module.place}:{line}"
        for module in list_modules(below)
        if not any(module.place.startswith(place) for place in exceptions)
        for line in rule(module.tree)
    ]


def imports_mocks(module: Module) -> Iterator[int]:
    for name, line in iter_imports(module):
        if name == "mock" or name.startswith(("unittest.mock", "mock.", "pytest_mock")):
            yield line


def test_nothing_is_mocked() -> None:
    modules = (*list_modules(SOURCE), *list_modules(TESTS))
    assert not [f"{m.place}:{line}" for m in modules for line in imports_mocks(m)]


def test_nothing_sleeps() -> None:
    assert not find_places(calls_of(SLEEPS), SOURCE, MAY_SLEEP)


def test_no_test_sleeps() -> None:
    assert not find_places(calls_of(SLEEPS), TESTS, TESTS_THAT_SLEEP)


def test_time_comes_from_the_clock() -> None:
    assert not find_places(calls_of(CLOCKS), SOURCE, MAY_READ_CLOCKS)
    assert not find_places(names_imported_bare, SOURCE, MAY_READ_CLOCKS)


def test_only_the_command_line_prints() -> None:
    assert not find_places(calls_of({"print", "sys.stdout.write", "sys.stderr.write"}), SOURCE, MAY_PRINT)


def test_only_roots_catch_everything() -> None:
    assert not find_places(catches_of_everything, SOURCE, MAY_CATCH_ALL)


def test_postgres_does_no_input_or_output() -> None:
    assert not find_places(calls_of(OPENERS), SOURCE / "postgres", {})


def test_nothing_names_a_path_of_somebody_s_machine() -> None:
    # Written apart, so that this file does not name them itself.
    pattern = re.compile(
        "|".join(["/wo" + "rk/", "/opt/pgt" + "est", "/opt/py" + "pi", "/opt/whe" + "els", r"\.pye" + "nv"])
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in iter_text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found


def iter_text_files() -> Iterator[Path]:
    for name in ("src", "tests", "docs", "bench", ".ci"):
        for path in sorted((ROOT / name).rglob("*")):
            if path.is_file() and path.suffix in ("", ".py", ".md", ".sh", ".toml", ".txt", ".json", ".sql"):
                yield path
    for path in sorted(ROOT.iterdir()):
        # In a work tree of its own git keeps a file ".git" there that names where the repository is.
        if path.is_file() and path.suffix in ("", ".md", ".toml", ".lock") and path.name != ".git":
            yield path


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (calls_of(SLEEPS), "import time\ntime.sleep(1)"),
        (calls_of(CLOCKS), "datetime.now(UTC)"),
        (calls_of(CLOCKS), "time.monotonic()"),
        (names_imported_bare, "from time import sleep"),
        (calls_of({"print"}), "print(1)"),
        (calls_of(OPENERS), "with open('x') as f: pass"),
        (catches_of_everything, "try: pass\nexcept: pass"),
        (catches_of_everything, "try: pass\nexcept Exception: pass"),
        (catches_of_everything, "try: pass\nexcept (ValueError, BaseException): pass"),
    ],
)
def test_each_rule_finds_what_it_looks_for(rule: Rule, source: str) -> None:
    assert list(rule(ast.parse(source)))


def test_cleaning_up_and_raising_again_is_no_catch() -> None:
    tree = ast.parse("try: pass\nexcept BaseException:\n    close()\n    raise")
    assert not list(catches_of_everything(tree))


def test_a_mock_would_be_found() -> None:
    for text in ("from unittest import mock", "import unittest.mock", "from unittest.mock import patch"):
        module = Module(name="tests.x", place="tests/x.py", text=text, tree=ast.parse(text))
        assert list(imports_mocks(module))
