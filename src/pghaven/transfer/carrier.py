"""What a worker process of a copying does: read one object, prove all of it, store it in the other repository.

The one idea: a job is a whole object. What can be said about one object (it is gone, it is damaged) is a result, for
the copying to judge; what concerns a whole repository is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pghaven.errors import Damaged, ObjectExists, ObjectMissing
from pghaven.repository import layout
from pghaven.repository.container import Container, Kind
from pghaven.repository.large import LARGE_BYTES
from pghaven.repository.pack import PackPlace, PackRef, store_pack
from pghaven.repository.recast import Binding, recast, recast_file
from pghaven.repository.repository import Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierSettings:
    """Two repositories, and the ``label`` in the target that packs are stored under."""

    source: Repository
    target: Repository
    cluster: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackJob:
    pack: PackRef


@dataclass(frozen=True, slots=True, kw_only=True)
class WalJob:
    """A file of the archive; ``size_bytes`` as it is stored."""

    system_identifier: int
    file_name: str
    size_bytes: int


class Carried(StrEnum):
    STORED = "stored"
    PRESENT = "present"
    GONE = "gone"
    DAMAGED = "damaged"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class CarryResult:
    """``pack`` is what a pack has become in the target; ``reason`` says why there is none, or no file."""

    job: PackJob | WalJob
    outcome: Carried
    pack: PackRef | None = None
    stored_bytes: int = 0
    reason: str | None = None


class Carrier:
    """One per worker process. Memory: an object as it is stored, twice."""

    def __init__(self, settings: CarrierSettings) -> None:
        self._settings = settings
        self._from = _place_of(settings.source, settings.cluster)
        self._to = _place_of(settings.target, settings.cluster)

    def __call__(self, job: PackJob | WalJob) -> CarryResult:
        try:
            return self._carry_pack(job) if isinstance(job, PackJob) else self._carry_file(job)
        except ObjectMissing as error:
            return CarryResult(job=job, outcome=Carried.GONE, reason=error.message)
        except Damaged as error:
            return CarryResult(job=job, outcome=Carried.DAMAGED, reason=error.message)

    def close(self) -> None:
        """Nothing is kept open."""

    def _carry_pack(self, job: PackJob) -> CarryResult:
        ref, here = job.pack, self._from
        name = here.name(ref.label, ref.id)
        data = here.store.read(name)
        target = Binding(context=self._to.context(self._settings.label), keyring=self._to.keyring)
        try:
            container = Container(data, kind=Kind.PACK, context=here.context(ref.label), keyring=here.keyring)
            is_it = container.index.hash == ref.id and container.index.plain_length == ref.plain_length
            if not is_it or container.size_bytes != ref.size_bytes:
                raise Damaged("its contents belong to another pack")  # noqa: TRY301
            finished = recast(container, Kind.PACK, target)
        except Damaged as error:
            raise Damaged(f'pack "{name}" is damaged: {error.message}') from error
        stored = store_pack(self._to, self._settings.label, finished)
        return CarryResult(job=job, outcome=Carried.STORED, pack=stored, stored_bytes=stored.size_bytes)

    def _carry_file(self, job: WalJob) -> CarryResult:
        source, target = self._settings.source, self._settings.target
        name = layout.wal_object_name(self._settings.cluster, job.system_identifier, job.file_name)
        binding = Binding(context=target.context(name).encode(), keyring=target.keyring)
        container = source.read_container(name, Kind.WAL, may_be_large=job.size_bytes > LARGE_BYTES)
        try:
            finished = recast_file(container, job.file_name, binding)
        except Damaged as error:
            raise Damaged(f'"{name}" is damaged: {error.message}') from error
        try:
            target.create_container(name, finished)
        except ObjectExists:
            if target.load_index(name, Kind.WAL).meta.get("hash") != container.meta["hash"]:
                return CarryResult(job=job, outcome=Carried.CONFLICT, reason=describe_conflict(job.file_name))
            target.store.confirm(name)
            return CarryResult(job=job, outcome=Carried.PRESENT)
        return CarryResult(job=job, outcome=Carried.STORED, stored_bytes=finished.size_bytes)


def describe_conflict(file_name: str) -> str:
    return f'"{file_name}" is in both archives with different contents'


def _place_of(repository: Repository, cluster: str) -> PackPlace:
    return PackPlace(store=repository.store, repository_id=repository.id, cluster=cluster, keyring=repository.keyring)


def open_carrier(settings: CarrierSettings) -> Carrier:
    """What a crew calls once in each worker process."""
    return Carrier(settings)
