"""Barman, judged as its documentation has a server recover: ``barman-wal-restore``, which asks ``barman get-wal``.

The one idea: Barman is a program like any other here: told by its configuration file, judged by what servers do. What
lies between the two hosts of its documentation is no part of that, so the ``ssh`` it finds runs the words right here.
It is looked for in PATH:

    python3 -m venv DIRECTORY && DIRECTORY/bin/pip install barman
"""

from __future__ import annotations

import gzip
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.recoveries.recorded import Recorded
from tests.recoveries.tools import Expected, repositories
from tests.support.places import own, run_as_plain

# The words behind the host are the command for it, as ssh(1) takes them.
_HERE = """#!/bin/sh
until [ "$1" = postgres@localhost ]; do shift; done
shift
PATH={programs}:$PATH
exec sh -c "$*"
"""


@dataclass(frozen=True, kw_only=True)
class Barman:
    """WAL comes in by its incoming directory, as ``rsync`` puts it there, and is compressed by Barman itself."""

    programs: Path
    version: str
    can: frozenset[str] = frozenset({"plant"})

    @property
    def name(self) -> str:
        return f"Barman {self.version}"

    def archive(self, recorded: Recorded, place: Path, names: Sequence[str], copies: int = 1) -> None:
        home = place / "repository"
        incoming = home / "main" / "incoming"
        incoming.mkdir(parents=True)
        for name in names:
            shutil.copy(recorded.files / name, incoming / name)
        self.configure(place)
        for path in (place, home, *home.rglob("*")):
            own(path)
        done = run_as_plain(
            [str(self.programs / "barman"), "--config", str(place / "barman.conf"), "archive-wal", "main"], cwd=place
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for name in names:
            assert self.object_of(place, name).exists(), done.stdout + done.stderr

    def configure(self, place: Path) -> None:
        """An archive is made once and copied: the paths are those of the copy."""
        config = place / "barman.conf"
        config.write_text(
            f"[barman]\nbarman_user = postgres\nbarman_home = {place}/repository\nlog_file = {place}/barman.log\n"
            f"barman_lock_directory = {place}\n"
            "[main]\ndescription = main\nactive = true\narchiver = on\nbackup_method = postgres\n"
            "conninfo = host=/nowhere user=postgres\nstreaming_conninfo = host=/nowhere user=postgres\n"
            "compression = gzip\nrecovery_options = get-wal\n"
        )
        own(config)
        directory = place / "bin"
        directory.mkdir(exist_ok=True)
        ssh = directory / "ssh"
        ssh.write_text(_HERE.format(programs=shlex.quote(str(self.programs))))
        ssh.chmod(0o755)

    def restore_command(self, place: Path, target: Path, expected: Expected) -> str:
        self.configure(place)
        words = [f"PATH={shlex.quote(str(place / 'bin'))}:$PATH", str(self.programs / "barman-wal-restore")]
        words += ["--config", str(place / "barman.conf"), "--spool-dir", str(place / "spool")]
        words += ["--user", "postgres", "localhost", "main"]
        return f"{' '.join(words)} %f %p"

    def object_of(self, place: Path, name: str) -> Path:
        (found,) = (path for path in (self.vault(place) / "main" / "wals").rglob(name) if path.is_file())
        return found

    def plant(self, place: Path, name: str, content: bytes, recorded: Recorded) -> None:
        self.object_of(place, name).write_bytes(gzip.compress(content))

    def vault(self, place: Path) -> Path:
        return repositories(place)[0]

    def descriptors(self, place: Path) -> Sequence[Path]:
        return ()


def find_barman() -> Barman | None:
    program = shutil.which("barman-wal-restore")
    if program is None or shutil.which("barman", path=str(Path(program).parent)) is None:
        return None
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return Barman(programs=Path(program).parent, version=told.split()[-1])
