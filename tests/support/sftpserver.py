"""A real ``sshd`` on loopback with a host key, a user's key and a directory of its own.

The one idea: it runs as the plain user, whose account it logs into; nothing of this machine's ssh configuration counts,
for the server or for the client.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pghaven.server.identity import child_identity
from pghaven.store.sftp import SftpStore
from pghaven.store.sftpaddress import SftpAddress, SshSettings
from tests.support.places import make_directory, own, plain_user, remove_directory
from tests.support.waiting import wait_until

SFTP_SERVER = "/usr/lib/openssh/sftp-server"

_SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
_SSH = shutil.which("ssh")
# A test run that is killed leaves no server behind.
_ENDING_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


@dataclass
class SftpServer:
    """``place`` holds keys, configuration and log; ``directory`` is for repositories."""

    place: Path
    port: int
    subsystem: str = "internal-sftp"
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def directory(self) -> Path:
        return self.place / "data"

    @property
    def known_hosts(self) -> Path:
        return self.place / "known_hosts"

    @property
    def identity(self) -> Path:
        return self.place / "user_key"

    @property
    def ssh(self) -> SshSettings:
        return SshSettings(
            host="127.0.0.1",
            user=plain_user().name,
            port=self.port,
            identity_file=str(self.identity),
            known_hosts_file=str(self.known_hosts),
            config_file="/dev/null",
        )

    def url(self, directory: Path) -> str:
        return f"sftp://{plain_user().name}@127.0.0.1:{self.port}{directory}"

    def address(self, directory: Path, **changes: object) -> SftpAddress:
        ssh = replace(self.ssh, **changes)  # type: ignore[arg-type]
        return SftpAddress(url=self.url(directory), root=os.fsencode(directory), ssh=ssh)

    def open_store(self, directory: Path, **changes: object) -> SftpStore:
        """A store in a directory, with other settings than the usual ones where given."""
        return SftpStore.open(self.address(directory, **changes))

    def make_directory(self) -> Path:
        """A new directory for one repository."""
        path = Path(tempfile.mkdtemp(dir=self.directory))
        own(path)
        return path

    @property
    def log(self) -> str:
        return (self.place / "log").read_text(errors="replace")

    def know(self, port: int) -> None:
        """Make the host key known at another port too, as for something that stands in front of this."""
        host_key = (self.place / "host_key.pub").read_text()
        with open(self.known_hosts, "a") as file:
            file.write(f"[127.0.0.1]:{port} {host_key}")

    def start(self) -> None:
        with open(self.place / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*_ENDING_WITH_US, _SSHD or "sshd", "-D", "-e", "-f", str(self.place / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **child_identity(plain_user()),
            )
        wait_until(self._answers, f"sshd on port {self.port}; it said: {self.log}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
        return False

    def stop(self) -> None:
        """End it and every session it has."""
        if self._process is not None:
            for pid in [*self.list_sessions(), self._process.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def list_sessions(self) -> list[int]:
        """The processes that serve connections, those first that speak SFTP."""
        assert self._process is not None
        return [*reversed(_list_descendants(self._process.pid))]

    def end_sessions(self) -> None:
        """End all connections as a crash would; new ones are served."""
        for pid in self.list_sessions():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _list_descendants(pid: int) -> list[int]:
    with suppress(OSError):
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [found for child in children for found in (child, *_list_descendants(child))]
    return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def prepare_server(place: Path, subsystem: str = "internal-sftp") -> SftpServer:
    """Keys and configuration of a server that is not running yet. Skips where there is no OpenSSH.

    A ``subsystem`` of one word is a script in the server's place.
    """
    for program, name in ((_SSHD, "openssh-server"), (_SSH, "openssh-client")):
        if program is None:
            pytest.skip(f"there is no {name}; as root: apt-get install {name}")
    server = SftpServer(place=place, port=_free_port(), subsystem=subsystem)
    server.directory.mkdir()
    for key in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(place / key)]
        subprocess.run(command, check=True)
    host_key = (place / "host_key.pub").read_text()
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {host_key}")
    lines = [
        f"Port {server.port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {place / 'host_key'}",
        f"AuthorizedKeysFile {place / 'user_key.pub'}",
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "MaxStartups 100",
        "KexAlgorithms curve25519-sha256",  # in a quarter of the time that the default takes
        f"Subsystem sftp {place / subsystem if subsystem.isalpha() else subsystem}",
    ]
    (place / "sshd_config").write_text("\n".join(lines) + "\n")
    for path in place.iterdir():
        own(path)
    return server


@contextmanager
def running_server(subsystem: str = "internal-sftp") -> Iterator[SftpServer]:
    """A server that is ended, and its files removed, with the block."""
    place = make_directory()
    try:
        server = prepare_server(place, subsystem)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        remove_directory(place)
