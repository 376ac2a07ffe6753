"""What a server must have for the entries of a dump that are loaded into it: roles, tablespaces, extensions.

The one idea: a table of contents says of each entry who owns it and where it lies, and names roles in a few kinds of
statements, always after the same words; so what a part of a dump needs is known without loading it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from pghaven.dump.archive import ArchiveEntry

# Words of pg_dump's statements after which roles stand, by what they are about (dumputils.c, dumpPolicy and
# dumpUserMappings in pg_dump.c). A name that is one of these words is quoted, but "role", which only follows "FOR".
_GRANT_WORDS = frozenset((("TO",), ("FROM",), ("AUTHORIZATION",), ("FOR", "ROLE")))
_BEFORE_ROLES = {
    "ACL": _GRANT_WORDS,
    "DEFAULT ACL": _GRANT_WORDS,
    "DATABASE PROPERTIES": frozenset((("ALTER", "ROLE"),)),
    "POLICY": frozenset((("TO",),)),
    "USER MAPPING": frozenset((("FOR",),)),
}
_AFTER_ROLES = {"POLICY": frozenset(("USING", "WITH")), "USER MAPPING": frozenset(("SERVER",))}
_TOKEN = re.compile(r"""("(?:[^"]|"")*")|('(?:[^']|'')*')|([\w$]+)|(\S)""")
_OPTIONS_WITHOUT_OWNERS = frozenset(("--no-owner", "-O"))
_OPTION_AS_OWNERS = "--use-set-session-authorization"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Names of what must be there; of extensions, on the server: the load makes them in the database."""

    roles: Set[str] = frozenset()
    tablespaces: Set[str] = frozenset()
    extensions: Set[str] = frozenset()


def find_needs(entries: Sequence[ArchiveEntry], chosen: Set[int], options: Sequence[str]) -> Needs:
    """What the ``chosen`` entries need, which are those that pg_restore lists with these ``options``: without grants
    where it is told so."""
    loaded = [one for one in entries if one.dump_id in chosen]
    roles = {name for one in loaded for name in _iter_roles(one)}
    if not _OPTIONS_WITHOUT_OWNERS & {*options}:
        roles |= {one.owner for one in loaded if one.is_owned or _OPTION_AS_OWNERS in options}
    tablespaces = {one.tablespace for one in loaded} if "--no-tablespaces" not in options else set()
    return Needs(
        roles={name for name in roles if _is_known(name)},
        tablespaces={name for name in tablespaces if _is_known(name)},
        extensions={one.tag for one in loaded if one.description == "EXTENSION"},
    )


def find_extensions(entries: Sequence[ArchiveEntry], chosen: Set[int], present: Set[str]) -> Set[int]:
    """The entries of extensions that the ``chosen`` ones need, and that are not among those that are ``present``."""
    extensions = {one.dump_id for one in entries if one.description == "EXTENSION" and one.tag not in present}
    return {number for one in entries if one.dump_id in chosen for number in one.needs if number in extensions}


def _is_known(name: str) -> bool:
    """Whether it is a name that was read as it is: in a database without an encoding nobody says what bytes mean."""
    return bool(name) and "\ufffd" not in name


def _iter_roles(entry: ArchiveEntry) -> Iterator[str]:
    """The roles that its statements name."""
    words = _BEFORE_ROLES.get(entry.description, frozenset())
    ends = _AFTER_ROLES.get(entry.description, frozenset())
    before: tuple[str, ...] = ()
    is_named = False
    for match in _TOKEN.finditer(entry.definition) if words else ():
        quoted, _, word, other = match.groups()
        if is_named and (quoted or word):
            name = quoted[1:-1].replace('""', '"') if quoted else word
            if name.casefold() != "public":
                yield name
            is_named = False
        elif other == "," and before == ("NAME",):
            is_named = True
            continue
        elif word in ends:
            return
        else:
            before = (*before[-1:], word) if word else ()
            is_named = before in words or before[-1:] in words
            continue
        before = ("NAME",)
