"""The files of one node: what they should be, how they differ from what is there, and writing them.

The one idea: a plan holds every file's whole text, so what is shown is what is written, byte for byte.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from typing import Literal

from pghaven.errors import NotPermitted
from pghaven.ha.patroni_file import FILE_NAME, render_patroni_file
from pghaven.ha.services import (
    PROXY_FILE,
    render_etcd_unit,
    render_patroni_unit,
    render_proxy_file,
    render_proxy_unit,
    unit_name,
)
from pghaven.ha.spec import HaNode, HaSpec, LocalPlaces
from pghaven.server.identity import OsUser

Change = Literal["new", "changed", "same"]
_PASSWORD = re.compile(r"(?m)^([+ -]?\s*password: ).*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """``secret``: only the service's user reads it. ``service``: the unit that must be told of a change."""

    path: str
    text: str
    secret: bool = False
    change: Change
    difference: str = ""


def plan_files(spec: HaSpec, node: HaNode, places: LocalPlaces) -> tuple[PlannedFile, ...]:
    """All files of a node, compared with what is there. Passwords do not appear in the differences."""
    texts: dict[str, str] = {}
    if not node.witness:
        texts[places.path(node, FILE_NAME)] = render_patroni_file(spec, node, places)
        texts[_unit(places, "patroni", spec, node)] = render_patroni_unit(spec, node, places)
    if spec.proxy and not node.witness:
        texts[places.path(node, PROXY_FILE)] = render_proxy_file(spec, node)
        texts[_unit(places, "haproxy", spec, node)] = render_proxy_unit(spec, node, places)
    if node in spec.dcs_members:
        texts[_unit(places, "etcd", spec, node)] = render_etcd_unit(spec, node, places)
    return tuple(_compare(path, text, secret=path.endswith(FILE_NAME)) for path, text in texts.items())


def _unit(places: LocalPlaces, service: str, spec: HaSpec, node: HaNode) -> str:
    return f"{places.unit_directory}/{unit_name(service, spec, node)}"


def _compare(path: str, text: str, *, secret: bool) -> PlannedFile:
    there = _read(path)
    if there is None:
        return PlannedFile(path=path, text=text, secret=secret, change="new")
    if there == text:
        return PlannedFile(path=path, text=text, secret=secret, change="same")
    lines = difflib.unified_diff(there.splitlines(), text.splitlines(), "now", "wanted", lineterm="", n=1)
    difference = _PASSWORD.sub(r"\1…", "\n".join(list(lines)[2:]))
    return PlannedFile(path=path, text=text, secret=secret, change="changed", difference=difference)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NotPermitted(
            f'could not read "{path}": {(error.strerror or str(error)).lower()}',
            hint="Run this as root or as the service's user.",
        ) from error


def write_file(planned: PlannedFile, user: OsUser | None) -> None:
    """Put the file in place at once, or not at all. Raises NotPermitted."""
    directory, unfinished = os.path.dirname(planned.path), f"{planned.path}.pghaven.tmp"
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        if planned.secret and user is not None:
            os.chown(directory, user.uid, user.gid)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if planned.secret else 0o644)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(planned.text)
            file.flush()
            os.fsync(file.fileno())
        if planned.secret and user is not None:
            os.chown(unfinished, user.uid, user.gid)
        os.rename(unfinished, planned.path)
    except OSError as error:
        raise NotPermitted(
            f'could not write "{planned.path}": {(error.strerror or str(error)).lower()}',
            hint="Run this as root, or name other places with directory and unit_directory.",
        ) from error
