"""Names of relation files: which relation, which fork, which gigabyte of it.

The one idea: a file belongs to a relation if and only if its name has exactly the form the server gives it, so that a
stray ``16384.bak`` is never taken for pages. Sources: parse_filename_for_nontemp_relation (reinit.c),
looks_like_temp_rel_name (fd.c).
"""

from __future__ import annotations

import re
from enum import StrEnum

from pghaven.light import dataclass, pattern

_NUMBER_MAX = (1 << 32) - 1
_FORKS = "_(?P<fork>fsm|vm|init)"
_RELATION = pattern(rf"(?P<node>[1-9][0-9]{{0,9}})(?:{_FORKS})?(?:\.(?P<segment>[1-9][0-9]{{0,9}}))?", re.ASCII)
_TEMPORARY = pattern(rf"t[0-9]+_[0-9]+(?:{_FORKS})?(?:\.[0-9]+)?", re.ASCII)


class Fork(StrEnum):
    """A relation's forks; the values are the suffixes in file names (forkNames, relpath.c)."""

    MAIN = "main"
    FSM = "fsm"
    VM = "vm"
    INIT = "init"


_FORK_OF = {None: Fork.MAIN, "fsm": Fork.FSM, "vm": Fork.VM, "init": Fork.INIT}


@dataclass(frozen=True, slots=True, kw_only=True)
class RelFile:
    """One file of a permanent or unlogged relation. ``segment`` counts from 0, which has no suffix."""

    relfilenode: int
    fork: Fork
    segment: int

    def first_block(self, segment_blocks: int) -> int:
        """The number, within its fork, of this file's first block."""
        return self.segment * segment_blocks

    def __str__(self) -> str:
        fork = "" if self.fork is Fork.MAIN else f"_{self.fork}"
        return f"{self.relfilenode}{fork}" + (f".{self.segment}" if self.segment else "")


def parse_relfile(name: str) -> RelFile | None:
    """What the base name of a file in a database's directory stands for; None if not a relation's, or a temporary's."""
    match = _RELATION.fullmatch(name)
    if match is None:
        return None
    node, fork, part = match.groups()
    relfilenode, segment = int(node), int(part or 0)
    if relfilenode > _NUMBER_MAX or segment > _NUMBER_MAX:
        return None
    return RelFile(relfilenode=relfilenode, fork=_FORK_OF[fork], segment=segment)


def is_temporary(name: str) -> bool:
    """Whether this is a file of some session's temporary relation, such as ``t3_16384_fsm.1``."""
    return name.startswith("t") and _TEMPORARY.fullmatch(name) is not None
