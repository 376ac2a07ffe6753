"""What is told to a service manager, heard at the other end."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pghaven.agent.notify import notify


@pytest.mark.parametrize("is_abstract", [False, True])
def test_lines_arrive_as_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool) -> None:
    name = f"pghaven-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if is_abstract else str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if is_abstract else str(tmp_path / "n"))
        notify("READY=1", "STATUS=well")
        assert manager.recv(100) == b"READY=1\nSTATUS=well"


def test_without_a_manager_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("", "relative", str(tmp_path / "gone")):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")
