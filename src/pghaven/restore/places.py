"""Where a restore writes, and whether it may: the target directory and the tablespaces.

The one idea: only empty directories are written to, or ones that an earlier try of this tool left unfinished, or,
where that was asked for, ones whose ``pg_control`` proves that they are the same cluster's. A tablespace's directory
is that only if the data directory's own link leads there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np

from pghaven.errors import NotPermitted, PghavenError, Refused, UsageError
from pghaven.postgres.control import parse_control
from pghaven.postgres.datadir import RESTORE_PLAN_FILE, SNAPSHOT_DIRECTORY
from pghaven.repository.manifest import Manifest
from pghaven.restore.existing import Found, find_existing, is_leftover
from pghaven.restore.request import RestoreRequest, Root
from pghaven.restore.targetfiles import Directories
from pghaven.runtime.spill import in_parts
from pghaven.server.postmaster import find_tablespace_user, is_running, list_server_processes

# Beside the files of the backup the data directory needs room for WAL while it is replayed.
_WAL_SEGMENTS = 16
_CONTROL = "global/pg_control"
_CONTROL_BYTES_MAX = 1 << 16
_NAMED = 5


def plan_roots(
    request: RestoreRequest, manifest: Manifest, original: str
) -> tuple[tuple[Root, ...], Found | None, bool]:
    """All places to be written, checked; what lies in them already; and whether that is an unfinished restore.

    ``original`` tells the backup from others also where it is a copy.

    Raises Refused for a directory that is in use or holds something else, or for too little space.
    """
    target = request.target_dir
    paths = _tablespace_paths(request, manifest)
    refuse_running(target)
    unfinished = read_unfinished(target)
    ours = {path for _, path in unfinished["roots"]} if unfinished is not None else set()
    if request.delta and (unfinished is not None or has_control(target)):
        _require_same_cluster(target, unfinished, manifest)
        _require_expected_links(target, paths, manifest)
        ours |= {target, *(path for prefix, path in paths.items() if _read_link(target, prefix) == path)}
        _refuse_other_users({prefix: path for prefix, path in paths.items() if path in ours}, target)
    for path in (target, *paths.values()):
        if path not in ours:
            _require_empty(path, is_target=path == target)
    places = {prefix: path for prefix, path in {"": target, **paths}.items() if path in ours}
    existing = find_existing(places, paths, manifest) if places else None
    if existing is not None and not request.delta:
        assert unfinished is not None
        _require_own(unfinished, target, existing, original)
    sizes = _sizes_by_root(manifest)
    sizes[""] = sizes.get("", 0) + _WAL_SEGMENTS * manifest.facts.wal_segment_size
    taken = existing.free_bytes if existing is not None else {}
    roots = tuple(
        Root(
            prefix=prefix,
            path=path,
            needed_bytes=max(0, sizes.get(prefix, 0) - taken.get(prefix, 0)),
            free_bytes=_free(path),
        )
        for prefix, path in {"": target, **paths}.items()
    )
    _require_space(roots)
    return roots, existing, unfinished is not None


def refuse_running(target: str) -> None:
    """Raises Refused when a server runs on this directory."""
    running = _find_server(target)
    if running is not None:
        raise Refused(
            f'a server is running on "{target}" (process {running})',
            hint="Stop it first, or restore to another directory.",
        )


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
        below = request.tablespaces_below
        unmapped = tablespace.path if below is None else f"{below}/{tablespace.oid}"
        path = os.path.normpath(mapping.pop(tablespace.path, unmapped))
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
    totals = np.zeros(len(prefixes), np.uint64)
    for part in in_parts(len(files.size)):
        rounded = (files.size[part] + np.uint64(4095)) // np.uint64(4096) * np.uint64(4096)
        np.add.at(totals, numbers[files.directory[part]], rounded)
    return dict(zip(prefixes, totals.tolist(), strict=True))


def root_prefix(relative: str) -> str:
    """The root that a directory of a backup belongs to."""
    parts = relative.split("/", 2)
    return f"pg_tblspc/{parts[1]}" if parts[0] == "pg_tblspc" and len(parts) > 1 else ""


def has_control(target: str) -> bool:
    """Whether a server could be started on this directory; a link counts, wherever it leads."""
    return os.path.lexists(f"{target}/{_CONTROL}")


def read_control(target: str) -> bytes:
    """The contents of ``pg_control``, which lies there itself and not behind a link. Raises OSError."""
    with closing(Directories((("", target),))) as places:
        descriptor = os.open("pg_control", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=places.open("global"))
        with open(descriptor, "rb") as file:
            return file.read(_CONTROL_BYTES_MAX)


def read_unfinished(target: str) -> dict[str, Any] | None:
    """The plan an interrupted restore left in this directory; None when there is none or it was finished."""
    if has_control(target):
        return None
    try:
        with open(f"{target}/{RESTORE_PLAN_FILE}", encoding="utf-8") as file:
            plan = json.load(file)
    except (FileNotFoundError, NotADirectoryError, ValueError, PermissionError):
        return None
    return plan if isinstance(plan, dict) and isinstance(plan.get("roots"), list) else None


def _require_same_cluster(target: str, unfinished: Mapping[str, Any] | None, manifest: Manifest) -> None:
    """Raises Refused unless what lies there is proven to be of the backup's cluster and version."""
    facts = manifest.facts
    if unfinished is not None:
        found = unfinished.get("system_identifier")
    else:
        try:
            control = parse_control(read_control(target))
        except PermissionError:
            raise NotPermitted(f'could not read "{target}/{_CONTROL}": permission denied') from None
        except (OSError, PghavenError) as error:
            raise Refused(
                f'"{target}" cannot be proven to be this cluster\'s: its pg_control cannot be read ({error})',
                hint="Move it away and restore to an empty directory.",
            ) from error
        found = str(control.system_identifier)
        if control.catalog_version != facts.catalog_version:
            raise Refused(
                f'"{target}" is of another major version than the backup, which is of PostgreSQL {facts.major}',
                hint="Restore to another directory.",
            )
    if found != str(facts.system_identifier):
        raise Refused(
            f'"{target}" is of another cluster: its system identifier is {found}, not {facts.system_identifier}',
            hint="Restore to another directory.",
        )


def _require_expected_links(target: str, paths: Mapping[str, str], manifest: Manifest) -> None:
    """A tablespace that lies elsewhere than the plan would put it is most likely a mapping that was forgotten."""
    for tablespace in manifest.facts.tablespaces:
        prefix = f"pg_tblspc/{tablespace.oid}"
        path, leads_to = paths[prefix], _read_link(target, prefix)
        if leads_to not in (None, path) and os.path.isdir(path) and os.listdir(path):
            raise Refused(
                f'tablespace "{tablespace.name}" lies at "{leads_to}", and would be restored to "{path}", '
                "which is not empty",
                hint=f"To restore it where it is: --tablespace-mapping {tablespace.path}={leads_to}",
            )


def _refuse_other_users(paths: Mapping[str, str], target: str) -> None:
    """A copied data directory has its original's links: what they lead to is in use while the original runs."""
    for prefix, path in paths.items():
        user = find_tablespace_user(path)
        if user is not None:
            raise Refused(
                f'a server is running on "{user}" with the tablespace directory "{path}"',
                hint=f'"{target}/{prefix}" leads to a directory that is not its own: use --tablespace-mapping.',
            )


def _read_link(target: str, prefix: str) -> str | None:
    try:
        return os.path.normpath(os.readlink(f"{target}/{prefix}"))
    except OSError:
        return None


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
    if set(entries) <= {"lost+found", SNAPSHOT_DIRECTORY}:
        return  # a file system of its own
    if entries:
        what = "target directory" if is_target else "tablespace directory"
        raise Refused(
            f'the {what} "{path}" is not empty',
            detail=f"It holds {len(entries)} entries, among them {', '.join(entries[:5])}.",
            hint=_advise(path, is_target=is_target),
        )


def _advise(path: str, *, is_target: bool) -> str:
    if not is_target:
        return "Move what is there away, or restore to another directory with --tablespace-mapping."
    if has_control(path):
        return (
            "Move what is there away, restore to another directory, or write over it, keeping what is right of it, "
            "with --delta."
        )
    return "Move what is there away, or restore to another directory."


def _require_parent(path: str) -> None:
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise Refused(f'"{parent}" does not exist, so "{path}" cannot be made', hint=f'Make the directory "{parent}".')
    if not os.access(parent, os.W_OK | os.X_OK):
        raise NotPermitted(
            f'could not make "{path}": you may not write to "{parent}"',
            hint="Run the restore as root, or have somebody make the directory and give it to you.",
        )


def _require_own(unfinished: Mapping[str, Any], target: str, existing: Found, original: str) -> None:
    """An unfinished restore is gone on with only if every file there is one of this backup's own."""
    if unfinished.get("original", unfinished.get("backup")) != original:
        raise Refused(
            f'"{target}" holds an unfinished restore of backup "{unfinished.get("backup")}"',
            hint=f'Choose that one with --backup, or use --delta to go on with "{original}".',
        )
    strange = existing.iter_strange()
    named = list(islice(strange, _NAMED))
    if named:
        count = len(named) + sum(1 for _ in strange)
        raise Refused(
            f'"{target}" holds an unfinished restore and {count} files that are not part of it',
            detail=f"Among them: {', '.join(named)}.",
            hint="Move them away, or use --delta, which removes only what PostgreSQL made.",
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


def _require_space(roots: Sequence[Root]) -> None:
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
