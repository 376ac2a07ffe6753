"""The programs that a cluster under Patroni is made of, where they are on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from pghaven.server.programs import Programs
from tests.chaos.members import Engine
from tests.support import binaries
from tests.support.commands import Unreachable, pghaven_command
from tests.support.places import is_open_to_plain

PATRONI_VARIABLE = "PGHAVEN_TEST_PATRONI"


def find_engine(major: int | None = None) -> Engine | str:
    """All of them; or why there can be no such cluster here."""
    etcd = shutil.which("etcd", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin")
    if etcd is None:
        return "there is no etcd (apt-get install etcd-server)"
    beside = Path(sys.executable).parent / "patroni"
    patroni = os.environ.get(PATRONI_VARIABLE) or (str(beside) if beside.exists() else shutil.which("patroni"))
    if patroni is None:
        return "there is no patroni (pip install 'patroni[etcd3]')"
    if not is_open_to_plain(Path(patroni)):
        return f"the servers' user cannot run {patroni}"
    programs = binaries.find_binaries(major or binaries.MAJORS[-1])
    if not isinstance(programs, Programs):
        return programs.reason
    try:
        return Engine(patroni=patroni, etcd=etcd, postgres=programs, pghaven=pghaven_command())
    except Unreachable as error:
        return f"the servers' user cannot run pghaven: {error}"
