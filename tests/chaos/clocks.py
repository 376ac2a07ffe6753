"""A node's wall clock that can be set while everything runs on it: a library that is preloaded into its programs.

The one idea: a namespace's clock cannot be changed and the machine's is not the tests' to change, but programs ask the
C library, and that can be told another time. What measures periods by the monotonic clock goes on undisturbed, as on a
host whose clock is stepped. (libfaketime 0.9.10 breaks Python's ``time.sleep``, and leaves semaphores behind.)
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.places import lock, programs_directory

HOUR = 3600
_SOURCE = Path(__file__).with_name("clock.c")


def find_obstacle() -> str | None:
    """Why no clock can be set here; None if it can."""
    if shutil.which("cc") is None:
        return "there is no C compiler for the clocks' library (apt-get install gcc libc6-dev)"
    try:
        _build()
    except subprocess.CalledProcessError as error:
        return f"the clocks' library cannot be built: {error.stderr.strip().splitlines()[0]}"
    return None


def _build() -> Path:
    library = programs_directory() / "clock.so"
    with lock("clock"):
        if not library.exists():
            words = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library.with_suffix(".new")), str(_SOURCE)]
            subprocess.run(words, check=True, capture_output=True, text=True)
            library.with_suffix(".new").rename(library)
    return library


def render_environment(file: Path) -> Mapping[str, str]:
    """For programs whose wall clock is off by what ``file`` says; it must have been set once before they start."""
    return {"LD_PRELOAD": str(_build()), "PGHAVEN_CHAOS_CLOCK": str(file)}


def set_offset(file: Path, seconds: int) -> None:
    """For all programs at once: the file is written in place."""
    content = seconds.to_bytes(8, "little", signed=True)
    if not file.exists():
        file.write_bytes(content)
        file.chmod(0o644)
        return
    with file.open("r+b", buffering=0) as opened:
        opened.write(content)
