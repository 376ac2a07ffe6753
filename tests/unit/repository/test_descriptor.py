"""The descriptor decides who may read and who may write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pghaven.errors import Damaged, NotFound, ObjectExists, Refused
from pghaven.repository.descriptor import FORMAT_VERSION, Descriptor, parse_descriptor, render_descriptor
from pghaven.repository.document import render_document
from pghaven.repository.repository import create_repository, open_repository
from pghaven.store.memory import MemoryStore
from tests.support.synthetic import SYSTEM_IDENTIFIER, make_lineage, make_repository, open_archive

DESCRIPTOR = Descriptor(repository_id="ab" * 16, created_at="2026-03-01T12:00:00.000000Z", created_by="pghaven tests")
NEXT = FORMAT_VERSION + 1


def store_with(descriptor: Descriptor, **more: Any) -> MemoryStore:
    store = MemoryStore()
    body = {**render_descriptor(descriptor), **more}
    store.create("pghaven.json", [render_document("pghaven.json", body)])
    return store


def test_a_descriptor_comes_back() -> None:
    assert parse_descriptor(render_descriptor(DESCRIPTOR)) == DESCRIPTOR
    assert open_repository(store_with(DESCRIPTOR)).id == DESCRIPTOR.repository_id


def test_a_newer_version_that_older_ones_may_read_is_read() -> None:
    newer = replace(DESCRIPTOR, version=NEXT + 5)
    assert open_repository(store_with(newer, colour="unknown here")).descriptor == newer


@pytest.mark.parametrize(
    "changed",
    [replace(DESCRIPTOR, min_reader=NEXT), replace(DESCRIPTOR, required_features=("chunked",))],
    ids=["min_reader", "feature"],
)
def test_what_this_version_cannot_read_is_refused(changed: Descriptor) -> None:
    with pytest.raises(Refused, match="cannot read"):
        open_repository(store_with(changed))


def test_a_repository_reserved_for_newer_writers_is_read_and_not_written() -> None:
    store = store_with(replace(DESCRIPTOR, version=NEXT, min_writer=NEXT))
    repository = open_repository(store)
    assert repository.list_clusters() == ()
    with pytest.raises(Refused, match="cannot write"):
        repository.register_lineage("shop", make_lineage(), new_lineage=False)
    with pytest.raises(Refused, match="cannot write"):
        open_archive(repository).put("000000010000000000000001", b"x", {})
    assert [info.name for info in store.list("")] == ["pghaven.json"]


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "another program's"},
        {"repository_id": None, "version": "one"},
        {"min_reader": None},
        {"required_features": 5},
    ],
    ids=str,
)
def test_what_is_no_descriptor_is_damage(changes: dict[str, Any]) -> None:
    with pytest.raises(Damaged, match=r'"pghaven.json" at memory: is damaged'):
        open_repository(store_with(DESCRIPTOR, **changes))


@pytest.mark.parametrize("missing", list(render_descriptor(DESCRIPTOR)))
def test_a_field_that_is_missing_is_damage_unless_nothing_hangs_on_it(missing: str) -> None:
    body = render_descriptor(DESCRIPTOR)
    del body[missing]
    if missing == "hash":
        assert parse_descriptor(body) == DESCRIPTOR
    else:
        with pytest.raises(Damaged):
            parse_descriptor(body)


def test_an_empty_store_is_no_repository() -> None:
    with pytest.raises(NotFound, match="no repository at memory:"):
        open_repository(MemoryStore())


def test_a_place_that_holds_other_things_is_not_made_a_repository() -> None:
    store = MemoryStore()
    store.create("holiday/photo.jpg", [b"x"])
    with pytest.raises(Refused, match="holiday/"):
        create_repository(store)


def test_making_a_repository_again_opens_it() -> None:
    store = MemoryStore()
    assert create_repository(store).id == create_repository(store).id


def test_two_repositories_are_told_apart() -> None:
    assert create_repository(MemoryStore()).id != create_repository(MemoryStore()).id


# -- lineages -----------------------------------------------------------------------------------------------------


def test_a_cluster_is_registered_once() -> None:
    repository = make_repository(MemoryStore())
    assert repository.list_lineages("shop") == (make_lineage(),)
    assert not repository.register_lineage("shop", make_lineage(), new_lineage=False)
    assert repository.list_clusters() == ("shop",)


def test_another_cluster_under_the_same_name_is_refused_and_both_are_named() -> None:
    repository = make_repository(MemoryStore())
    with pytest.raises(Refused) as caught:
        repository.register_lineage("shop", make_lineage(42), new_lineage=False)
    assert "42" in caught.value.message
    assert str(SYSTEM_IDENTIFIER) in caught.value.message
    assert repository.find_lineage("shop", 42) is None


def test_a_name_can_be_taken_over_on_purpose() -> None:
    repository = make_repository(MemoryStore())
    assert repository.register_lineage("shop", make_lineage(42), new_lineage=True)
    assert repository.require_lineage("shop", 42) == make_lineage(42)
    assert {one.system_identifier for one in repository.list_lineages("shop")} == {42, SYSTEM_IDENTIFIER}


def test_a_field_of_the_future_is_passed_over() -> None:
    repository = make_repository(MemoryStore())
    known = {"major": 17, "block_size": 8192, "segment_blocks": 131072, "wal_segment_size": 1 << 20}
    body = {**known, "system_identifier": "42", "registered_at": "2026-03-01T12:00:00.000000Z", "colour": "red"}
    repository.create_document("clusters/shop/lineages/42.json", body)
    assert repository.find_lineage("shop", 42) == make_lineage(42)


@pytest.mark.parametrize("changes", [{"system_identifier": "x"}, {"registered_at": "yesterday"}, {"registered_at": 5}])
def test_what_is_no_lineage_is_damage_and_named(changes: dict[str, Any]) -> None:
    repository = make_repository(MemoryStore())
    known = {"major": 17, "block_size": 8192, "segment_blocks": 131072, "wal_segment_size": 1 << 20}
    body = {**known, "system_identifier": "42", "registered_at": "2026-03-01T12:00:00.000000Z", **changes}
    repository.create_document("clusters/shop/lineages/42.json", body)
    with pytest.raises(Damaged, match=r"clusters/shop/lineages/42.json"):
        repository.list_lineages("shop")


def test_a_document_is_written_once_and_the_same_again_is_success() -> None:
    repository = make_repository(MemoryStore())
    repository.create_document("clusters/shop/x", {"a": 1})
    repository.create_document("clusters/shop/x", {"a": 1})
    with pytest.raises(ObjectExists):
        repository.create_document("clusters/shop/x", {"a": 2})
    assert repository.read_document("clusters/shop/x") == {"a": 1}
