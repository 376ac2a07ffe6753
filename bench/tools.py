"""The tools that are measured, each as its own documentation says it should be used, with two processes and zstd 3.

The one idea: every tool is a handful of command lines; everything else is the same for all. Each archives WAL by its
own archive command and proves at a backup's end that the WAL is there, flushes what it writes by its own rules, and
verifies page checksums.
"""

from __future__ import annotations

import compileall
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pghaven
from bench.common import BenchError, count_tree, make_directory, make_temporary_file, remove, run, warm
from bench.data import BenchServer

PROCESSES = 2
LEVEL = 3


class Tool(Protocol):
    """``reset`` leaves an empty repository and says what archives into it; ``log`` takes what the commands print."""

    name: str
    version: str
    log: Path

    def reset(self) -> str: ...

    def backup_command(self) -> Sequence[str]: ...

    def restore_command(self, target: Path) -> Sequence[str]: ...

    def delta_command(self, target: Path, /) -> Sequence[str] | None:
        """Restore over an existing directory what differs; None where the tool cannot."""

    def warm(self) -> None:
        """Have the repository in the page cache."""

    def count_repository(self) -> tuple[int, int]:
        """(objects, bytes) of the backup, without archived WAL."""


class Pghaven:
    """This project's command line, as installed beside the interpreter that runs the bench."""

    name = "pghaven"

    def __init__(self, server: BenchServer) -> None:
        self._server = server
        self._directory = make_directory(server.directory / self.name)
        self._repository = self._directory / "repository"
        self._config = self._directory / "pghaven.toml"
        self._program = str(Path(sys.executable).parent / "pghaven")
        # As pip does when it installs; else the server's user would compile at each start what has changed.
        compileall.compile_dir(str(Path(pghaven.__file__).parent), quiet=2)
        self.log = self._directory / "log"
        self.version = run([self._program, "--version"]).split()[-1]

    @property
    def program(self) -> str:
        return self._program

    @property
    def config(self) -> Path:
        return self._config

    def _command(self, *words: str) -> list[str]:
        return [self._program, "--config", str(self._config), "--quiet", *words]

    def reset(self) -> str:
        remove(self._repository)
        make_directory(self._repository)
        values = {
            "data_directory": str(self._server.data),
            "conninfo": self._server.conninfo,
            "pg_bin": self._server.programs.bin_dir,
            "processes": PROCESSES,
            "compression_level": LEVEL,
            "dump_spool": str(self._directory),
        }
        text = f'[repository.main]\nurl = "file://{self._repository}"\n\n[cluster.main]\n'
        text += "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        make_temporary_file(self._directory, text, self._config.name)
        shown = run(self._command("--json", "init", "main"), log=self.log)
        return str(json.loads(shown)["archive_command"])

    @property
    def archive(self) -> Path:
        """Where archived WAL lies."""
        return self._repository / "clusters" / "main" / "wal"

    def words(self, *words: str) -> Sequence[str]:
        """Any other command of the program."""
        return self._command(*words)

    def backup_command(self) -> Sequence[str]:
        return self._command("backup", "main")

    def restore_command(self, target: Path) -> Sequence[str]:
        return self._command("restore", "main", "--target-dir", str(target))

    def delta_command(self, target: Path) -> Sequence[str] | None:
        return [*self.restore_command(target), "--delta"]

    def agent_command(self) -> Sequence[str]:
        return self._command("agent")

    def verify_command(self) -> Sequence[str]:
        return self._command("verify", "main")

    def dump_command(self, database: str) -> Sequence[str]:
        return self._command("dump", "main", database, "--jobs", str(PROCESSES))

    def load_command(self, database: str, into: str) -> Sequence[str]:
        return self._command("load", "--database", database, "--into", into, "--jobs", str(PROCESSES))

    def list_labels(self) -> list[str]:
        """The backups' labels, oldest first."""
        told = json.loads(run(self._command("list", "main", "--json")))
        return [backup["label"] for backup in told["clusters"][0]["backups"]]

    def warm(self) -> None:
        warm(self._repository)

    def count_repository(self) -> tuple[int, int]:
        cluster = self._repository / "clusters" / "main"
        counts = [count_tree(cluster / part) for part in ("packs", "backups")]
        return sum(files for files, _ in counts), sum(size for _, size in counts)


class PgBackRest:
    """pgBackRest with files bundled, which is its fastest way (and not its default)."""

    name = "pgBackRest"

    def __init__(self, server: BenchServer) -> None:
        self._directory = make_directory(server.directory / "pgbackrest")
        self._repository = self._directory / "repository"
        self._config = self._directory / "pgbackrest.conf"
        self._program = require_program("pgbackrest")
        self.log = self._directory / "log"
        self.version = run([self._program, "version"]).split()[-1]
        options = {
            "repo1-path": self._repository,
            "repo1-bundle": "y",
            "repo1-retention-full": 1,
            "compress-type": "zst",
            "compress-level": LEVEL,
            "process-max": PROCESSES,
            "start-fast": "y",
            "log-level-console": "warn",
            "log-level-file": "off",
            "log-path": self._directory,
            "lock-path": self._directory / "lock",
            "spool-path": self._directory / "spool",
        }
        text = "[global]\n" + "".join(f"{name}={value}\n" for name, value in options.items())
        text += f"\n[main]\npg1-path={server.data}\npg1-socket-path={server.sockets}\npg1-user=postgres\n"
        make_temporary_file(self._directory, text, self._config.name)

    def _command(self, *words: str) -> list[str]:
        return [self._program, f"--config={self._config}", "--stanza=main", *words]

    def reset(self) -> str:
        remove(self._repository)
        make_directory(self._repository)
        run(self._command("stanza-create"), log=self.log)
        return f"{shlex.join(self._command('archive-push'))} %p"

    def backup_command(self) -> Sequence[str]:
        return self._command("--type=full", "backup")

    def restore_command(self, target: Path) -> Sequence[str]:
        return self._command(f"--pg1-path={target}", "restore")

    @property
    def archive(self) -> Path:
        """Where archived WAL lies."""
        return self._repository / "archive"

    def archive_get(self, target: Path) -> Sequence[str]:
        """The beginning of a restore_command for this directory."""
        return self._command(f"--pg1-path={target}", "archive-get")

    def delta_command(self, target: Path) -> Sequence[str] | None:
        return self._command(f"--pg1-path={target}", "--delta", "restore")

    def verify_command(self) -> Sequence[str]:
        return self._command("verify")

    def warm(self) -> None:
        warm(self._repository)

    def count_repository(self) -> tuple[int, int]:
        return count_tree(self._repository / "backup")


class PgBaseBackup:
    """PostgreSQL's own: one process, tar, compressed in the server; restored with zstd and tar."""

    name = "pg_basebackup"

    def __init__(self, server: BenchServer) -> None:
        self._server = server
        self._directory = make_directory(server.directory / "pg_basebackup")
        self._backup = self._directory / "backup"
        self._program = server.programs.path("pg_basebackup")
        self.log = self._directory / "log"
        self.version = server.programs.version

    def reset(self) -> str:
        remove(self._backup)
        return "/bin/true"

    def backup_command(self) -> Sequence[str]:
        return [
            *(self._program, "-h", str(self._server.sockets), "-U", "postgres", "-D", str(self._backup)),
            *("-F", "tar", f"--compress=server-zstd:{LEVEL}", "-X", "none", "--checkpoint=fast", "--no-manifest"),
        ]

    def restore_command(self, target: Path) -> Sequence[str]:
        tar, zstd = require_program("tar"), require_program("zstd")
        base, into = shlex.quote(str(self._backup / "base.tar.zst")), shlex.quote(str(target))
        return ["/bin/sh", "-c", f"{zstd} -dcq {base} | {tar} -xf - -C {into} && sync -f {into}"]

    def delta_command(self, _target: Path) -> Sequence[str] | None:
        return None

    def warm(self) -> None:
        warm(self._backup)

    def count_repository(self) -> tuple[int, int]:
        return count_tree(self._backup)


TOOLS = {tool.name: tool for tool in (Pghaven, PgBackRest, PgBaseBackup)}


def require_program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise BenchError(f'there is no program "{name}"; as root on Debian: apt-get install {name}')
    return path


def open_tools(server: BenchServer, names: Sequence[str]) -> list[Tool]:
    """The tools of these names; those that are not installed are left out with a line that says so."""
    tools: list[Tool] = []
    for name in names:
        try:
            tools.append(TOOLS[name](server))
        except BenchError as missing:
            print(f"without {name}: {missing}")
    return tools
