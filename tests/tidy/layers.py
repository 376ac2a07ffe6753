"""Who may import whom, and the picture of it.

The one idea: packages stand in rows; a package may import any row below its own, never its own row and never upwards.
"""

from __future__ import annotations

import ast

from tests.tidy.source import SOURCE, Module, iter_imports, list_modules

# From the top. What two packages of one row share moves down.
ROWS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("agent",),
    ("demo",),  # goes through what the commands do, with their own pieces, and shows nothing itself
    ("ha",),  # what the configuration describes, generated, asked and told
    ("config",),
    ("drill",),
    ("proof",),
    ("standby",),
    ("setup",),
    ("instant",),  # starts and stops as backups do, and is recovered as they are
    ("seam",),  # restores, and looks after the archive, as Patroni asks for it
    ("dump", "receive"),  # these go the ways of those below: of backups and restores, and of a push
    ("backup", "wal", "restore", "retention", "transfer"),
    ("repository",),
    ("store", "server", "snapshot"),
    ("runtime",),
    ("postgres",),
    ("errors", "units", "clock", "events"),
    ("light",),  # for those that PostgreSQL starts for every WAL file
)

# Not allowed although the rows would allow it.
APART = {
    ("repository", "server"): "the repository is read and kept without any server",
    ("store", "postgres"): "a store keeps named bytes and knows nothing of PostgreSQL",
    ("runtime", "postgres"): "runtime has no domain words",
}


def find_row(package: str) -> int | None:
    return next((number for number, row in enumerate(ROWS) if package in row), None)


def list_edges() -> dict[tuple[str, str], list[str]]:
    """(importing package, imported package) -> the places of the imports."""
    edges: dict[tuple[str, str], list[str]] = {}
    for module in list_modules():
        for target in _packages_imported(module):
            edges.setdefault((module.package, target[0]), []).append(f"{module.place}:{target[1]}")
    return edges


def find_violation(importer: str, imported: str) -> str | None:
    """Why this import is not allowed; None if it is."""
    above, below = find_row(importer), find_row(imported)
    if above is None or below is None:
        return f'"{importer if above is None else imported}" has no row in tests/tidy/layers.py'
    if above == below:
        return f'"{importer}" and "{imported}" stand in one row'
    if above > below:
        return f'"{imported}" stands above "{importer}"'
    return APART.get((importer, imported))


def render_layers() -> str:
    """docs/design/layers.md."""
    edges = list_edges()
    lines = [
        "# Layers",
        "",
        '<!-- Generated from src/pghaven by "make docs"; do not edit. The rows are in tests/tidy/layers.py. -->',
        "",
        "A package may import from any row below its own: never from its own row, never upwards.",
        "`tests/tidy/test_layers.py` keeps it so.",
        "",
        "```",
        *_draw_rows(),
        "```",
        "",
        "Also kept apart:",
        "",
        *(f"- `{a}` never imports `{b}`: {reason}." for (a, b), reason in APART.items()),
        "",
        "| package | what it is | imports |",
        "|---|---|---|",
    ]
    for row in ROWS:
        for package in row:
            if summary := _summary(package):
                imported = [f"`{b}`" for a in ROWS for b in a if (package, b) in edges]
                lines.append(f"| `{package}` | {summary} | {', '.join(imported) or '–'} |")
    return "\n".join(lines) + "\n"


def _draw_rows() -> list[str]:
    present = [[package for package in row if _summary(package)] for row in ROWS]
    boxes = ["   ".join(row) for row in present if row]
    width = max(len(box) for box in boxes)
    drawn: list[str] = []
    for box in boxes:
        if drawn:
            drawn.append("▼".center(width).rstrip())
        drawn.append(box.center(width).rstrip())
    return drawn


def _summary(package: str) -> str:
    """The first sentence of the package's docstring, one line; empty if there is no such package yet."""
    for place in (SOURCE / package / "__init__.py", SOURCE / f"{package}.py"):
        if place.exists():
            text = ast.get_docstring(ast.parse(place.read_text(encoding="utf-8"))) or package
            return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
    return ""


def _packages_imported(module: Module) -> set[tuple[str, int]]:
    found: dict[str, int] = {}
    for name, line in iter_imports(module):
        parts = name.split(".")
        if parts[0] == "pghaven" and len(parts) > 1 and parts[1] != module.package and _exists(parts[1]):
            found.setdefault(parts[1], line)
    return set(found.items())


def _exists(package: str) -> bool:
    """Whether it is a module and not a name in ``pghaven/__init__.py`` such as ``__version__``."""
    return (SOURCE / package).is_dir() or (SOURCE / f"{package}.py").exists()
