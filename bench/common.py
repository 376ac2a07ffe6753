"""Measuring commands: time, processor time, memory, what they leave on disk; medians; the scratch directory.

The one idea: a tool is measured from outside, as a user would run it. The bench is the reaper of everything it starts
(PR_SET_CHILD_SUBREAPER), so no process of a tool escapes the count; what a tool makes the *server* do (checkpoint,
compression in the server, archive_command) is counted beside it, from /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import platform
import pwd
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pghaven.server.identity import OsUser, child_identity, get_os_user

MIB = 1 << 20
RESULTS = Path(__file__).resolve().parent / "results"
DEFAULT_SCRATCH = Path("/var/tmp/pghaven-bench")

_SAMPLE_SECONDS = 0.1
_PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class BenchError(Exception):
    """The bench cannot go on; the message is for whoever runs it."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run of one command. ``server_seconds`` is processor time the server spent meanwhile, its children included;
    ``memory_bytes`` the largest sum, over all processes of the tool at one moment, of proportional set sizes."""

    wall_seconds: float
    cpu_seconds: float
    server_seconds: float
    memory_bytes: int
    processes: int


# -- users and places --------------------------------------------------------------------------------------------------


def bench_user() -> OsUser:
    """Whom servers and all tools run as: ourselves, or under root ``postgres``."""
    if os.geteuid() != 0:
        return get_os_user(pwd.getpwuid(os.geteuid()).pw_name)
    try:
        return get_os_user("postgres")
    except Exception as error:
        raise BenchError("run as root, the bench needs a user postgres for its servers") from error


@contextlib.contextmanager
def scratch_directory(path: Path, *, keep: bool) -> Iterator[Path]:
    """The directory all files of a bench lie in; removed at the end unless it is to be kept or was not empty."""
    was_used = path.exists() and any(path.iterdir())
    if was_used and not (path / ".bench").exists():
        raise BenchError(f'"{path}" holds other things; choose another directory with --scratch')
    path.mkdir(parents=True, exist_ok=True)
    give(path)
    with (path / ".bench").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError(f'another bench uses "{path}"; choose another directory with --scratch') from None
        try:
            yield path
        finally:
            if not keep:
                shutil.rmtree(path)


def give(path: Path) -> None:
    """Give a file or directory to the bench's user."""
    if os.geteuid() == 0:
        os.chown(path, bench_user().uid, bench_user().gid)


def make_directory(path: Path) -> Path:
    path.mkdir(mode=0o750, parents=True, exist_ok=True)
    give(path)
    return path


def remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_TOP_DIRECTORY = 0x00020000  # FS_TOPDIR_FL


def spread(path: Path) -> None:
    """Have directories that are made in this one lie far from each other, as at the top of a file system, where it
    knows such a thing (ext4 does; ``chattr +T``)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            flags = bytearray(fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))
            number = int.from_bytes(flags[:4], sys.byteorder) | _TOP_DIRECTORY
            fcntl.ioctl(descriptor, _SET_FLAGS, number.to_bytes(8, sys.byteorder))
    finally:
        os.close(descriptor)


# -- running -----------------------------------------------------------------------------------------------------------


def run(command: Sequence[str], *, log: Path | None = None, stdin: str | None = None) -> str:
    """Run a command as the bench's user; its output. Raises BenchError with what it said when it fails."""
    done = subprocess.run(
        list(command),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=_environment(),
        **child_identity(_other_user()),
    )
    if log is not None:
        with log.open("a") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}\n")
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-2000:]}")
    told: str = done.stdout
    return told


def start(command: Sequence[str], *, log: Path) -> subprocess.Popen[bytes]:
    """Start a command as the bench's user, to run beside what is measured."""
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(),
            **child_identity(_other_user()),
        )


def measure(command: Sequence[str], *, log: Path, server_pid: int | None = None) -> Measurement:
    """Run a command as the bench's user to its end and measure it. Raises BenchError when it fails."""
    become_reaper()
    sync()
    server_before = read_tree_seconds(server_pid)
    staying = _children()
    with log.open("ab") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(),
            **child_identity(_other_user()),
        )
        with _sampling(process.pid) as sampler:
            status = process.wait()
        wall = time.perf_counter() - began
        reap_strays(staying)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status:
        raise BenchError(f"{' '.join(command)}: status {status}\n{log.read_text(errors='replace')[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measurement(
        wall_seconds=wall,
        cpu_seconds=cpu,
        server_seconds=read_tree_seconds(server_pid) - server_before,
        memory_bytes=sampler.most_bytes,
        processes=sampler.most_processes,
    )


def become_reaper() -> None:
    """Have orphans of what we start become our children, so that their processor time is counted."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> set[int]:
    return {pid for pid, parent in _parents().items() if parent == os.getpid()}


def reap_strays(staying: set[int]) -> None:
    """Wait for what a tool left running; servers, which were our children before it began, go on."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ours = _children() - staying
        if not ours:
            return
        for pid in ours:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


def sync() -> None:
    """Let the disk finish what others wrote, so that it is not charged to the next command."""
    os.sync()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PGHAVEN"))}
    return kept | {"HOME": bench_user().home, "LC_ALL": "C.UTF-8", "USER": bench_user().name}


def _other_user() -> OsUser | None:
    return bench_user() if os.geteuid() == 0 else None


# -- /proc -------------------------------------------------------------------------------------------------------------


class _Sampler:
    def __init__(self, root: int) -> None:
        self._root = root
        self.most_bytes = 0
        self.most_processes = 0

    def sample(self) -> None:
        pids = _descendants(self._root)
        self.most_bytes = max(self.most_bytes, sum(_read_memory(pid) for pid in pids))
        self.most_processes = max(self.most_processes, len(pids))


@contextlib.contextmanager
def _sampling(root: int) -> Iterator[_Sampler]:
    sampler = _Sampler(root)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            sampler.sample()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sampler
    finally:
        ended.set()
        thread.join()


def _parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                parents[int(name)] = int(_read_stat(int(name))[1])
    return parents


def _descendants(root: int) -> set[int]:
    """A process and everything below it."""
    parents = _parents()
    found = {root} & parents.keys()
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def _read_stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: state, parent, …; the second may hold spaces."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def _read_memory(pid: int) -> int:
    """Proportional set size; where the kernel does not tell it, the resident set size, which counts shared pages more
    than once."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0


def read_tree_seconds(root: int | None) -> float:
    """Processor time of a process, of its children that live and of those it has waited for."""
    total = 0
    for pid in _descendants(root) if root is not None else ():
        with contextlib.suppress(OSError, IndexError):
            total += sum(int(field) for field in _read_stat(pid)[11:15])
    return total / _TICKS


# -- what is on disk ---------------------------------------------------------------------------------------------------


def count_tree(path: Path) -> tuple[int, int]:
    """(files, their bytes) below a directory."""
    files = size = 0
    for directory, _, names in os.walk(path):
        for name in names:
            files += 1
            size += os.lstat(os.path.join(directory, name)).st_size
    return files, size


def empty_files(path: Path) -> None:
    """Set the space of a tree's files free and keep the files."""
    for directory, _, names in os.walk(path):
        for name in names:
            file = os.path.join(directory, name)
            if os.path.isfile(file) and not os.path.islink(file):
                os.truncate(file, 0)


def warm(path: Path) -> None:
    """Read every file once, so that all tools find the page cache warm."""
    buffer = bytearray(8 * MIB)
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError), open(os.path.join(directory, name), "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def find_differences(one: Path, other: Path, *, except_names: frozenset[str]) -> list[str]:
    """The relative paths that differ in contents, or are only in one of two directories; a few of them at most."""
    differing = _hash_tree(one, except_names).items() ^ _hash_tree(other, except_names).items()
    return sorted({path for path, _ in differing})[:10]


def _hash_tree(root: Path, except_names: frozenset[str]) -> dict[str, str]:
    import blake3

    found = {}
    for directory, directories, names in os.walk(root):
        directories[:] = [name for name in directories if name not in except_names]
        for name in set(names) - except_names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                hasher = blake3.blake3()
                while part := file.read(4 * MIB):
                    hasher.update(part)
            found[os.path.relpath(path, root)] = hasher.hexdigest()
    return found


# -- results -----------------------------------------------------------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    """What a reader must know of the machine to judge the numbers; no names."""
    with open("/proc/meminfo", encoding="ascii") as file:
        memory_kib = int(file.readline().split()[1])
    model = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    return {
        "cores": os.cpu_count(),
        "processor": model or platform.machine(),
        "memory_gib": round(memory_kib / (1 << 20)),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
    }


def median(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Field by field; memory and processes are the most ever seen."""
    rows = [asdict(one) for one in measurements]
    result = {
        name: round(statistics.median(row[name] for row in rows), 3)
        for name in ("wall_seconds", "cpu_seconds", "server_seconds")
    }
    return result | {
        "wall_best_seconds": round(min(row["wall_seconds"] for row in rows), 3),
        "memory_bytes": max(row["memory_bytes"] for row in rows),
        "processes": max(row["processes"] for row in rows),
    }


def make_ratio(results: Mapping[str, Mapping[str, float]], name: str, reference: str = "pghaven") -> str:
    """A tool's wall time as a multiple of the reference's."""
    if reference not in results:
        return ""
    return f"{results[name]['wall_seconds'] / results[reference]['wall_seconds']:.2f}"


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def save(name: str, result: Mapping[str, Any], table: str, directory: Path = RESULTS) -> None:
    """Keep a result as JSON and as a table, and show the table."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (directory / f"{name}.md").write_text(table, encoding="utf-8")
    print(f"\n{table}")


def make_temporary_file(directory: Path, text: str, name: str) -> Path:
    path = directory / name
    with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    give(path)
    return path
