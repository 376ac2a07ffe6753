"""Objects that no restore of pghaven reads: turns of collecting, horizons that were passed, incidents, audits, markers,
outlines, results of verifications and drills, records of kept snapshots, second copies of keys, the kit.

The one idea: nothing is lost with one of them today, but who needs it needs it on a bad day; so each is read and proven
like everything else, and what is not as it was stored is told by its name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

from pghaven.proof.findings import Finding, info, warning
from pghaven.repository import layout
from pghaven.repository.packcheck import try_read
from pghaven.repository.repository import Repository, open_keys
from pghaven.repository.rescuekit import find_kit_flaws
from pghaven.repository.turns import find_unfinished

# What it means that one of them is damaged, by the folder of the cluster that it lies in.
_MEANINGS = {
    "collections": "who collects next does without it",
    "horizons": "a newer one is in force",
    "incidents": "status does not show what it tells of",
    "audits": "an older audit counts, or none",
    "markers": "no drill can compare a copy with it",
    "outlines": "listing backups takes more requests, until the next backup writes another",
    "evidence": "nobody knows any more what it told; verify and drill tell anew",
    "snapshots": "the kept snapshot that it tells of cannot be used",
}
_KEYS_MEANING = "the other copy of the keys is read; pghaven repo key rotate writes both anew"
_KIT_MEANING = (
    "who has nothing but this repository is left without the program or its page; remove both, and the next backup "
    "writes them anew"
)


def judge_rest(repository: Repository, cluster: str, told: Collection[str] = ()) -> tuple[int, list[Finding]]:
    """How many documents were read, and what is wrong with them, with the keys and with the rescue kit; but for those
    that were ``told`` of. Raises StoreUnreachable."""
    found: list[Finding] = []
    names: dict[str, list[str]] = {
        folder: [one.name for one in repository.store.list(f"{layout.cluster_prefix(cluster)}{folder}/")]
        for folder in _MEANINGS
    }
    names["horizons"] = list(_pass_over_last(names["horizons"]))
    for folder, meaning in _MEANINGS.items():
        for name in names[folder]:
            if name not in told and (flaw := find_flaw(repository, name)) is not None:
                found.append(warning(name, flaw, meaning))
    found += _judge_turns(repository, cluster, names["collections"])
    found += [warning(name, flaw, _KIT_MEANING) for name, flaw in find_kit_flaws(repository).items()]
    found += _judge_keys(repository)
    return sum(map(len, names.values())), found


def find_flaw(repository: Repository, name: str) -> str | None:
    """What is wrong with a document that was listed; None also when it was removed since."""
    flaw = try_read(repository.store, lambda: repository.read_document(name))
    return flaw if isinstance(flaw, str) and repository.store.find(name) is not None else None


def _pass_over_last(names: list[str]) -> Iterator[str]:
    """Of each folder all but the last: that one is in force, and read by who judges the WAL."""
    folders: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        folders[name.rpartition("/")[0]].append(name)
    for passed in folders.values():
        yield from passed[:-1]


def _judge_keys(repository: Repository) -> Iterator[Finding]:
    """The two copies of the key set in force; that one of them opens is known by now."""
    if not repository.descriptor.is_sealed:
        return
    keys = open_keys(repository.store, clock=repository.clock)
    for number in keys.list_numbers()[-1:]:
        for name, reason in keys.find_flaws(number).items():
            yield warning(name, reason, _KEYS_MEANING)


def _judge_turns(repository: Repository, cluster: str, names: list[str]) -> Iterator[Finding]:
    """The last turn: earlier ones are being removed, their intents first."""
    prefix = layout.collections_prefix(cluster)
    parts: dict[str, set[str]] = defaultdict(set)
    for name in names:
        number, _, part = name.removeprefix(prefix).partition("/")
        parts[number].add(part)
    if not parts:
        return
    last = max(parts)
    if "intent" not in parts[last]:
        yield warning(f"{prefix}{last}/intent", "it is missing", _MEANINGS["collections"])
    elif "decision" not in parts[last] and find_unfinished(repository, cluster) is not None:
        yield info(f"{prefix}{last}/decision", "a collection was begun and not ended; the next one begins anew")
