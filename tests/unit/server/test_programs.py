"""Finding PostgreSQL's programs, with small real programs that say who they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pghaven.errors import NotFound
from pghaven.server.programs import Programs, find_programs, inspect_programs


def install(directory: Path, says: str, status: int = 0) -> str:
    directory.mkdir(parents=True)
    program = directory / "postgres"
    program.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    program.chmod(0o755)
    return str(directory)


@pytest.fixture(autouse=True)
def nothing_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin")


def test_programs_say_their_version(tmp_path: Path) -> None:
    directory = install(tmp_path / "x", "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)")
    assert inspect_programs(directory) == Programs(bin_dir=directory, major=15, version="15.20")


def test_beta_versions_have_a_major_version_too(tmp_path: Path) -> None:
    found = inspect_programs(install(tmp_path / "x", "postgres (PostgreSQL) 19beta1"))
    assert isinstance(found, Programs)
    assert (found.major, found.version) == (19, "19beta1")


def test_path_is_searched(tmp_path: Path) -> None:
    directory = install(tmp_path / "bin", "postgres (PostgreSQL) 97.1")
    assert find_programs(97).bin_dir == directory


def test_programs_of_another_version_are_passed_over_with_a_reason(tmp_path: Path) -> None:
    install(tmp_path / "bin", "postgres (PostgreSQL) 98.7")
    with pytest.raises(NotFound, match="could not find the programs of PostgreSQL 97") as caught:
        find_programs(97)
    assert f'"{tmp_path}/bin" (PATH): it is version 98.7.' in (caught.value.detail or "")


def test_configured_directory_must_be_right_itself(tmp_path: Path) -> None:
    install(tmp_path / "bin", "postgres (PostgreSQL) 97.1")
    with pytest.raises(NotFound) as caught:
        find_programs(97, str(tmp_path / "elsewhere"))
    assert caught.value.detail == f'"{tmp_path}/elsewhere" (configured): there is no program "postgres" in it.'


def test_program_that_does_not_work_is_told_by_its_own_words(tmp_path: Path) -> None:
    found = inspect_programs(install(tmp_path / "x", "error while loading shared libraries: libicu", 127))
    assert found == "its postgres does not work: error while loading shared libraries: libicu"


def test_missing_program_is_named(tmp_path: Path) -> None:
    programs = Programs(bin_dir=install(tmp_path / "x", ""), major=97, version="97.1")
    assert programs.path("postgres") == f"{tmp_path}/x/postgres"
    with pytest.raises(NotFound, match='no program "pg_dump"'):
        programs.path("pg_dump")
