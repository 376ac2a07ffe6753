"""Hosts of a network that can be cut: a namespace each, joined by a bridge, with rules of nftables for the cuts.

The one idea: the bridge's own address is where tests stand. It is never cut, so what a node that is cut off from all
others says and does can be seen, as by a client in the same half of a split network.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_NUMBERS = range(1, 60)


def find_obstacle() -> str | None:
    """Why there can be no namespaces here; None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in (("ip", "iproute2"), ("nft", "nftables"), ("setpriv", "util-linux")):
        if shutil.which(program, path=_path()) is None:
            return f"there is no {program} (apt-get install {package})"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "this machine does not allow network namespaces"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def run(*words: str, check: bool = True, stdin: str | None = None) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, input=stdin, env={**os.environ, "PATH": _path()}
    )
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


@dataclass(frozen=True, kw_only=True)
class Host:
    """A namespace and its address."""

    name: str
    address: str

    def words(self, *command: str) -> list[str]:
        """A command line that runs in it."""
        return ["ip", "netns", "exec", self.name, *command]

    def list_pids(self) -> list[int]:
        return [int(pid) for pid in run("ip", "netns", "pids", self.name, check=False).split()]

    def cut(self, rules: Sequence[str]) -> None:
        """Drop what these rules of nftables match, such as "ip daddr 10.0.0.1 drop"; replaces earlier ones."""
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0; policy accept;\n"
            + "".join(f"{rule}\n" for rule in rules if (" daddr " in rule) == (hook == "output"))
            + "}\n"
            for hook in ("input", "output")
        )
        text = f"table ip chaos {{}}\ndelete table ip chaos\ntable ip chaos {{\n{chains}}}\n"
        run(*self.words("nft", "-f", "-"), stdin=text)

    def heal(self) -> None:
        run(*self.words("nft", "flush", "ruleset"))


def cut_from(others: Sequence[Host], *, tcp: str = "", incoming: bool = True, outgoing: bool = True) -> list[str]:
    """Rules for ``Host.cut``. ``tcp`` narrows them down, such as "tcp dport 5432"."""
    rules = []
    for other in others:
        rules += [f"ip saddr {other.address} {tcp} drop"] if incoming else []
        rules += [f"ip daddr {other.address} {tcp} drop"] if outgoing else []
    return rules


@contextmanager
def network(names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """Hosts by name, on a network of their own that goes with the block."""
    number, lock = _take_number()
    bridge = f"phc{number}"
    hosts = {name: Host(name=f"{bridge}-{name}", address=f"10.190.{number}.{at}") for at, name in enumerate(names, 1)}
    try:
        _remove(bridge, hosts)
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "addr", "add", f"10.190.{number}.254/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        for at, host in enumerate(hosts.values(), 1):
            run("ip", "netns", "add", host.name)
            run("ip", "link", "add", f"{bridge}v{at}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
            run("ip", "link", "set", f"{bridge}v{at}", "master", bridge, "up")
            run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            run("ip", "-n", host.name, "link", "set", "eth0", "up")
            run("ip", "-n", host.name, "link", "set", "lo", "up")
        yield hosts
    finally:
        _remove(bridge, hosts)
        os.close(lock)


def _remove(bridge: str, hosts: dict[str, Host]) -> None:
    for host in hosts.values():
        run("ip", "netns", "del", host.name, check=False)
    for at in range(1, len(hosts) + 1):  # of a run that was killed: a namespace lives as long as what ran in it
        run("ip", "link", "del", f"{bridge}v{at}", check=False)
    run("ip", "link", "del", bridge, check=False)


def _take_number() -> tuple[int, int]:
    """A number that no other run of this machine has, and what holds it."""
    for number in _NUMBERS:
        descriptor = os.open(f"/run/pghaven-chaos-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return number, descriptor
    raise RuntimeError("all networks are in use")
