"""A systemd of its own, as process 1 of private namespaces, to run units as an installed host would.

The one idea: everything it sees is the machine's own through an overlay in memory, with own /run, /dev and cgroup
hierarchy and no network; so it can change nothing here, and ends whole with its first process. It starts nothing but
what it is asked for: the targets that a boot would pull in are put in the place of the distribution's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import PATIENCE_SECONDS, wait_until

_INIT = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if os.path.exists(path)), None)
_UNSHARE = ("unshare", "--pid", "--mount", "--fork", "--kill-child=KILL", "--uts", "--ipc", "--net", "--cgroup")
# A boot of a whole distribution would start all that is installed on it.
_TARGETS = {
    "sysinit.target": "[Unit]\nDefaultDependencies=no\nWants=systemd-journald.service\n",
    "basic.target": "[Unit]\nDefaultDependencies=no\nRequires=sysinit.target\nAfter=sysinit.target\n",
    "tests.target": "[Unit]\nRequires=basic.target\nAfter=basic.target\n",
}
_SETUP = r"""
set -e
place=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$place/upper",workdir="$place/work" "$place/root"
root=$place/root
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
  touch "$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
if [ "$UNIFIED" ]; then
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
  mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
  mkdir "$root/sys/fs/cgroup/systemd"
  mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
fi
for path in "$@"; do mkdir -p "$root$path"; mount --rbind "$path" "$root$path"; done
rm -rf "$root"/etc/systemd/system/*.wants
cp "$UNITS"/* "$root/etc/systemd/system/"
export container=pghaven-tests
cd "$root"
exec chroot "$root" "$INIT" --system --unit=tests.target --show-status=false --log-target=journal
"""


# The same kinds of mounts as below, in a mount namespace that is gone with its shell.
_TRIAL = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
mount -t proc proc /mnt/root/proc
mount -t sysfs -o ro sysfs /mnt/root/sys
[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup -o none,name=systemd cgroup /mnt/work
"""


def find_obstacle() -> str | None:
    """Why no systemd can be run here; None where one can."""
    if os.geteuid() != 0:
        return "only root can make namespaces for a systemd"
    if _INIT is None:
        return "there is no systemd"
    for program in ("unshare", "nsenter", "systemctl", "journalctl"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    tried = subprocess.run([*_UNSHARE, "/bin/sh", "-c", _TRIAL], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"this kernel makes no place for it: {tried.stderr.strip()}"


class Booted:
    """A running one."""

    def __init__(self, init: int) -> None:
        self._init = init

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ("nsenter", "--target", str(self._init), "--all", "--root", "--wd", *words)
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def control(self, *words: str) -> str:
        """``systemctl``; what it says. It must succeed."""
        done = self.run("systemctl", "--no-pager", *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr, self.run("journalctl", "--no-pager").stdout)
        return done.stdout

    def show(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit."""
        found = dict(line.partition("=")[::2] for line in self.control("show", unit).splitlines())
        return [found[name] for name in names]

    def read_journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit).stdout


@contextmanager
def booted(place: Path, units: Mapping[str, str], seen: Sequence[Path]) -> Iterator[Booted]:
    """One that has these units below /etc/systemd/system. ``place`` is an empty directory; the directories ``seen`` are
    there as they are here, and what is written into them stays."""
    assert _INIT is not None
    mounted, files = place / "mounted", place / "units"
    mounted.mkdir()
    files.mkdir()
    for name, text in {**_TARGETS, **units}.items():
        (files / name).write_text(text)
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [*_UNSHARE, "/bin/bash", "-c", _SETUP, "boot", str(mounted), *map(str, seen)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "UNITS": str(files), "INIT": _INIT, "UNIFIED": "1" if unified else ""},
        )
    try:
        yield Booted(_await_boot(process, place / "log"))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)


def _await_boot(process: subprocess.Popen[bytes], log: Path) -> int:
    def find() -> int | None:
        assert process.poll() is None, log.read_text()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n":
            init = int(children[0])
            state = Booted(init).run("systemctl", "is-active", "tests.target").stdout
            return init if state == "active\n" else None
        return None

    init = wait_until(find, "systemd to be up")
    assert init is not None
    return init
