"""``pghaven`` as a server's child runs it: as ``archive_command`` or ``restore_command``, by the server's user.

The one idea: the checkout and the virtual environment may lie where that user cannot read (``/root``), so a command
line is only handed out after a process of that user has imported the program with it; if it cannot, a copy is made that
it can.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pghaven
from tests.support.places import is_open_to_plain, lock, programs_directory, run_as_plain

# For sh and for Python, as installers write scripts whose interpreter has a long path: the program is then known by the
# script's own path, as an installed one is.
_SCRIPT = """#!/bin/sh
'''exec' {command} "$0" "$@"
' '''
import sys
from pghaven.cli.main import main
sys.exit(main())
"""
# The packages with compiled parts, which are what breaks when interpreter and packages do not fit.
_TRY = "import pghaven.errors, blake3, click, cryptography.hazmat.bindings._rust, google_crc32c, numpy, psycopg"


class Unreachable(Exception):
    """The plain user cannot be made to run pghaven; the message says why."""


@dataclass(frozen=True)
class PghavenCommand:
    """``words`` for ``subprocess``; ``text`` for a setting such as ``archive_command``. Arguments are added behind."""

    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """Quoted for the shell; percent signs doubled as PostgreSQL's commands want them."""
        return shlex.join(self.words).replace("%", "%%")


@functools.cache
def pghaven_command() -> PghavenCommand:
    """A command line for pghaven that the plain user can run from anywhere. Raises Unreachable with the reason."""
    source = Path(pghaven.__file__).parents[1]
    packages = Path(sysconfig.get_path("purelib"))
    in_place = _command((sys.executable,), [source])
    failure = _try(in_place)
    if failure is None:
        return _write_script(in_place)
    copied = _command(_reachable_interpreter(), [_open_copy(source, "source"), _open_copy(packages, "packages")])
    copy_failure = _try(copied)
    if copy_failure is None:
        return _write_script(copied)
    raise Unreachable(f"in place: {failure}; as a copy: {copy_failure}")


def _command(interpreter: Sequence[str], path: Sequence[Path]) -> tuple[str, ...]:
    python_path = os.pathsep.join(str(entry) for entry in path)
    return ("env", f"PYTHONPATH={python_path}", "PYTHONDONTWRITEBYTECODE=1", *interpreter, "-s")


def _try(command: Sequence[str]) -> str | None:
    tried = run_as_plain([*command, "-c", _TRY])
    if tried.returncode == 0:
        return None
    lines = tried.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {tried.returncode}"


def _write_script(command: Sequence[str]) -> PghavenCommand:
    """A short script, because command lines in settings should be readable; run by sh, whatever the mount allows."""
    script = programs_directory() / "pghaven"
    with lock("pghaven-script"):
        if not script.exists():
            unfinished = script.with_name("pghaven.tmp")
            unfinished.write_text(_SCRIPT.format(command=shlex.join(command)))
            unfinished.chmod(0o755)
            unfinished.rename(script)
    return PghavenCommand(words=("/bin/sh", str(script)))


def _open_copy(tree: Path, name: str, *without: str) -> Path:
    target = programs_directory() / name
    with lock(f"copy-{name}"):
        if not target.exists():
            unfinished = target.with_name(f"{name}.tmp")
            shutil.copytree(tree, unfinished, symlinks=True, ignore=shutil.ignore_patterns(*without))
            unfinished.chmod(0o755)
            unfinished.rename(target)
    return target


def _reachable_interpreter() -> tuple[str, ...]:
    """The interpreter below the virtual environment, in place or, with its library, as a copy."""
    interpreter = Path(os.path.realpath(sys.executable))
    if is_open_to_plain(interpreter):
        return (str(interpreter),)
    home = interpreter.parents[1]
    library = _open_copy(home / "lib", "lib", "site-packages", "test", "tcl*", "tk*", "pkgconfig", "*.a")
    programs = library.parent / "bin"
    with lock("copy-bin"):
        programs.mkdir(exist_ok=True)
        shutil.copy2(interpreter, programs / interpreter.name)
    return ("env", f"LD_LIBRARY_PATH={library}", str(programs / interpreter.name))
