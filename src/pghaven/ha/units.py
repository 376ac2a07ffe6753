"""The units of this host's systemd that run the server of a node, and are not ours; and how one hands over to ours.

The one idea: at no moment are two units enabled or running that start one server. The old one is disabled before ours
is enabled, and ended before ours is started; when ours does not start, the old one gets the server back.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape, glob
from typing import Final

from pghaven.errors import ServerUnsuitable

_PROPERTIES: Final = "Id,ExecStart,Environment,KillMode,TimeoutStopUSec,ExecStop,ExecStopPost,UnitFileState,ActiveState"
_DIRECTORIES: Final = ("/etc/systemd/system", "/run/systemd/system")
_RUNTIME: Final = "/run/systemd/system"
_DROP_IN: Final = "pghaven-handover.conf"
# Its own end is all that it may do: neither take the server with it, nor be waited for without limit.
_LET_GO: Final = "[Service]\nKillMode=process\nExecStop=\nExecStopPost=\nTimeoutStopSec=20\n"
_DATA_LINE: Final = re.compile(r"^\s*['\"]?data_dir['\"]?\s*:\s*['\"]?([^'\"#\n]+?)['\"]?\s*(?:#.*)?$", re.MULTILINE)
_WORDS: Final = re.compile(r"argv\[\]=(.*?) ; ignore_errors=")
_RUNS: Final = ("active", "activating", "reloading", "deactivating")
_SYSTEMCTL_SECONDS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """A unit that starts the server. ``runs_patroni``: by a Patroni. ``obstacles`` are its settings that would end the
    server with that Patroni, or leave it without anybody."""

    name: str
    runs_patroni: bool
    is_enabled: bool
    is_active: bool
    obstacles: tuple[str, ...] = ()


def is_there() -> bool:
    """Whether systemd runs this host."""
    return shutil.which("systemctl") is not None and os.path.isdir(_RUNTIME)


def find_keepers(data_directory: str, own: Sequence[str]) -> tuple[Keeper, ...]:
    """Units beside our ``own`` that run or are enabled and start the server of that data directory. Raises
    ServerUnsuitable."""
    if not is_there():
        return ()
    names = {name for name in _list_names() if name.endswith(".service") and "@." not in name} - set(own)
    if not names:
        return ()
    shown = control("show", f"--property={_PROPERTIES}", "--", *sorted(names))
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.split("\n\n")]
    found = {block["Id"]: block for block in blocks if block.get("Id") and block["Id"] not in own}
    return tuple(keeper for block in found.values() if (keeper := _judge(block, data_directory)) is not None)


def _list_names() -> Iterator[str]:
    """What runs, and what is enabled: by the links that enabling makes: instances of a template are no files."""
    running = control("list-units", "--type=service", "--plain", "--no-legend", "--state=active,activating")
    yield from (line.split()[0] for line in running.splitlines() if line.strip())
    for directory in _DIRECTORIES:
        for kind in ("wants", "requires"):
            yield from (os.path.basename(path) for path in glob(f"{directory}/*.{kind}/*.service"))


def _judge(shown: dict[str, str], data_directory: str) -> Keeper | None:
    command = " ".join(_WORDS.findall(shown.get("ExecStart", "")))
    words = command.split()
    wanted = os.path.realpath(data_directory)
    at = next((place for place, word in enumerate(words) if os.path.basename(word) == "patroni"), None)
    if at is not None:
        if not any(_names(file, wanted) for file in words[at + 1 :] if not file.startswith("-")):
            return None
    elif not _speaks_of([*words, *shown.get("Environment", "").split()], wanted):
        return None
    return Keeper(
        name=shown["Id"],
        runs_patroni=at is not None,
        is_enabled=shown.get("UnitFileState", "").startswith(("enabled", "linked")),
        is_active=shown.get("ActiveState") in _RUNS,
        obstacles=_find_obstacles(shown) if at is not None else (),
    )


def _names(file: str, wanted: str) -> bool:
    """Whether a file of Patroni's, or one in its directory of files, is about the data directory."""
    for path in sorted(glob(f"{escape(file)}/*.y*ml")) if os.path.isdir(file) else [file]:
        try:
            with open(path, encoding="utf-8", errors="replace") as opened:
                text = opened.read()
        except OSError:
            continue
        if any(os.path.realpath(found) == wanted for found in _DATA_LINE.findall(text)):
            return True
    return False


def _speaks_of(words: Sequence[str], wanted: str) -> bool:
    """``-D DIRECTORY``, ``--pgdata=DIRECTORY``, ``PGDATA=DIRECTORY``."""
    places = (word.removeprefix("-D").rpartition("=")[2].strip("\"'") for word in words)
    return any(place.startswith("/") and os.path.realpath(place) == wanted for place in places)


def _find_obstacles(shown: dict[str, str]) -> tuple[str, ...]:
    found = []
    if (mode := shown.get("KillMode")) not in ("process", "none"):
        found.append(f"KillMode={mode} kills PostgreSQL with it")
    found += [f"its {name} may stop PostgreSQL" for name in ("ExecStop", "ExecStopPost") if shown.get(name)]
    return tuple(found)


def hand_over(keeper: Keeper, ours: str) -> None:
    """Have our unit of Patroni take the place of another one: of a Patroni whose cluster is paused while its server
    runs on, of a server's own with a restart. Raises ServerUnsuitable, with everything as it was where that can be."""
    drop_in = f"{_RUNTIME}/{keeper.name}.d/{_DROP_IN}"
    if keeper.runs_patroni:
        _write_drop_in(drop_in)
    try:
        control("disable", keeper.name)
        try:
            control("enable", ours)
            control("stop", keeper.name)
            control("start", ours)
        except ServerUnsuitable as error:
            _give_back(keeper, ours)
            raise ServerUnsuitable(
                f"{ours} could not take over from {keeper.name}, which has the server again",
                detail=error.detail or error.message,
                hint=f"See: journalctl -u {ours}",
            ) from error
    finally:
        if keeper.runs_patroni:
            _remove_drop_in(drop_in)


def _give_back(keeper: Keeper, ours: str) -> None:
    for words in (("disable", "--now", ours), *((("enable", keeper.name),) if keeper.is_enabled else ())):
        control(*words)
    if keeper.is_active:
        control("start", keeper.name)


def _write_drop_in(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(_LET_GO)
    except OSError as error:
        raise ServerUnsuitable(f'cannot write "{path}"', detail=error.strerror, hint="Run this as root.") from error
    control("daemon-reload")


def _remove_drop_in(path: str) -> None:
    os.unlink(path)
    if not os.listdir(os.path.dirname(path)):
        os.rmdir(os.path.dirname(path))
    control("daemon-reload")


def control(*words: str) -> str:
    """``systemctl``; what it says. Raises ServerUnsuitable."""
    try:
        done = subprocess.run(
            ["systemctl", "--no-pager", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SYSTEMCTL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerUnsuitable(f"systemctl {words[0]} failed", detail=str(error)) from error
    if done.returncode != 0:
        raise ServerUnsuitable(f"systemctl {words[0]} failed", detail=done.stderr.strip() or None)
    return done.stdout
