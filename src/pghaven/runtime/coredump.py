"""No core dumps of a process that holds secrets.

The one idea: a limit of one byte. The kernel takes it for "none" both where a dump would be a file and where it is
piped to a program, which a limit of zero does not keep from being started (do_coredump in fs/coredump.c).
"""

from __future__ import annotations

import resource


def forbid_core_dumps() -> None:
    """For this process and what it starts. The hard limit stays: who needs dumps of a server may have them (``-c``)."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard != 0:
        resource.setrlimit(resource.RLIMIT_CORE, (1, hard))
