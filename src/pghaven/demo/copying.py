"""A copy of pghaven that any user can run, made from the one that is running.

The one idea: a server's user needs the program, the few packages its WAL commands import, and an interpreter; each is
taken from where it is installed, and only the interpreter is left where it is if that is open to everybody.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import stat
import subprocess
import sys
from typing import Final

import pghaven

# What `wal push`, `wal get` and `list` import.
_PACKAGES: Final = ("backports.zstd", "blake3", "click", "cryptography", "cffi", "google-crc32c", "numpy")
_LEFT_OUT: Final = ("site-packages", "test", "idlelib", "tkinter", "ensurepip", "config-*", "tcl*", "tk*", "*.a")
_SCRIPT: Final = """#!/bin/sh
exec env {variables} {interpreter} -s -m pghaven.cli.main "$@"
"""


def copy_pghaven(directory: str) -> tuple[str, ...]:
    """Make the copy in ``directory``, which must not exist, and give the words that start it. Raises OSError."""
    packages = os.path.join(directory, "packages")
    os.makedirs(packages, 0o755)
    source = os.path.dirname(os.path.abspath(pghaven.__file__))
    shutil.copytree(source, os.path.join(packages, "pghaven"))
    for name in _PACKAGES:
        _copy_package(name, packages)
    variables = [f"PYTHONPATH={packages}", "PYTHONDONTWRITEBYTECODE=1"]
    interpreter = os.path.realpath(sys.executable)
    if not _is_open(interpreter):
        interpreter = _copy_interpreter(interpreter, os.path.join(directory, "python"))
        variables.append(f"LD_LIBRARY_PATH={os.path.dirname(os.path.dirname(interpreter))}/lib")
    script = os.path.join(directory, "run-pghaven")
    with open(script, "x", encoding="utf-8") as file:
        file.write(_SCRIPT.format(variables=shlex.join(variables), interpreter=shlex.quote(interpreter)))
    subprocess.run(["chmod", "-R", "a+rX", directory], check=True)
    return ("/bin/sh", script)


def _copy_package(name: str, target: str) -> None:
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        return  # one that this interpreter does not need
    for file in files:
        relative = str(file)
        if relative.startswith(".."):
            continue  # scripts, outside the packages
        source, copied = str(file.locate()), os.path.join(target, relative)
        if os.path.isfile(source):
            os.makedirs(os.path.dirname(copied), 0o755, exist_ok=True)
            shutil.copy(source, copied)


def _copy_interpreter(interpreter: str, target: str) -> str:
    """Interpreter and standard library, which it finds beside itself."""
    home = os.path.dirname(os.path.dirname(interpreter))
    os.makedirs(f"{target}/bin", 0o755)
    shutil.copytree(f"{home}/lib", f"{target}/lib", symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    return str(shutil.copy(interpreter, f"{target}/bin/"))


def _is_open(path: str) -> bool:
    """Whether everybody may run this file, as far as modes tell; it is tried afterwards."""
    if not os.stat(path).st_mode & stat.S_IXOTH:
        return False
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
    return True
