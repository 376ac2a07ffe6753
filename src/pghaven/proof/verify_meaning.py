"""What damage to packs means: which backups, which of their files, which tables.

The one idea: only when something is damaged are the manifests asked, one after another, who needs those bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pghaven.backup.damage import RelationKey, relation_key
from pghaven.postgres.datadir import has_page_checksums
from pghaven.proof.findings import Finding, Gravity, list_labels, warning
from pghaven.repository.codec import Buffer
from pghaven.repository.manifest import Manifest
from pghaven.repository.manifest_columns import iter_lines
from pghaven.repository.pack import PackRef
from pghaven.repository.packcheck import PackFlaw

# So many files are named for each pack; the others are counted.
_FILES_NAMED = 10


@dataclass(slots=True)
class _Hit:
    """Who needs the lost bytes of one pack."""

    labels: list[str] = field(default_factory=list)
    files: dict[str, None] = field(default_factory=dict)  # in order, each once
    file_count: int = 0


def judge_packs(
    flaws: Mapping[PackRef, Sequence[PackFlaw]],
    users: Mapping[PackRef, Sequence[str]],
    load_manifest: Callable[[str], Manifest | str],
    name_of: Callable[[PackRef], str],
) -> list[Finding]:
    """A finding for each damaged pack. ``users`` are the labels whose manifests list it."""
    hits = {ref: _Hit() for ref in flaws}
    for label in dict.fromkeys(label for ref in flaws for label in users[ref]):
        manifest = load_manifest(label)
        if isinstance(manifest, str):  # it went meanwhile
            continue
        mine = {ref: flaws[ref] for ref in flaws if label in users[ref]}
        names = _RelationNames(manifest)
        for ref, files in find_hit_files(manifest, mine).items():
            hit = hits[ref]
            hit.labels.append(label)
            hit.file_count += len(files)
            for number in files[:_FILES_NAMED]:
                if len(hit.files) < _FILES_NAMED:
                    hit.files[names.describe(number)] = None
    return [_render(name_of(ref), flaws[ref], hits[ref], users[ref]) for ref in flaws]


def _render(name: str, flaws: Sequence[PackFlaw], hit: _Hit, users: Sequence[str]) -> Finding:
    reason = flaws[0].reason if len(flaws) == 1 else f"{flaws[0].reason} (and {len(flaws) - 1} more)"
    labels = tuple(hit.labels)
    if labels:
        what = "1 file" if hit.file_count == 1 else f"{hit.file_count} files"
        return Finding(
            gravity=Gravity.DAMAGE,
            object=name,
            reason=reason,
            meaning=f"{list_labels(labels)} cannot be restored: {what} {'is' if hit.file_count == 1 else 'are'} hit",
            backups=labels,
            files=tuple(hit.files),
            file_count=hit.file_count,
        )
    if all(flaw.start == flaw.end for flaw in flaws):
        meaning = f"{list_labels(tuple(users))} can be restored, but not over an existing directory"
        return Finding(gravity=Gravity.DAMAGE, object=name, reason=reason, meaning=meaning)
    return warning(name, reason, "no backup needs these bytes of it any more")


def find_hit_files(manifest: Manifest, flaws: Mapping[PackRef, Sequence[PackFlaw]]) -> dict[PackRef, list[int]]:
    """For each of these packs the numbers of the files with a run in what is lost, if there are any."""
    block_map = manifest.block_map
    place = {number: ref for number, ref in enumerate(manifest.packs) if ref in flaws}
    candidates = np.flatnonzero(np.isin(block_map.pack, np.array(list(place), np.uint32)))
    pack, offset = block_map.pack[candidates], block_map.offset[candidates]
    end = offset + block_map.length[candidates]
    file_of_run = np.repeat(np.arange(len(block_map.runs_of_file)), block_map.runs_of_file)
    found: dict[PackRef, list[int]] = {}
    for number, ref in place.items():
        is_hit = np.zeros(len(candidates), bool)
        for flaw in flaws[ref]:
            is_hit |= (offset < np.uint64(flaw.end)) & (end > np.uint64(flaw.start))
        files = np.unique(file_of_run[candidates[is_hit & (pack == number)]])
        if len(files):
            found[ref] = files.tolist()
    return found


class _RelationNames:
    """Names for the files of a manifest; its relations are read when the first name is asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._names: dict[RelationKey, str] | None = None

    def describe(self, number: int) -> str:
        """The file's path, with the relation where it is known."""
        path = os.fsdecode(self._manifest.files.path(number))
        if not has_page_checksums(path):
            return path
        if self._names is None:
            self._names = _read_names(self._manifest.relations)
        name = self._names.get(relation_key(path))
        return f"{path} ({name})" if name else path


def _read_names(relations: Buffer) -> dict[RelationKey, str]:
    """As the manifest has them; a line that is none is passed over, since names are only for people."""
    names: dict[RelationKey, str] = {}
    for line in iter_lines(relations):
        try:
            database_oid, database, tablespace_oid, node, schema, name, _ = json.loads(line)
            names[int(tablespace_oid), int(database_oid), int(node)] = ".".join(filter(None, (database, schema, name)))
        except (ValueError, TypeError):
            continue
    return names
