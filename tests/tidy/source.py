"""The project's own files, as the tidy tests read them.

The one idea: the tests look at syntax trees, not at imported modules, so that they take a second and cannot be fooled
by what a module does when it is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "pghaven"
TESTS = ROOT / "tests"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One Python file. ``name`` is its dotted name; ``place`` its path below the project's root."""

    name: str
    place: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The part of pghaven it belongs to: a package's name, or its own for the modules at the top."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""


@cache
def list_modules(below: Path = SOURCE) -> tuple[Module, ...]:
    """Every Python file below a directory, in order."""
    return tuple(_read_module(path) for path in sorted(below.rglob("*.py")))


def _read_module(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    base = ROOT / "src" if path.is_relative_to(SOURCE) else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name=name, place=str(path.relative_to(ROOT)), text=text, tree=ast.parse(text, str(path)))


def iter_imports(module: Module) -> Iterator[tuple[str, int]]:
    """Every module that this one imports, anywhere in it, with the line; relative imports are made absolute."""
    is_package = module.place.endswith("__init__.py")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".")
                above = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*above, base] if base else above)
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def iter_functions(module: Module) -> Iterator[tuple[str, Function]]:
    """Every function and method with its qualified name."""
    yield from _functions_in(module.tree, "")


def _functions_in(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        name = f"{prefix}{child.name}." if isinstance(child, Function | ast.ClassDef) else prefix
        yield from _functions_in(child, name)


def count_lines(node: ast.stmt) -> int:
    """Lines from the first to the last, without decorators."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def render_call(node: ast.AST) -> str:
    """A dotted name such as ``time.sleep``; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = render_call(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""
