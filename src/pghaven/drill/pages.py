"""The checksums of a stopped copy's pages, each read from its disk."""

from __future__ import annotations

import os
from typing import Final

from pghaven.drill.server import DrillServer
from pghaven.errors import NotFound
from pghaven.proof.results import CheckResult, fail, good, skip
from pghaven.runtime.durable import OwnerOf
from pghaven.runtime.processes import run_program
from pghaven.server.scratch import ScratchPlace

PAGES: Final = "pages"
_TOLD = 5
_SECONDS_MAX = 7 * 86400.0


def check_pages(server: DrillServer, place: ScratchPlace) -> CheckResult:
    """Have ``pg_checksums`` read every page. The server has been shut down."""
    if not server.control.has_data_checksums:
        return skip(PAGES, "the cluster has no data checksums")
    try:
        program = server.programs.path("pg_checksums")
    except NotFound as error:
        return fail(PAGES, f"cannot be told: {error.message}", f"{error.hint} Or leave it out: --skip {PAGES}")
    user = place.user
    done = run_program(
        [program, "--check", "-D", server.data_directory],
        timeout_seconds=_SECONDS_MAX,
        environment={"LC_ALL": "C", "PATH": os.environ.get("PATH", "")},
        directory="/",
        run_as=None if user is None else OwnerOf(uid=user.uid, gid=user.gid),
    )
    said = done.stdout.decode(errors="replace")
    counted = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    if done.status == 0:
        return good(PAGES, f"the checksums of all {int(counted['Blocks scanned']):,} pages are right (pg_checksums)")
    lines = [line.split("error: ", 1)[-1].strip() for line in done.complaint.splitlines()]
    more = f"; and {len(lines) - _TOLD} more" if len(lines) > _TOLD else ""
    return fail(PAGES, f"{'; '.join(lines[:_TOLD])}{more}")
