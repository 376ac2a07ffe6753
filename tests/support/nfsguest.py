"""What runs as the first process of a Linux in user mode: it serves NFS to itself and runs a command on that.

The one idea: a kernel of one's own has its own mounts and its own NFS, client and server, while the files of this
machine are there to read. The server's caches are filled by hand, so that none of its daemons is needed.

    python nfsguest.py MODULES WORKING_DIRECTORY COMMAND…

Prints "guest: ready" once /mnt/nfs and /mnt/other are mounted, and "guest: status N" for how the command ended.
Sources: the kernel's fs/nfsd/nfsctl.c and fs/nfsd/export.c for the files written to, its documentation, rpc-cache.rst.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
import subprocess
import sys

EXPORT = "/srv/export"
MOUNTED = "/mnt/nfs"
OTHER = "/mnt/other"  # the same, with caches of its own, as another host has them

_FINIT_MODULE = 313  # x86-64
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
_MS_BIND = 0x1000
_FOR_EVER = 2_000_000_000
_FLAGS = 0x2 | 0x20 | 0x400 | 0x2000  # insecure ports, gathered writes, no subtree check, fsid; and root is root
_NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)


def require(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: str, kind: str, options: str = "", flags: int = 0) -> None:
    os.makedirs(target, exist_ok=True)
    encoded = [text.encode() for text in (source, target, kind)]
    require(_libc.mount(*encoded, flags, options.encode()), f"mount {kind} {target}")


def write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode() + b"\n")
    finally:
        os.close(descriptor)


def load(modules: str, names: list[str]) -> None:
    """Load kernel modules with what they need."""
    directory = os.path.join(modules, platform.release())
    with open(os.path.join(directory, "modules.dep")) as file:
        needs = {name: rest.split() for name, _, rest in (line.partition(":") for line in file)}
    loaded: set[str] = set()

    def load_one(path: str) -> None:
        if path in loaded:
            return
        loaded.add(path)
        for needed in reversed(needs[path]):
            load_one(needed)
        descriptor = os.open(os.path.join(directory, path), os.O_RDONLY)
        require(_libc.syscall(_FINIT_MODULE, descriptor, b"", 0), path)
        os.close(descriptor)

    for name in names:
        load_one(next(path for path in needs if path.endswith(f"/{name}.ko")))


def prepare(kept: list[str]) -> None:
    """``kept`` are directories that must stay where they are, also below one that becomes empty and writable."""
    mount("proc", "/proc", "proc")
    mount("sys", "/sys", "sysfs")
    held = [(path, os.open(path, os.O_PATH)) for path in kept]
    for directory in ("/tmp", "/run", "/mnt", "/srv", "/var/tmp", "/var/lib", "/dev/shm"):
        mount("tmpfs", directory, "tmpfs")
    for path, descriptor in held:
        if not os.path.exists(path):
            mount(f"/proc/self/fd/{descriptor}", path, "none", flags=_MS_BIND)
        os.close(descriptor)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP | _IFF_RUNNING))


def serve() -> socket.socket:
    """Export a file system in memory by NFS 4, to this machine only."""
    mount("export", EXPORT, "tmpfs")
    os.makedirs("/var/lib/nfs/v4recovery")
    mount("nfsd", "/proc/fs/nfsd", "nfsd")
    write("/proc/net/rpc/auth.unix.ip/channel", f"nfsd 127.0.0.1 {_FOR_EVER} 127.0.0.1")
    write("/proc/net/rpc/nfsd.export/channel", f"127.0.0.1 {EXPORT} {_FOR_EVER} {_FLAGS} {_NOBODY} {_NOBODY} 0")
    write("/proc/net/rpc/nfsd.fh/channel", f"127.0.0.1 1 \\x00000000 {_FOR_EVER} {EXPORT}")
    write("/proc/fs/nfsd/versions", "-3 +4 +4.1 +4.2")
    listener = socket.create_server(("127.0.0.1", 2049))
    write("/proc/fs/nfsd/portlist", str(listener.fileno()))
    write("/proc/fs/nfsd/threads", "4")
    write("/proc/fs/nfsd/v4_end_grace", "Y")
    return listener


def main() -> None:
    modules, directory, *command = sys.argv[1:]
    try:
        prepare([directory, sys.prefix])
        load(modules, ["nfsd", "nfsv4"])
        listener = serve()
        options = "addr=127.0.0.1,vers=4.2,clientaddr=127.0.0.1"
        mount("127.0.0.1:/", MOUNTED, "nfs4", options)
        mount("127.0.0.1:/", OTHER, "nfs4", f"{options},nosharecache")
        print("guest: ready", flush=True)
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp", "NO_COLOR": "1"}
        ended = subprocess.run(command, cwd=directory, env=environment)
        print(f"guest: status {ended.returncode}", flush=True)
        listener.close()
    finally:
        sys.stdout.flush()
        write("/proc/sysrq-trigger", "o")
        os.read(0, 1)  # until the machine is off; the end of the first process would be a panic


if __name__ == "__main__":
    main()
