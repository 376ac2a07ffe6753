"""The repository's descriptor ``pghaven.json``: what this is, which version of the format, who may read and write.

The one idea: it is written once and decides everything a reader must know before touching anything else. A reader
older than ``min_reader`` or facing an unknown required feature stops here.
"""

from __future__ import annotations

from typing import Any

from pghaven.errors import Damaged, Refused
from pghaven.light import dataclass

FORMAT_VERSION = 1
_FORMAT = "pghaven repository"
SEALED_FEATURE = "sealed"
_KNOWN_FEATURES = frozenset({SEALED_FEATURE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """``repository_id`` is 32 hex digits, random."""

    repository_id: str
    created_at: str
    created_by: str
    version: int = FORMAT_VERSION
    min_reader: int = FORMAT_VERSION
    min_writer: int = FORMAT_VERSION
    required_features: tuple[str, ...] = ()

    @property
    def is_sealed(self) -> bool:
        """Whether everything but this and the key sets is sealed."""
        return SEALED_FEATURE in self.required_features


def render_descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": descriptor.version,
        "min_reader": descriptor.min_reader,
        "min_writer": descriptor.min_writer,
        "required_features": list(descriptor.required_features),
        "repository_id": descriptor.repository_id,
        "created_at": descriptor.created_at,
        "created_by": descriptor.created_by,
        "hash": "blake3",
    }


def parse_descriptor(body: dict[str, Any]) -> Descriptor:
    """Raises Damaged when it is no descriptor, Refused when this program is too old for the repository."""
    try:
        if body["format"] != _FORMAT:
            raise Damaged(f'its format is "{body["format"]}"')
        descriptor = Descriptor(
            repository_id=str(body["repository_id"]),
            created_at=str(body["created_at"]),
            created_by=str(body["created_by"]),
            version=int(body["version"]),
            min_reader=int(body["min_reader"]),
            min_writer=int(body["min_writer"]),
            required_features=tuple(str(feature) for feature in body["required_features"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"it is not a repository's descriptor ({error!r})") from error
    unknown = set(descriptor.required_features) - _KNOWN_FEATURES
    if descriptor.min_reader > FORMAT_VERSION or unknown:
        needs = f"needs {', '.join(sorted(unknown))}" if unknown else f"has format version {descriptor.version}"
        raise Refused(
            f"the repository {needs}, which this pghaven cannot read",
            hint="Use the version of pghaven that wrote it, or a newer one.",
        )
    return descriptor
