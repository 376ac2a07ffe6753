"""Where a restore writes, and whether it may: the target directory and the tablespaces.

The one idea: only empty directories are written to, or ones that an earlier try of this tool left unfinished; whatever
would be in the way is named and left alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pghaven.errors import NotPermitted, Refused, UsageError
from pghaven.postgres.datadir import CONFIG_COPY_DIRECTORY, RESTORE_PLAN_FILE
from pghaven.repository.manifest import Manifest
from pghaven.restore.request import RestoreRequest, Root
from pghaven.server.postmaster import is_running, list_server_processes

# Beside the files of the backup the data directory needs room for WAL while it is replayed.
_WAL_SEGMENTS = 16


def plan_roots(request: RestoreRequest, manifest: Manifest) -> tuple[tuple[Root, ...], bool]:
    """All places to be written, checked; and whether an unfinished restore lies there.

    Raises Refused for a directory that is in use or holds something else, or for too little space.
    """
    target = request.target_dir
    paths = _tablespace_paths(request, manifest)
    sizes = _sizes_by_root(manifest)
    running = _find_server(target)
    if running is not None:
        raise Refused(
            f'a server is running on "{target}" (process {running})',
            hint="Stop it first, or restore to another directory.",
        )
    unfinished = read_unfinished(target)
    ours = {path for _, path in unfinished["roots"]} if unfinished is not None else set()
    for path in (target, *paths.values()):
        if path not in ours:
            _require_empty(path, is_target=path == target)
    if unfinished is not None:
        _require_own(unfinished, target, {prefix: path for prefix, path in paths.items() if path in ours}, manifest)
    wal_bytes = _WAL_SEGMENTS * manifest.facts.wal_segment_size
    roots = [Root(prefix="", path=target, needed_bytes=sizes.get("", 0) + wal_bytes, free_bytes=_free(target))]
    for prefix, path in paths.items():
        roots.append(Root(prefix=prefix, path=path, needed_bytes=sizes.get(prefix, 0), free_bytes=_free(path)))
    if unfinished is None:
        _require_space(roots)
    return tuple(roots), unfinished is not None


def _find_server(target: str) -> int | None:
    """A process that works on this directory; also one of a server whose postmaster was killed, as it still writes."""
    if not os.path.isdir(target):
        return None
    running = is_running(target)
    return running.pid if running else next(iter(list_server_processes(target)), None)


def _tablespace_paths(request: RestoreRequest, manifest: Manifest) -> dict[str, str]:
    """``pg_tblspc/<oid>`` -> where that tablespace goes. Raises UsageError, Refused for places that clash."""
    mapping = dict(request.tablespace_mapping)
    target = os.path.realpath(request.target_dir)
    paths: dict[str, str] = {}
    for tablespace in manifest.facts.tablespaces:
        path = os.path.normpath(mapping.pop(tablespace.path, tablespace.path))
        if not os.path.isabs(path):
            raise Refused(
                f'tablespace "{tablespace.name}" lies at "{path}", inside its data directory',
                hint=f"Give it a place: --tablespace-mapping {tablespace.path}=/some/where",
            )
        real = os.path.realpath(path)
        if real == target or target.startswith(real + "/") or real.startswith(target + "/"):
            raise Refused(
                f'tablespace "{tablespace.name}" cannot be restored to "{path}": it and the target directory overlap',
                hint=f"Give it another place: --tablespace-mapping {tablespace.path}=/some/where",
            )
        for prefix, other in paths.items():
            if real == os.path.realpath(other):
                raise Refused(f'two tablespaces cannot be restored to one place: "{path}" ({prefix})')
        paths[f"pg_tblspc/{tablespace.oid}"] = path
    if mapping:
        known = ", ".join(f'"{one.path}"' for one in manifest.facts.tablespaces) or "none"
        raise UsageError(
            f'no tablespace of this backup lies at "{next(iter(mapping))}"', hint=f"Its tablespaces: {known}."
        )
    return paths


def _sizes_by_root(manifest: Manifest) -> dict[str, int]:
    """Bytes of files below each root, each file counted in whole blocks of its file system."""
    files = manifest.files
    root_of_directory = [root_prefix(os.fsdecode(path)) for path in files.directories]
    prefixes = sorted(set(root_of_directory))
    numbers = np.array([prefixes.index(one) for one in root_of_directory], np.int64)
    rounded = (files.size + np.uint64(4095)) // np.uint64(4096) * np.uint64(4096)
    totals = np.zeros(len(prefixes), np.uint64)
    if len(files.size):
        np.add.at(totals, numbers[files.directory], rounded)
    return dict(zip(prefixes, totals.tolist(), strict=True))


def root_prefix(relative: str) -> str:
    """The root that a directory of a backup belongs to."""
    parts = relative.split("/", 2)
    return f"pg_tblspc/{parts[1]}" if parts[0] == "pg_tblspc" and len(parts) > 1 else ""


def read_unfinished(target: str) -> dict[str, Any] | None:
    """The plan an interrupted restore left in this directory; None when there is none or it was finished."""
    if os.path.lexists(f"{target}/global/pg_control"):
        return None
    try:
        with open(f"{target}/{RESTORE_PLAN_FILE}", encoding="utf-8") as file:
            plan = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError, PermissionError):
        return None
    return plan if isinstance(plan, dict) and isinstance(plan.get("roots"), list) else None


def _require_empty(path: str, *, is_target: bool) -> None:
    try:
        entries = sorted(name for name in os.listdir(path) if not is_leftover(name))
    except FileNotFoundError:
        _require_parent(path)
        return
    except NotADirectoryError:
        raise Refused(f'"{path}" is not a directory') from None
    except PermissionError:
        raise NotPermitted(f'could not look into "{path}": permission denied') from None
    if entries == ["lost+found"]:
        return
    if entries:
        what = "target directory" if is_target else "tablespace directory"
        raise Refused(
            f'the {what} "{path}" is not empty',
            detail=f"It holds {len(entries)} entries, among them {', '.join(entries[:5])}.",
            hint="Move what is there away, or restore to another directory"
            + ("." if is_target else " with --tablespace-mapping."),
        )


def _require_parent(path: str) -> None:
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise Refused(f'"{parent}" does not exist, so "{path}" cannot be made', hint=f'Make the directory "{parent}".')


def _require_own(unfinished: Mapping[str, Any], target: str, paths: Mapping[str, str], manifest: Manifest) -> None:
    """An unfinished restore is done over only if every file there is one of this backup's own."""
    if unfinished.get("backup") != manifest.facts.label:
        raise Refused(
            f'"{target}" holds an unfinished restore of backup "{unfinished.get("backup")}"',
            hint=f'Choose that one with --backup, or empty the directory to restore "{manifest.facts.label}".',
        )
    foreign = list(find_foreign({"": target, **paths}, manifest))
    if foreign:
        raise Refused(
            f'"{target}" holds an unfinished restore and {len(foreign)} files that are not part of it',
            detail=f"Among them: {', '.join(foreign[:5])}.",
            hint="Move them away; nothing that is not ours is removed.",
        )


def find_foreign(roots: Mapping[str, str], manifest: Manifest) -> Iterator[str]:
    """Paths below the roots that the backup does not have and a restore does not make."""
    files = manifest.files
    ours = {os.fsdecode(files.path(number)) for number in range(len(files.names))}
    ours |= set(GENERATED_FILES)
    for prefix, root in roots.items():
        for directory, _, names in os.walk(root):
            relative = os.path.relpath(directory, root)
            for name in names:
                path = "/".join(part for part in (prefix, "" if relative == "." else relative, name) if part)
                # A write that was cut short leaves the temporary name it had.
                if path not in ours and not is_leftover(name) and not path.startswith(CONFIG_DIRECTORY + "/"):
                    yield path


def is_leftover(name: str) -> bool:
    """Whether this is the temporary name of a file that we write and rename; a kill leaves one behind."""
    return name.startswith(tuple(f".{one}." for one in (*GENERATED_FILES, "pg_control"))) and name.endswith(".tmp")


CONFIG_DIRECTORY = CONFIG_COPY_DIRECTORY
GENERATED_FILES = (
    RESTORE_PLAN_FILE,
    "backup_label",
    "recovery.signal",
    "standby.signal",
    "postgresql.auto.conf",
    "postgresql.conf",
    "pg_hba.conf",
    "pg_ident.conf",
)


def _free(path: str) -> int | None:
    """Bytes free where a directory is or will be."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _device(path: str) -> int:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return os.stat(path).st_dev


def _require_space(roots: list[Root]) -> None:
    """Roots on one file system share its room."""
    from pghaven.units import render_size

    needed: dict[int, int] = {}
    for root in roots:
        device = _device(root.path)
        needed[device] = needed.get(device, 0) + root.needed_bytes
        if root.free_bytes is not None and needed[device] > root.free_bytes:
            raise Refused(
                f'not enough space for "{root.path}": {render_size(needed[device])} are needed, '
                f"{render_size(root.free_bytes)} are free",
                hint="Make room, or choose another place for the data directory or for a tablespace.",
            )
