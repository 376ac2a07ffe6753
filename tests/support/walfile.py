"""WAL files without a server, and a place where they are archived from and fetched to.

The one idea: only the headers of WAL pages say whose segment it is, so pages with true headers and any contents are
segments to everybody who does not replay them.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.postgres.timeline import Timeline
from pghaven.postgres.version import find_by_major
from pghaven.postgres.waldata import LONG_HEADER, SHORT_HEADER
from pghaven.repository.repository import Lineage, Repository, create_repository, open_repository
from pghaven.repository.walstore import WalArchive
from pghaven.store.open import create_root, open_store
from pghaven.wal.commands import render_archive_command, render_restore_command
from tests.support.waiting import PATIENCE_SECONDS

SYSTEM_IDENTIFIER = 7_300_000_000_000_000_001
SEGMENT_SIZE = 1 << 20
BLOCK_SIZE = 8192
MAJOR = 17
CLUSTER = "main"
PROGRAM = (sys.executable, "-m", "pghaven.cli.main")
TIMEOUT_SECONDS = PATIENCE_SECONDS


def segment_name(number: int, timeline: int = 1, segment_size: int = SEGMENT_SIZE) -> SegmentName:
    return SegmentName(timeline=Timeline(timeline), number=number, segment_size=segment_size)


def make_segment(
    name: SegmentName,
    *,
    seed: int = 0,
    system_identifier: int = SYSTEM_IDENTIFIER,
    major: int = MAJOR,
    page_timeline: int | None = None,
) -> bytes:
    """A segment whose pages have the right headers and contents that depend on ``seed``."""
    version = find_by_major(major)
    assert version is not None
    contents = random.Random(f"{name} {seed}").randbytes(BLOCK_SIZE)
    pages = []
    for offset in range(0, name.segment_size, BLOCK_SIZE):
        long = struct.pack("<QII", system_identifier, name.segment_size, BLOCK_SIZE) if offset == 0 else b""
        info = LONG_HEADER if offset == 0 else 0
        timeline = page_timeline or name.timeline
        header = SHORT_HEADER.pack(version.wal_magic, info, timeline, name.start_lsn + offset, 0) + long
        pages.append(header + contents[len(header) :])
    return b"".join(pages)


def render_history(*forks: tuple[int, Lsn]) -> bytes:
    """The text of a history file as PostgreSQL writes it."""
    return "".join(f"{timeline}\t{lsn}\tno recovery target specified\n\n" for timeline, lsn in forks).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


class WalSite:
    """A data directory with a ``pg_wal``, a repository that knows the cluster, and a configuration, below one path."""

    def __init__(self, root: Path, *, repository: Path | None = None, segment_size: int = SEGMENT_SIZE) -> None:
        self.root = root
        self.data_directory = root / "data"
        self.repository_path = repository or root / "repository"
        self.config_path = root / "pghaven.toml"
        (self.data_directory / "pg_wal").mkdir(parents=True)
        (self.data_directory / "global").mkdir()
        (self.data_directory / "global" / "pg_control").write_bytes(struct.pack("<Q", SYSTEM_IDENTIFIER) + bytes(8184))
        self.register(self.repository_path, segment_size=segment_size)
        self.configure()

    def register(self, path: Path, *, segment_size: int = SEGMENT_SIZE) -> None:
        """Make a repository that knows the cluster."""
        repository = create_repository(create_root(path.as_uri()))
        repository.register_lineage(CLUSTER, make_lineage(segment_size=segment_size), new_lineage=False)

    def configure(self, *more: Path, wal_timeout: str = "1min", extra: str = "") -> None:
        """Write the configuration; the cluster is kept in ``repository_path`` and ``more``."""
        places = {f"r{number}": path for number, path in enumerate((self.repository_path, *more))}
        text = "".join(f'[repository.{name}]\nurl = "{path.as_uri()}"\n' for name, path in places.items())
        names = ", ".join(f'"{name}"' for name in places)
        # A literal string, because the path may hold what a basic one would interpret.
        text += f"[cluster.{CLUSTER}]\ndata_directory = '''{self.data_directory}'''\nrepositories = [{names}]\n"
        self.config_path.write_text(f'{text}wal_timeout = "{wal_timeout}"\n{extra}')

    @property
    def repository(self) -> Repository:
        return open_repository(open_store(self.repository_path.as_uri()))

    @property
    def archive(self) -> WalArchive:
        return self.archive_in(self.repository_path)

    def archive_in(self, repository_path: Path) -> WalArchive:
        repository = open_repository(open_store(repository_path.as_uri()))
        return WalArchive(repository, CLUSTER, SYSTEM_IDENTIFIER, SEGMENT_SIZE)

    def write(self, name: object, content: bytes) -> str:
        """Put a file into ``pg_wal``; its path as PostgreSQL would give it."""
        (self.data_directory / "pg_wal" / str(name)).write_bytes(content)
        return f"pg_wal/{name}"

    def object_path(self, name: object) -> Path:
        """Where an archived file's object lies."""
        (found,) = self.repository_path.glob(f"clusters/{CLUSTER}/wal/**/{name}")
        return found

    def push(self, path: str, *options: str) -> Ended:
        return self.run("push", *options, path)

    def get(self, name: object, *options: str, target: str = "pg_wal/RECOVERYXLOG") -> Ended:
        return self.run("get", *options, str(name), target)

    @property
    def fetched(self) -> bytes:
        return (self.data_directory / "pg_wal" / "RECOVERYXLOG").read_bytes()

    def run(self, *words: str) -> Ended:
        """``pghaven wal …`` in the data directory, as PostgreSQL runs it."""
        return run_in(self.data_directory, [*PROGRAM, "wal", words[0], *self.options, *words[1:]])

    def run_bare(self, *words: str) -> Ended:
        """``pghaven wal …`` with the configuration and no cluster named."""
        command = [*PROGRAM, "wal", words[0], "--config", str(self.config_path), *words[1:]]
        return run_in(self.data_directory, command)

    @property
    def options(self) -> tuple[str, ...]:
        return ("--config", str(self.config_path), "--cluster", CLUSTER)

    def archive_command(self, path: str, executable: Sequence[str] = PROGRAM) -> str:
        """The rendered setting, with PostgreSQL's replacements made."""
        return _replace(
            render_archive_command(executable, str(self.config_path), CLUSTER), path=path, name=os.path.basename(path)
        )

    def restore_command(self, name: object, executable: Sequence[str] = PROGRAM, plan: str | None = None) -> str:
        command = render_restore_command(executable, str(self.config_path), CLUSTER, plan)
        return _replace(command, path="pg_wal/RECOVERYXLOG", name=str(name))

    def run_shell(self, command: str, environment: dict[str, str] | None = None) -> Ended:
        """A command as PostgreSQL runs it: ``system(3)`` in the data directory."""
        return run_in(self.data_directory, ["/bin/sh", "-c", command], environment)


def make_lineage(
    *, system_identifier: int = SYSTEM_IDENTIFIER, major: int = MAJOR, segment_size: int = SEGMENT_SIZE
) -> Lineage:
    return Lineage(
        system_identifier=system_identifier,
        major=major,
        block_size=8192,
        segment_blocks=131072,
        wal_segment_size=segment_size,
        registered_at="2026-01-01T00:00:00.000000Z",
    )


def run_in(directory: Path, command: Sequence[str], environment: dict[str, str] | None = None) -> Ended:
    done = subprocess.run(
        list(command),
        cwd=directory,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ended(status=done.returncode, out=done.stdout, err=done.stderr)


def start_in(directory: Path, command: Sequence[str]) -> subprocess.Popen[str]:
    """As ``run_in``, but does not wait; in a process group of its own."""
    return subprocess.Popen(
        list(command),
        cwd=directory,
        env=_environment(None),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        process_group=0,
    )


def _environment(extra: dict[str, str] | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PGHAVEN_")}
    return {**kept, **(extra or {})}


def _replace(command: str, *, path: str, name: str) -> str:
    """``%p``, ``%f`` and ``%%`` as PostgreSQL replaces them."""
    parts = command.split("%%")
    return "%".join(part.replace("%p", path).replace("%f", name) for part in parts)
