"""Where the rules of finding changes have their tests; no server is needed for these.

The one idea: a rule is tested where the module is that keeps it, and where it is at work; no other test need be run to
know that none but its own fail without it.
"""

from __future__ import annotations

from typing import Final

_BACKUP: Final = "tests/unit/backup/test_"
_TESTS: Final = {
    "pghaven.backup.changes": (f"{_BACKUP}changes.py", f"{_BACKUP}parentpages.py"),
    "pghaven.backup.collect": (f"{_BACKUP}parentpages.py",),
    "pghaven.backup.checks": (f"{_BACKUP}origin.py",),
    "pghaven.backup.damage": (f"{_BACKUP}pagecheck.py",),
    "pghaven.backup.origin": (f"{_BACKUP}origin.py",),
    "pghaven.backup.pagecheck": (f"{_BACKUP}pagecheck.py",),
    "pghaven.backup.parent": (f"{_BACKUP}parent.py", f"{_BACKUP}origin.py"),
    "pghaven.backup.parentpages": (f"{_BACKUP}parentpages.py",),
    "pghaven.backup.pipeline": (f"{_BACKUP}changes.py", f"{_BACKUP}pagecheck.py", f"{_BACKUP}parentpages.py"),
    "pghaven.backup.untouched": (f"{_BACKUP}untouched.py", f"{_BACKUP}origin.py"),
    "pghaven.backup.waldip": (f"{_BACKUP}waldip.py", f"{_BACKUP}origin.py"),
    "pghaven.server.changed": (f"{_BACKUP}changes.py", "tests/unit/server/test_changed.py"),
    "pghaven.postgres.page": (f"{_BACKUP}changes.py", "tests/unit/postgres/test_page.py"),
    "pghaven.server.summaries": ("tests/unit/server/test_summaries.py",),
}

PASSED_OVER: Final = ("hash_of_contents_is_of_all_of_them", "many_blocks_of_many_relations", "one_wrong_bit_anywhere")
"""Parts of the names of tests that take longer than all others together."""


def find_tests(module: str) -> tuple[str, ...]:
    """The test modules for a module of the source."""
    return _TESTS[module]
