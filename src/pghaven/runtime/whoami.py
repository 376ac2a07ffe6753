"""Which process this is, told in a way that another process, later or on another host, can check.

The one idea: a process number alone is used again; together with the boot and the moment the process started it is not.
"""

from __future__ import annotations

import os

from pghaven.light import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """``boot_id`` names this boot of this host, and the process-number space; ``start`` is in clock ticks since it."""

    host: str
    boot_id: str
    pid: int
    start: str


def read_own_identity() -> ProcessIdentity:
    pid = os.getpid()
    return ProcessIdentity(host=os.uname().nodename, boot_id=_boot_id(), pid=pid, start=_start_of(pid) or "unknown")


def is_alive(identity: ProcessIdentity) -> bool | None:
    """Whether that process still runs; None when it belongs to another host or boot and nothing can be said."""
    if identity.host != os.uname().nodename or identity.boot_id != _boot_id():
        return None
    return _start_of(identity.pid) == identity.start


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    # Containers share the boot but number their processes by themselves.
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def find_parent(pid: int) -> int | None:
    """The process that started this one; None when there is no such process here."""
    fields = _fields_of(pid)
    return None if fields is None else int(fields[1])


def _start_of(pid: int) -> str | None:
    fields = _fields_of(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def _fields_of(pid: int) -> list[bytes] | None:
    """/proc/<pid>/stat from its third field, the state (proc(5)); the name before it may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
