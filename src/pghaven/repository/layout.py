"""The names of all objects in a repository: the authority on where everything lies.

The one idea: no two names differ only in case, none depends on a clock for its meaning, and every cluster's objects
share one prefix. WAL lies under its cluster's system identifier, because a cluster that was upgraded with pg_upgrade
starts again at timeline 1 and would reuse names.
"""

from __future__ import annotations

import os
import re
from datetime import datetime

from pghaven.errors import Damaged, UsageError
from pghaven.light import pattern

DESCRIPTOR = "pghaven.json"
PROBE = "probe"
RESERVE_PREFIX = "reserve/"
KEYS_PREFIX = "keys/"
CLUSTERS_PREFIX = "clusters/"
_CLUSTER_NAME = pattern(r"[a-z0-9][a-z0-9_-]{0,62}")
MADE_LABEL = pattern(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4}")
"""What ``make_label`` makes."""
_LABEL = pattern(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
TIMELINE_FOLDER = pattern(r"(?!0{8})[0-9A-F]{8}/")
_PACK = pattern(rf"({_LABEL.pattern})/([0-9a-f]{{64}})")


def check_cluster_name(name: str) -> str:
    """The name itself, or UsageError saying what names look like."""
    if not _CLUSTER_NAME.fullmatch(name):
        raise UsageError(
            f'"{name}" cannot be the name of a cluster',
            hint="Use 1 to 63 lower-case letters, digits, hyphens and underscores, beginning with a letter or digit.",
        )
    return name


def make_label(moment: datetime) -> str:
    """A new label for what begins at this moment. Labels are sorted as text, and what is taken for the newest is the
    last. So the first of the digits at its end tells the sixteenth of its second; the others are random."""
    return f"{moment:%Y%m%dT%H%M%SZ}-{moment.microsecond * 16 // 1_000_000:x}{os.urandom(2).hex()[1:]}"


def check_label(label: object) -> str:
    """The label itself. Raises Damaged: labels that can be no part of a name come from a forged or damaged object."""
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise Damaged(f"{label!r} cannot be the label of a backup")
    return label


def key_set_name(number: int) -> str:
    """A sealed repository's keys; the highest number is in force."""
    return f"{KEYS_PREFIX}{number:08d}"


def key_set_copy_name(number: int) -> str:
    """The same bytes once more."""
    return f"{KEYS_PREFIX}{number:08d}.copy"


def cluster_prefix(cluster: str) -> str:
    return f"clusters/{cluster}/"


def lineage_name(cluster: str, system_identifier: int) -> str:
    return f"clusters/{cluster}/lineages/{system_identifier}.json"


def lineages_prefix(cluster: str) -> str:
    return f"clusters/{cluster}/lineages/"


def packs_prefix(cluster: str, label: str | None = None) -> str:
    """Where all packs lie, or those that one backup or compaction wrote."""
    return f"clusters/{cluster}/packs/" + (f"{label}/" if label is not None else "")


def pack_name(cluster: str, label: str, pack_id: bytes) -> str:
    return f"clusters/{cluster}/packs/{label}/{pack_id.hex()}"


def parse_pack_name(rest: str) -> tuple[str, bytes] | None:
    """The label and the id of a pack from what its name has below ``packs_prefix``; None for what is no pack's."""
    match = _PACK.fullmatch(rest)
    return None if match is None else (match[1], bytes.fromhex(match[2]))


def backups_prefix(cluster: str) -> str:
    return f"clusters/{cluster}/backups/"


def backup_object_name(cluster: str, label: str, part: str) -> str:
    """``part`` is intent, manifest or decision, or a kind and a number: see ``docs/design/removal.md``."""
    return f"clusters/{cluster}/backups/{label}/{part}"


def wal_prefix(cluster: str, system_identifier: int) -> str:
    return f"clusters/{cluster}/wal/{system_identifier}/"


def wal_timeline_prefix(cluster: str, system_identifier: int, timeline_hex8: str) -> str:
    return f"clusters/{cluster}/wal/{system_identifier}/{timeline_hex8}/"


def wal_object_name(cluster: str, system_identifier: int, file_name: str) -> str:
    """Where a file that PostgreSQL archives lies.

    Segments and what belongs to one (``.partial``, ``.backup``) are spread over one folder for each 4 GiB of WAL,
    so that no folder grows without bound; history files lie beside those folders.
    """
    prefix = wal_prefix(cluster, system_identifier)
    if re.match(r"[0-9A-F]{24}", file_name):
        return f"{prefix}{file_name[:8]}/{file_name[8:16]}/{file_name}"
    if re.match(r"[0-9A-F]{8}\.history$", file_name):
        return f"{prefix}{file_name[:8]}/{file_name}"
    return f"{prefix}other/{file_name}"


def partials_prefix(cluster: str, system_identifier: int) -> str:
    """Where pieces of unfinished segments lie, as ``T/F/R-B-E``: see ``partials``."""
    return f"clusters/{cluster}/partials/{system_identifier}/"


def collections_prefix(cluster: str) -> str:
    return f"clusters/{cluster}/collections/"


def collection_object_name(cluster: str, number: int, part: str) -> str:
    """``part`` is intent, decision, or alive and a number: see ``docs/design/removal.md``."""
    return f"{collections_prefix(cluster)}{number:08d}/{part}"


def horizons_prefix(cluster: str, system_identifier: int) -> str:
    return f"clusters/{cluster}/horizons/{system_identifier}/"


def horizon_name(cluster: str, system_identifier: int, number: int) -> str:
    """Where a collector tells before which positions it removes WAL; the highest number is in force."""
    return f"{horizons_prefix(cluster, system_identifier)}{number:08d}"


def quarantine_name(cluster: str, system_identifier: int, file_name: str, plain_hash: str) -> str:
    """Where WAL goes that its timeline's own history has left behind; the hash keeps rivals apart."""
    return f"clusters/{cluster}/quarantine/{system_identifier}/{file_name}-{plain_hash[:16]}"


def quarantine_prefix(cluster: str) -> str:
    return f"clusters/{cluster}/quarantine/"


def incidents_prefix(cluster: str, system_identifier: int) -> str:
    return f"clusters/{cluster}/incidents/{system_identifier}/"


def incident_name(cluster: str, system_identifier: int, what: str) -> str:
    """``what`` follows from what happened, so that whoever sees the same thing again writes the same name."""
    return f"{incidents_prefix(cluster, system_identifier)}{what}"


def audits_prefix(cluster: str, system_identifier: int) -> str:
    return f"clusters/{cluster}/audits/{system_identifier}/"


def audit_name(cluster: str, system_identifier: int, stamp: str) -> str:
    """``stamp`` is when the state was written, as in a backup's label."""
    return f"{audits_prefix(cluster, system_identifier)}{stamp}"


def markers_prefix(cluster: str, system_identifier: int) -> str:
    return f"clusters/{cluster}/markers/{system_identifier}/"


def marker_name(cluster: str, system_identifier: int, stamp: str) -> str:
    """``stamp`` is when it was written, as in a backup's label."""
    return f"{markers_prefix(cluster, system_identifier)}{stamp}"


def outlines_prefix(cluster: str) -> str:
    return f"clusters/{cluster}/outlines/"


def evidence_prefix(cluster: str) -> str:
    return f"clusters/{cluster}/evidence/"


def evidence_name(cluster: str, stamp: str) -> str:
    """``stamp`` is when it was found, as in a backup's label; a drill's ends in ``-drill``."""
    return f"clusters/{cluster}/evidence/{stamp}"


def kept_snapshots_prefix(cluster: str) -> str:
    return f"{cluster_prefix(cluster)}snapshots/"


def kept_snapshot_name(cluster: str, label: str) -> str:
    """What is known of file-system snapshots that are kept on the cluster's host."""
    return f"{kept_snapshots_prefix(cluster)}{check_label(label)}"
