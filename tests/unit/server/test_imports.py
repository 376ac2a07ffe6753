"""What can be used without a database driver."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["identity", "instance", "postmaster", "privileges", "programs"])
def test_module_does_not_load_the_driver(module: str) -> None:
    code = f"import sys, pghaven.server.{module}; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
