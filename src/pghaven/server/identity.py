"""Which operating-system user we are, and how to act as the one that owns a server.

The one idea: PostgreSQL refuses to run as root and knows local clients by their user (peer authentication), so a root
process must start servers as, and connect as, the owner of the data directory. Children get the other identity for
good; our own process takes it in one thread and for one call only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pghaven.errors import NotFound, NotPermitted

_SERVER_USERS: Final = ("postgres", "nobody")
# setresgid and setresuid by number. The functions of glibc change all threads of a process (nptl(7)); the bare system
# calls change the calling one, so that no other thread suddenly writes files as somebody else.
_SETRES_NUMBERS: Final = {"x86_64": (119, 117), "aarch64": (149, 147), "riscv64": (149, 147)}


@dataclass(frozen=True, slots=True, kw_only=True)
class OsUser:
    """A user of this host with its groups, as the password database has it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def get_os_user(name: str) -> OsUser:
    """Raises NotFound when this host has no such user."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise NotFound(f'there is no operating-system user "{name}" on this host') from None
    return _from_entry(entry)


def find_owner(path: str) -> OsUser | None:
    """The owner of a file or directory; None when its user id has no name here. Raises OSError."""
    try:
        return _from_entry(pwd.getpwuid(os.stat(path).st_uid))
    except KeyError:
        return None


def _from_entry(entry: pwd.struct_passwd) -> OsUser:
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return OsUser(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, groups=groups, home=entry.pw_dir)


def find_server_user() -> OsUser | None:
    """Whom servers that we make run as: None for ourselves; under root somebody else. Raises NotFound."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in _SERVER_USERS:
        if name in names:
            return get_os_user(name)
    raise NotFound(
        "PostgreSQL does not run as root, and there is no other user it could run as",
        hint="Make one with: useradd --system postgres. Or run this as an ordinary user.",
    )


def must_switch(user: OsUser | None) -> bool:
    """Whether acting as this user takes another identity than we have. Only root can take one."""
    return user is not None and user.uid != os.geteuid()


def child_identity(user: OsUser | None) -> dict[str, Any]:
    """Arguments for ``subprocess`` that start a child as this user, from a directory it can enter.

    ``None`` and our own user change nothing. Raises NotPermitted when we are not root and the user is another.
    """
    if user is None or not must_switch(user):
        return {"cwd": "/"}
    _require_root(user)
    return {"cwd": "/", "user": user.uid, "group": user.gid, "extra_groups": list(user.groups)}


def become(user: OsUser) -> None:
    """Be this user for good, in a process that has one thread. Raises NotPermitted when we are not root and the user is
    another."""
    if not must_switch(user):
        return
    _require_root(user)
    os.setgroups(user.groups)
    os.setgid(user.gid)
    os.setuid(user.uid)
    os.environ.update(HOME=user.home, USER=user.name, LOGNAME=user.name)


@contextmanager
def acting_as(user: OsUser | None) -> Iterator[None]:
    """The calling thread's effective user and group are ``user``'s inside the block.

    ``None`` and our own user change nothing. Supplementary groups stay. Nothing that reads our own files belongs into
    the block: a Python installation below ``/root`` cannot be read there, so modules must be imported before.
    Raises NotPermitted when we are not root and the user is another.
    """
    if user is None or not must_switch(user):
        yield
        return
    _require_root(user)
    uid, gid = os.geteuid(), os.getegid()
    _set_effective(user.uid, user.gid)
    try:
        yield
    finally:
        _set_effective(uid, gid)


def _require_root(user: OsUser) -> None:
    if os.geteuid() != 0:
        me = pwd.getpwuid(os.geteuid()).pw_name
        raise NotPermitted(
            f'cannot act as operating-system user "{user.name}": only root can, and this is "{me}"',
            hint=f'Run the command as "{user.name}" or as root.',
        )


def _set_effective(uid: int, gid: int) -> None:
    numbers = _SETRES_NUMBERS.get(platform.machine())
    if numbers is None:
        # The whole process then: rare machines pay with a moment in which other threads are the other user too.
        if uid != 0:
            os.setegid(gid)
            os.seteuid(uid)
        else:
            os.seteuid(uid)
            os.setegid(gid)
        return
    setresgid, setresuid = numbers
    calls = ((setresgid, gid), (setresuid, uid))
    # The group goes first on the way down, while we are still root, and last on the way back.
    for number, value in calls if uid != 0 else reversed(calls):
        _system_call(number, value)


def _system_call(number: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    unchanged = ctypes.c_long(-1)
    if libc.syscall(ctypes.c_long(number), unchanged, ctypes.c_long(value), unchanged) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
