"""The tools that are judged: how each archives, what its documentation gives as ``restore_command``, how it is broken.

The one idea: a tool is a directory below which it keeps everything, so that an archive is made once and copied for each
recovery, and what goes wrong is done to files, or to what stands between.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pghaven.postgres.datadir import RESTORE_PLAN_FILE
from pghaven.postgres.lsn import Lsn
from pghaven.postgres.segment import SegmentName
from pghaven.repository.keyset import make_first_key
from pghaven.repository.keytext import find_key_text, render_key_file
from pghaven.repository.partials import Piece, put_piece
from pghaven.repository.repository import Lineage, create_repository
from pghaven.repository.walstore import WalArchive
from pghaven.store.open import create_root, open_store
from pghaven.store.settings import StoreSettings
from pghaven.wal.commands import render_archive_command, render_restore_command
from tests.recoveries.recorded import SEGMENT_SIZE, Recorded
from tests.support.commands import PghavenCommand
from tests.support.keys import open_with, sealing_with
from tests.support.places import own, run_as_plain

Leg = tuple[int, str, str | None]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Where a restore would have planned this recovery to come to: what ``pghaven restore`` leaves beside it."""

    end: Lsn
    path: tuple[Leg, ...] = ((1, "0/0", None),)


class Tool(Protocol):
    """``can`` names what cases may ask of it beyond files. ``archive`` stores files of a ``Recorded`` below ``place``,
    in ``copies`` repositories."""

    @property
    def name(self) -> str: ...

    @property
    def can(self) -> frozenset[str]: ...

    def archive(self, recorded: Recorded, place: Path, names: Sequence[str], copies: int = 1) -> None: ...

    def restore_command(self, place: Path, target: Path, expected: Expected) -> str: ...

    def object_of(self, place: Path, name: str) -> Path:
        """Where a file lies in the first repository."""

    def vault(self, place: Path) -> Path:
        """The directory that a whole repository lies in."""

    def descriptors(self, place: Path) -> Sequence[Path]:
        """What a repository cannot be read without."""


def repositories(place: Path) -> list[Path]:
    return sorted(place.glob("repository*"))


def run_in_copy(recorded: Recorded, place: Path, names: Sequence[str], command: str) -> None:
    """Archive files as the server would: ``command`` for each, in a data directory in whose pg_wal they lie."""
    data = place / "data"
    if not data.exists():
        shutil.copytree(recorded.base, data, symlinks=True)
    for path in (data, *data.rglob("*")):
        own(path)
    for name in names:
        shutil.copy2(recorded.files / name, data / "pg_wal" / name)
        own(data / "pg_wal" / name)
        words = command.replace("%p", f"pg_wal/{name}").replace("%f", name).replace("%%", "%")
        done = run_as_plain(["/bin/sh", "-c", words], cwd=data)
        assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    shutil.rmtree(data)


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Any command over plain copies of the files: ``{archive}`` in it is where they lie."""

    name: str
    command: str
    can: frozenset[str] = frozenset({"plant"})

    def archive(self, recorded: Recorded, place: Path, names: Sequence[str], copies: int = 1) -> None:
        (place / "repository").mkdir()
        own(place / "repository")
        for name in names:
            shutil.copy(recorded.files / name, place / "repository" / name)
            own(place / "repository" / name)

    def restore_command(self, place: Path, target: Path, expected: Expected) -> str:
        return self.command.replace("{archive}", str(place / "repository"))

    def object_of(self, place: Path, name: str) -> Path:
        return place / "repository" / name

    def plant(self, place: Path, name: str, content: bytes, recorded: Recorded) -> None:
        self.object_of(place, name).write_bytes(content)

    def vault(self, place: Path) -> Path:
        return place / "repository"

    def descriptors(self, place: Path) -> Sequence[Path]:
        return ()


@dataclass(frozen=True, kw_only=True)
class PgBackRest:
    """Sealed by a passphrase, or in the open where other contents are to be planted."""

    program: str
    version: str
    asynchronous: bool = False
    can: frozenset[str] = frozenset({"key", "copies"})

    @property
    def name(self) -> str:
        return f"pgBackRest {self.version}{', async' if self.asynchronous else ''}"

    def _command(self, place: Path, data: Path | str) -> str:
        return f"{self.program} --config={place}/pgbackrest.conf --stanza=main --pg1-path={data}"

    def archive(self, recorded: Recorded, place: Path, names: Sequence[str], copies: int = 1) -> None:
        lines = [
            *("[global]", "compress-type=gz", "log-level-console=warn", "log-level-file=off", "process-max=2"),
            *(f"log-path={place}", f"lock-path={place}/lock", f"spool-path={place}/spool", "io-timeout=3"),
            *(["archive-async=y"] if self.asynchronous else []),
        ]
        for number in range(1, copies + 1):
            directory = place / f"repository{number}"
            directory.mkdir()
            own(directory)
            lines += [f"repo{number}-path={directory}", f"repo{number}-cipher-type=aes-256-cbc"]
            lines += [f"repo{number}-cipher-pass=correct-horse"]
        config = place / "pgbackrest.conf"
        config.write_text("\n".join([*lines, "[main]", "pg1-user=postgres", ""]))
        own(config)
        own(place)
        data = place / "data"
        shutil.copytree(recorded.base, data, symlinks=True)
        for path in (data, *data.rglob("*")):
            own(path)
        created = run_as_plain(["/bin/sh", "-c", f"{self._command(place, data)} --no-online stanza-create"])
        assert created.returncode == 0, created.stdout + created.stderr
        run_in_copy(recorded, place, names, f"{self._command(place, data)} --no-archive-async archive-push %p")

    def restore_command(self, place: Path, target: Path, expected: Expected) -> str:
        config = place / "pgbackrest.conf"
        text = config.read_text()
        # An archive is made once and copied: the paths are those of the copy.
        old = text.partition("log-path=")[2].partition("\n")[0]
        config.write_text(text.replace(old, str(place)))
        return f'{self._command(place, target)} archive-get %f "%p"'

    def object_of(self, place: Path, name: str) -> Path:
        (found,) = (path for path in repositories(place)[0].rglob(f"{name}*") if path.is_file())
        return found

    def vault(self, place: Path) -> Path:
        return repositories(place)[0]

    def descriptors(self, place: Path) -> Sequence[Path]:
        return sorted(repositories(place)[0].rglob("archive.info*"))

    def hide_key(self, place: Path) -> tuple[str, str]:
        """The words that take the key away and bring it back."""
        config = shlex.quote(str(place / "pgbackrest.conf"))
        return (
            f"sed -i s/correct-horse/battery-staple/ {config}",
            f"sed -i s/battery-staple/correct-horse/ {config}",
        )


@dataclass(frozen=True, kw_only=True)
class Pghaven:
    """Sealed, as ``pghaven restore`` has a server recover: held to its plan, unless ``planned`` is False."""

    command: PghavenCommand
    planned: bool = True
    store: StoreSettings | None = None
    prefetch: str = "0B"
    can: frozenset[str] = frozenset({"key", "copies", "plant", "partial", "plan", "prefetch"})

    @property
    def name(self) -> str:
        return "pghaven" if self.planned else "pghaven, by hand"

    def archive(self, recorded: Recorded, place: Path, names: Sequence[str], copies: int = 1) -> None:
        key = make_first_key()
        (place / "key").write_bytes(render_key_file(key, "ab" * 16, "main"))
        (place / "key").chmod(0o600)
        own(place / "key")
        for number in range(1, copies + 1):
            if self.store is not None:
                repository = create_repository(open_store(self.store), sealing=sealing_with(key))
            else:
                url = (place / f"repository{number}").as_uri()
                repository = create_repository(create_root(url), sealing=sealing_with(key))
            repository.register_lineage("main", _lineage_of(recorded), new_lineage=False)
        for directory in repositories(place):
            for path in (directory, *directory.rglob("*")):
                own(path)
        self.configure(place, copies)
        run_in_copy(recorded, place, names, render_archive_command(self.command.words, str(place / "toml"), "main"))

    def configure(self, place: Path, copies: int) -> None:
        text, names = "", [f"r{number}" for number in range(1, copies + 1)]
        for number, name in enumerate(names, 1):
            url = (place / f"repository{number}").as_uri()
            text += f"[repository.{name}]\nkey_file = {json.dumps(str(place / 'key'))}\n"
            if self.store is None:
                text += f"url = {json.dumps(url)}\n"
            else:
                text += f"url = {json.dumps(self.store.url)}\nendpoint = {json.dumps(self.store.endpoint)}\n"
                text += f'credentials_file = {json.dumps(self.store.credentials_file)}\nretry_timeout = "1s"\n'
        text += f"[cluster.main]\ndata_directory = {json.dumps(str(place / 'data'))}\n"
        text += f'repositories = {json.dumps(names)}\nwal_prefetch = "{self.prefetch}"\nwal_timeout = "10s"\n'
        (place / "toml").write_text(text)
        own(place / "toml")

    def restore_command(self, place: Path, target: Path, expected: Expected) -> str:
        self.configure(place, max(1, len(repositories(place))))
        if self.planned:
            plan = {"format": 1, "archiving": "off", "timeline_path": expected.path}
            (target / RESTORE_PLAN_FILE).write_text(json.dumps({**plan, "expected_end_lsn": str(expected.end)}))
            own(target / RESTORE_PLAN_FILE)
        plan_path = RESTORE_PLAN_FILE if self.planned else None
        return render_restore_command(self.command.words, str(place / "toml"), "main", plan_path)

    def object_of(self, place: Path, name: str) -> Path:
        (found,) = repositories(place)[0].rglob(name)
        return found

    def vault(self, place: Path) -> Path:
        return repositories(place)[0]

    def descriptors(self, place: Path) -> Sequence[Path]:
        return [repositories(place)[0] / "pghaven.json"]

    def hide_key(self, place: Path) -> tuple[str, str]:
        return f"mv {place}/key {place}/gone", f"mv {place}/gone {place}/key"

    def open(self, place: Path, recorded: Recorded) -> WalArchive:
        key = find_key_text((place / "key").read_text())
        assert key is not None
        repository = open_with(create_root(repositories(place)[0].as_uri()), key)
        return WalArchive(repository, "main", recorded.identifier, SEGMENT_SIZE)

    def plant(self, place: Path, name: str, content: bytes, recorded: Recorded) -> None:
        self.object_of(place, name).unlink()
        self.open(place, recorded).put(name, content, {})
        own(self.object_of(place, name))

    def put_part(self, place: Path, name: str, content: bytes, recorded: Recorded) -> None:
        """What a receiver has kept of a segment."""
        segment = SegmentName.parse(name, SEGMENT_SIZE)
        piece = Piece(segment=segment, receiver="ab" * 4, begin=0, end=len(content))
        put_piece(self.open(place, recorded), piece, content, {})
        for path in repositories(place)[0].rglob("*"):
            own(path)


def _lineage_of(recorded: Recorded) -> Lineage:
    return Lineage(
        system_identifier=recorded.identifier,
        major=recorded.version,
        block_size=8192,
        segment_blocks=131072,
        wal_segment_size=SEGMENT_SIZE,
        registered_at="2026-01-01T00:00:00.000000Z",
    )


def find_pgbackrest(*, asynchronous: bool = False) -> PgBackRest | None:
    program = shutil.which("pgbackrest")
    if program is None:
        return None
    told = subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout
    return PgBackRest(program=program, version=told.split()[-1], asynchronous=asynchronous)
