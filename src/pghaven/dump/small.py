"""The small things that are asked of a stored dump.

The one idea: whoever only reads a dump waits for nothing to be imported of what takes one.
"""

from __future__ import annotations

import os

from pghaven.dump.earlier import EarlierReader, cut_out_file
from pghaven.errors import Damaged
from pghaven.repository.backups import BackupCatalog
from pghaven.repository.entry import BackupEntry
from pghaven.repository.manifest import Manifest


def list_dumped(entry: BackupEntry) -> tuple[str, ...]:
    """The databases of a committed dump; none where it has roles and tablespaces alone."""
    return tuple(entry.summary.get("dump", {}).get("databases", ()))


def read_small_file(catalog: BackupCatalog, manifest: Manifest, path: str) -> bytes:
    """The contents of one file of a manifest. Raises Damaged, ObjectMissing."""
    wanted = os.fsencode(path)
    for number in range(len(manifest.files.size)):
        if manifest.files.path(number) == wanted:
            file = cut_out_file(manifest, number)
            return EarlierReader(catalog.pack_place, manifest.packs).read(file, 0, file.size) if file.size else b""
    raise Damaged(f'there is no file "{path}" in "{manifest.facts.label}"')
