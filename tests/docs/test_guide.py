"""What the guides tell people to type works, and shows what they say it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pghaven.server.privileges import render_least_privilege_sql
from tests.docs.guide import World, find_fault, read_commands
from tests.support.cluster import TestCluster
from tests.support.commands import PghavenCommand
from tests.tidy.source import ROOT, SOURCE, list_modules

GUIDE = ROOT / "docs" / "guide"
PAGES = [page for page in [ROOT / "README.md", *sorted(GUIDE.glob("*.md"))] if read_commands(page)]


@pytest.fixture
def world(pg_cluster: TestCluster, pghaven_command: PghavenCommand, server_path: Path) -> Iterator[World]:
    made = World(pg_cluster, pghaven_command, server_path)
    yield made
    made.stop_everything()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_does_what_the_page_says(world: World, page: Path) -> None:
    commands = read_commands(page)
    ended = world.run(commands)
    faults = [
        f"{page.name}:{command.line}: {command.text}\n  {fault}\n  it showed:\n{output}"
        for command, status, output in ended
        if (fault := find_fault(world, command, status, output))
    ]
    assert not faults, "\n" + "\n".join(faults)
    assert len(ended) == len(commands), "the shell ended early"


def test_a_command_that_shows_something_else_is_found(world: World, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ echo one two\none …\n$ echo one\ntwo\n$ false\n$ sh -c 'exit 3'  # status 3\n$ true\n"
        "pghaven: error: no\n```\n```sql\nSELECT broken;\n```\n"
    )
    commands = read_commands(page)
    faults = [find_fault(world, *ended) for ended in world.run(commands)]
    assert faults == [
        None,
        "it does not show: two",
        "it ends with status 1, not 0",
        None,
        "it succeeds, and should fail",
        "it ends with status 1, not 0",
    ]


def test_the_least_privileges_are_the_ones_the_program_knows() -> None:
    assert f"```sql\n{render_least_privilege_sql('pghaven')}```" in (GUIDE / "least-privilege.md").read_text()


def list_quoted_messages() -> list[str]:
    """What the tables of the troubleshooting page quote from the program, in pieces that stand in its source."""
    rows = re.findall(r"^\| `([^`]*…[^`]*)` \|", (GUIDE / "troubleshooting.md").read_text(), re.MULTILINE)
    return [piece.strip(' ":') for row in rows for piece in row.split("…") if piece.strip(' ":')]


def test_the_messages_that_troubleshooting_quotes_exist() -> None:
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(module.text for module in list_modules(SOURCE)))
    pieces = list_quoted_messages()
    assert len(pieces) > 8
    assert not [piece for piece in pieces if piece not in source.replace("\\'", "'")]
