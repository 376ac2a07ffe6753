"""What else belongs to the parts of a dump that are to be loaded.

The one idea: for a table pg_restore takes its columns and rows alone, and for a schema what is in it alone; whoever
wants one back wants it as it was: with its keys, indexes, defaults, sequences and triggers, in a schema that is there.
What belongs to what stands in the archive's table of contents. What would refer to something that is neither loaded nor
there is left out, and told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

from pghaven.dump.archive import ArchiveEntry
from pghaven.server.connection import Connection, server_errors

_RELATIONS = frozenset(("TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"))
_ROUTINES = frozenset(("FUNCTION", "PROCEDURE", "AGGREGATE"))
_NAMED_AFTER_TABLE = frozenset(
    ("DEFAULT", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "TRIGGER", "RULE", "POLICY", "ROW SECURITY")
)
_OF_TABLE = frozenset(("INDEX", "STATISTICS", "SEQUENCE"))
_OF_ALL_IT_NEEDS = frozenset(
    ("SEQUENCE SET", "SEQUENCE OWNED BY", "COMMENT", "ACL", "SECURITY LABEL", "STATISTICS DATA", "INDEX ATTACH")
)
_CHOOSING_OPTIONS = ("-I", "--index", "-P", "--function", "-T", "--trigger", "-L", "--use-list")


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What the database has already: schemas, and relations and routines by schema and name."""

    schemas: Set[str] = frozenset()
    relations: Set[tuple[str, str]] = frozenset()
    routines: Set[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The numbers of all the entries to load, and what is left out and why, in words."""

    numbers: Set[int]
    left_out: tuple[str, ...] = ()


def is_completed(options: Sequence[str]) -> bool:
    """Whether what is chosen with these options of pg_restore is completed: not where they choose by themselves."""
    return not any(option.startswith(_CHOOSING_OPTIONS) for option in options)


def look_at(connection: Connection) -> Present:
    """What is in the database of this connection."""
    with server_errors(connection, "look at the database"):
        schemas = connection.execute("SELECT nspname::text FROM pg_namespace").fetchall()
        relations = connection.execute(
            "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        ).fetchall()
        routines = connection.execute(
            "SELECT n.nspname::text, p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        ).fetchall()
    return Present(
        schemas={str(name) for (name,) in schemas},
        relations={(str(schema), str(name)) for schema, name in relations},
        routines={(str(schema), str(name)) for schema, name in routines},
    )


def find_undumped_schemas(entries: Sequence[ArchiveEntry], chosen: Set[int]) -> Set[str]:
    """The schemas of what is chosen that the dump itself cannot make."""
    made = {one.tag for one in entries if one.description == "SCHEMA"}
    return {one.namespace for one in entries if one.namespace and one.dump_id in chosen} - made


def complete_parts(entries: Sequence[ArchiveEntry], chosen: Set[int], present: Present, *, of_tables: bool) -> Parts:
    """What pg_restore has ``chosen``, with what belongs to it; ``of_tables``: tables were chosen, and not whole
    schemas, which are complete in themselves."""
    completion = _Completion({one.dump_id: one for one in entries}, set(chosen), present)
    completion.add_schemas()
    if of_tables:
        completion.add_belongings()
    return Parts(numbers=completion.chosen, left_out=tuple(completion.left_out.values()))


@dataclass(slots=True)
class _Completion:
    entries: dict[int, ArchiveEntry]
    chosen: set[int]
    present: Present
    left_out: dict[int, str] = field(default_factory=dict)

    def add_schemas(self) -> None:
        """Those in which something is made and which are not there, with their grants and comments."""
        needed = {self.entries[number].namespace for number in self.chosen if number in self.entries}
        made = set()
        for one in self.entries.values():
            if one.description == "SCHEMA" and one.tag in needed - self.present.schemas:
                made.add(one.dump_id)
        described = {one.dump_id for one in self.entries.values() if one.needs and {*one.needs} <= made}
        kinds = ("ACL", "COMMENT", "SECURITY LABEL")
        self.chosen |= made | {number for number in described if self.entries[number].description in kinds}

    def add_belongings(self) -> None:
        """Again and again, since what belongs to a table has what belongs to it in turn."""
        while found := set(self._iter_belongings()):
            self.chosen |= found

    def _iter_belongings(self) -> Iterator[int]:
        for number, one in self.entries.items():
            if number in self.chosen or number in self.left_out or not self._belongs(one):
                continue
            lacking = next((need for need in one.needs if self._is_lacking(one, need)), None)
            if lacking is None:
                yield number
            elif one.description != "INDEX ATTACH":
                needed = self.entries[lacking]
                self.left_out[number] = (
                    f"{one.description} {_name(one)} is left out: {needed.description} {_name(needed)} is not "
                    f"{'loaded with it' if one.description == 'TABLE ATTACH' else 'there'}"
                )

    def _belongs(self, one: ArchiveEntry) -> bool:
        if one.description in _OF_ALL_IT_NEEDS:
            return bool(one.needs) and {*one.needs} <= self.chosen
        relations = [self.entries[need] for need in one.needs if need in self.entries]
        relations = [needed for needed in relations if needed.description in _RELATIONS]
        if one.description in _NAMED_AFTER_TABLE:
            # The name of its table stands before its own, and may be the beginning of another table's.
            owners = [
                needed
                for needed in relations
                if needed.namespace == one.namespace and f"{one.tag} ".startswith(f"{needed.tag} ")
            ]
            return bool(owners) and max(owners, key=lambda owner: len(owner.tag)).dump_id in self.chosen
        if one.description == "TABLE ATTACH":
            relations = [child for child in relations if (child.namespace, child.tag) == (one.namespace, one.tag)]
        elif one.description not in _OF_TABLE:
            return False
        return any(needed.dump_id in self.chosen for needed in relations)

    def _is_lacking(self, one: ArchiveEntry, need: int) -> bool:
        """Whether something that an entry needs will be missing; what is not looked for is taken to be there. A
        sequence of the table itself comes with the table."""
        if need in self.chosen or need not in self.entries:
            return False
        needed = self.entries[need]
        if needed.description in _RELATIONS:
            if needed.description == "SEQUENCE" and self._belongs(needed):
                return False
            is_there = (needed.namespace, needed.tag) in self.present.relations
            return not is_there or one.description == "TABLE ATTACH"
        if needed.description in _ROUTINES:
            return (needed.namespace, needed.tag.partition("(")[0]) not in self.present.routines
        return False


def _name(one: ArchiveEntry) -> str:
    return f"{one.namespace}.{one.tag}" if one.namespace else one.tag
